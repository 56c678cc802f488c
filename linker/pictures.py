"""Opens what people call a picture, once and the same way for everybody: upright 8-bit RGB, or a plain reason why not.

Cropping a portrait and pasting its video back must agree on orientation, colour and transparency to the pixel.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from linker.config import LimitSettings

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # JPEG includes the MPO of telephones
PAPER = (128, 128, 128)  # what shows through transparent pixels
KNOWN = "use PNG, JPEG, WebP, BMP, TIFF or GIF"


class Unusable(ValueError):
    """A portrait that cannot be used; `kind` is the refusal's word, `str()` its reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def read_picture(path: Path, limits: LimitSettings) -> np.ndarray:
    """Pixels, uint8 (H, W, 3) sRGB: EXIF rotation applied, transparency over neutral grey, first frame of several.

    Raises Unusable: missing, too_large (bytes or pixels, before decoding), not_an_image, too_small.
    """
    _check_file(path, limits)
    picture = _open(path, limits)
    _check_size(picture, limits)
    try:
        return np.asarray(_flatten(ImageOps.exif_transpose(picture)))
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = f"{path.name}: the {picture.format} data is broken or cut off ({error}); save the picture again"
        raise Unusable("not_an_image", reason) from None


def cut_square(picture: np.ndarray, box: tuple[int, int, int, int], side_px: int) -> np.ndarray:
    """The square `box` (x0, y0, x1, y1; may reach beyond the picture, whose edge is repeated) as uint8
    (side_px, side_px, 3), resized with antialiasing."""
    (x0, y0, x1, y1), (height, width) = box, picture.shape[:2]
    left, top = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    right, bottom = min(max(x1, left + 1), width), min(max(y1, top + 1), height)
    beyond = ((top - y0, y1 - bottom), (left - x0, x1 - right), (0, 0))
    square = picture[top:bottom, left:right]
    if any(sum(pair) for pair in beyond):
        square = _repeat_edge(square, beyond)
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3.0))


def _repeat_edge(square: np.ndarray, beyond: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Pad (negative: cut) each side by `beyond` pixels with copies of the edge; a box wholly outside sees one edge."""
    index = []
    for size, (before, after) in zip(square.shape[:2], beyond[:2], strict=True):
        index.append(np.clip(np.arange(-before, size + after), 0, size - 1))
    return square[index[0]][:, index[1]]


def _check_file(path: Path, limits: LimitSettings) -> None:
    if not path.is_file():
        raise Unusable("missing", f"{path}: no such file")
    megabytes = path.stat().st_size / 1e6
    if megabytes == 0:
        raise Unusable("not_an_image", f"{path.name}: the file is empty")
    if megabytes > limits.max_image_mb:
        raise Unusable("too_large", f"{path.name}: {megabytes:.0f} MB, at most {limits.max_image_mb:g} are accepted")


def _open(path: Path, limits: LimitSettings) -> Image.Image:
    Image.MAX_IMAGE_PIXELS = int(limits.max_image_megapixels * 1e6)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # up to twice the limit Pillow only warns; _check_size refuses
            return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise Unusable("too_large", _too_many_pixels(path.name, limits)) from None
    except (OSError, SyntaxError, ValueError, EOFError):
        raise Unusable("not_an_image", f"{path.name}: not a picture in a known format; {KNOWN}") from None


def _check_size(picture: Image.Image, limits: LimitSettings) -> None:
    width, height = picture.size
    name = Path(str(getattr(picture, "filename", "picture"))).name
    if width * height > limits.max_image_megapixels * 1e6:
        raise Unusable("too_large", f"{_too_many_pixels(name, limits)}; found {width} x {height}")
    if min(width, height) < limits.min_image_px:
        least = limits.min_image_px
        raise Unusable("too_small", f"{name}: {width} x {height} pixels, at least {least} on each side are needed")


def _too_many_pixels(name: str, limits: LimitSettings) -> str:
    return f"{name}: more than {limits.max_image_megapixels:g} megapixels"


def _flatten(picture: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels; save 8 or 16 bits a channel")
    if picture.mode.startswith("I"):
        return _from_16_bit(picture)
    picture = _to_srgb(picture)
    if "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*PAPER, 255)), layer).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """16-bit greyscale to RGB; Pillow's own conversion would clip at 255."""
    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8)).convert("RGB")


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Apply an embedded colour profile (telephones' Display P3, print CMYK); a broken one is ignored as viewers do."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "CMYK", "RGBA"):
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, source, target, outputMode=mode) or picture
    except (ImageCms.PyCMSError, OSError):
        return picture
