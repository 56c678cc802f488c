"""The one way a portrait becomes pixels: its crop, its masks and its deliverable all speak of the same picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from linker.config import LimitSettings

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")

Image.MAX_IMAGE_PIXELS = None  # read_portrait holds a file to the settings' limit before it decodes a single pixel


class BadPicture(ValueError):
    """A portrait that cannot be used; `kind` is missing, too_large, not_an_image or too_small."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def read_portrait(path: Path, limits: LimitSettings) -> np.ndarray:
    """The picture upright as uint8 sRGB (H,W,3), transparency laid on white. Raises BadPicture."""
    _check_file(path, limits)
    try:
        with Image.open(path, formats=FORMATS) as picture:
            _check_size(path, picture.size, limits)
            return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(picture)))
    except UnidentifiedImageError:
        raise BadPicture("not_an_image", f"{path.name} is not a picture; give a JPEG, PNG, WebP or TIFF") from None
    except (OSError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        raise BadPicture("not_an_image", f"{path.name} cannot be decoded ({error}); save it again") from None


def _check_file(path: Path, limits: LimitSettings) -> None:
    if not path.is_file():
        raise BadPicture("missing", f"{path} does not exist or is not a file")
    megabytes = path.stat().st_size / 1e6
    if megabytes == 0:
        raise BadPicture("not_an_image", f"{path.name} is empty")
    if megabytes > limits.max_image_mb:
        raise BadPicture("too_large", f"{path.name} has {megabytes:.0f} MB, the limit is {limits.max_image_mb:g} MB")


def _check_size(path: Path, size_px: tuple[int, int], limits: LimitSettings) -> None:
    width, height = size_px
    megapixels = width * height / 1e6
    if megapixels > limits.max_image_megapixels:
        limit = f"the limit is {limits.max_image_megapixels:g} megapixels"
        raise BadPicture("too_large", f"{path.name} is {width} x {height} pixels, {limit}")
    if min(width, height) < limits.min_image_px:
        needed = f"each side needs {limits.min_image_px}"
        raise BadPicture("too_small", f"{path.name} is {width} x {height} pixels, {needed}")


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode == "F":
        raise BadPicture("not_an_image", "a floating point picture has no agreed white; save it with 8 or 16 bits")
    if picture.mode in SIXTEEN_BIT:  # Pillow's own conversion would clip these to white
        grey = np.clip(np.asarray(picture).astype(np.int64) / 257 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        clear = _to_srgb(picture.convert("RGBA"), "RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return np.asarray(picture.convert("RGB"))
    return np.asarray(_to_srgb(picture, "RGB"))


def _to_srgb(picture: Image.Image, mode: str) -> Image.Image:
    """To `mode`, through the embedded profile where there is a sound one (a CMYK scan is far off without it)."""
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "RGBA", "CMYK", "L", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode=mode)
        except (ImageCms.PyCMSError, OSError):
            return picture.convert(mode)  # a damaged profile says nothing about colour
        return converted or picture.convert(mode)
    return picture.convert(mode)
