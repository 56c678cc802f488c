"""Every kind of picture people send becomes upright RGB, or a refusal with the right word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linker.config import LimitSettings
from linker.pictures import PAPER, Unusable, cut_square, read_picture

LIMITS = LimitSettings()


def ramp(height: int = 80, width: int = 120) -> np.ndarray:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:height, :width]
    red, green = columns * 255 / (width - 1), rows * 255 / (height - 1)
    return np.stack([red, green, np.full((height, width), 60)], -1).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff", "gif"])
def test_known_formats(tmp_path: Path, suffix: str) -> None:
    pixels = read_picture(save(tmp_path / f"a.{suffix}", Image.fromarray(ramp())), LIMITS)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (80, 120, 3)
    assert np.abs(pixels.astype(int) - ramp()).mean() < 12  # the palette of GIF and JPEG's chroma are coarse


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    back = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.transpose(1, 0, 2)]
    back += [np.rot90, lambda a: np.rot90(a, 2).transpose(1, 0, 2), lambda a: np.rot90(a, 3)]
    stored = Image.fromarray(np.ascontiguousarray(back[orientation - 1](ramp())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_picture(save(tmp_path / "a.png", stored, exif=exif), LIMITS)
    assert np.array_equal(pixels, ramp())


def test_transparency_lies_over_grey(tmp_path: Path) -> None:
    layer = Image.fromarray(ramp()).convert("RGBA")
    layer.putalpha(Image.fromarray(np.where(np.arange(120) < 60, 0, 255).astype(np.uint8)[None].repeat(80, 0)))
    pixels = read_picture(save(tmp_path / "a.png", layer), LIMITS)
    assert (pixels[:, :60] == PAPER).all()
    assert np.array_equal(pixels[:, 60:], ramp()[:, 60:])


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((80, 80), np.uint8)).convert("P")
    pixels = read_picture(save(tmp_path / "a.gif", image, transparency=int(np.asarray(image)[0, 0])), LIMITS)
    assert (pixels == PAPER).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(ramp()).convert("L")
    path = tmp_path / ("a.tiff" if mode in ("CMYK", "YCbCr") else "a.png")
    pixels = read_picture(save(path, grey.convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode)), LIMITS)
    assert pixels.shape == (80, 120, 3)
    assert np.abs(pixels.mean() - np.asarray(grey).mean()) < 8


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = (np.arange(80 * 80).reshape(80, 80) * 10).astype(np.uint16)
    pixels = read_picture(save(tmp_path / "a.png", Image.fromarray(deep)), LIMITS)
    assert np.array_equal(pixels[..., 0], deep // 257)


def refusal(path: Path, **limits: float) -> str:
    with pytest.raises(Unusable) as caught:
        read_picture(path, LimitSettings(**limits))
    return caught.value.kind


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture\n")
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    good = save(tmp_path / "good.png", Image.fromarray(noise))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:50_000])
    save(tmp_path / "small.png", Image.fromarray(ramp(30, 200)))
    assert refusal(tmp_path / "none.png") == "missing"
    assert refusal(tmp_path) == "missing"
    assert {refusal(tmp_path / f"{name}.png") for name in ("text", "empty", "cut")} == {"not_an_image"}
    assert refusal(tmp_path / "small.png") == "too_small"
    assert refusal(good, max_image_mb=1) == "too_large"
    assert {refusal(good, max_image_megapixels=limit) for limit in (0.5, 0.1)} == {"too_large"}


def test_vector_and_document_formats_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n")
    assert refusal(tmp_path / "a.png") == "not_an_image"


def test_square_inside_is_the_picture_itself() -> None:
    assert np.array_equal(cut_square(ramp(), (10, 20, 50, 60), 40), ramp()[20:60, 10:50])


def test_square_beyond_repeats_the_edge() -> None:
    picture = ramp()
    square = cut_square(picture, (-20, -30, 140, 130), 160)
    assert np.array_equal(square[30:110, 20:140], picture)
    assert (square[:30, 20:140] == picture[0]).all()
    assert (square[30:110, :20] == picture[:, :1]).all()
    assert (cut_square(picture, (200, 10, 210, 20), 10) == picture[10:20, -1:]).all()
