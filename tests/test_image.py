"""read_portrait: every kind of picture file becomes the same upright 8-bit RGB, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from linker.config import LimitSettings
from linker.image import BadPicture, read_portrait

LIMITS = LimitSettings()


def gradient(height: int = 80, width: int = 120) -> np.ndarray:
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([across * 2, down * 3, np.full_like(down, 90)], axis=-1).clip(0, 255).astype(np.uint8)


STORED = {1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: p.swapaxes(0, 1),
          6: np.rot90, 7: lambda p: np.rot90(p.swapaxes(0, 1), 2), 8: lambda p: np.rot90(p, 3)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    stored = STORED[orientation](gradient())
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.png", exif=exif)
    assert np.array_equal(read_portrait(tmp_path / "p.png", LIMITS), gradient())


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = np.dstack([gradient(), np.zeros((80, 120), np.uint8)])
    clear[:, :60, 3] = 255
    Image.fromarray(clear).save(tmp_path / "p.png")
    picture = read_portrait(tmp_path / "p.png", LIMITS)
    assert np.array_equal(picture[:, :60], gradient()[:, :60])
    assert (picture[:, 60:] == 255).all()


def test_sixteen_bit_grey_keeps_its_greys(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 120).astype(np.uint16), (80, 1))
    for name in ("p.png", "p.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        picture = read_portrait(tmp_path / name, LIMITS)
        assert picture.shape == (80, 120, 3)
        assert np.abs(picture[0, :, 0] - ramp[0] / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "YCbCr", "LAB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(gradient()).convert("L" if mode == "LAB" else mode).save(tmp_path / "p.tif")
    picture = read_portrait(tmp_path / "p.tif", LIMITS)
    assert picture.shape == (80, 120, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10


def test_embedded_profile_is_applied_and_a_damaged_one_ignored(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, icc in (("good", profile), ("damaged", b"no profile")):
        Image.fromarray(gradient()).save(tmp_path / f"{name}.png", icc_profile=icc)
        difference = read_portrait(tmp_path / f"{name}.png", LIMITS).astype(int) - gradient()
        assert np.abs(difference).max() <= 2


def test_refusals_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(gradient()).save(tmp_path / "whole.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(tmp_path / "big.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "big.png").read_bytes()[:5000])
    Image.new("RGB", (40, 300)).save(tmp_path / "small.png")
    small = LimitSettings(max_image_megapixels=0.05)
    light = LimitSettings(max_image_mb=0.1)
    cases = [("gone.png", LIMITS, "missing"), (".", LIMITS, "missing"), ("text.jpg", LIMITS, "not_an_image"),
             ("empty.png", LIMITS, "not_an_image"), ("cut.png", LIMITS, "not_an_image"),
             ("small.png", LIMITS, "too_small"), ("big.png", small, "too_large"), ("big.png", light, "too_large")]
    for name, limits, kind in cases:
        with pytest.raises(BadPicture) as caught:
            read_portrait(tmp_path / name, limits)
        assert caught.value.kind == kind
        assert "\n" not in str(caught.value), name
