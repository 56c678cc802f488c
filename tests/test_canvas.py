"""Padding and labels: the picture whole and in the middle, the aspect kept, nothing moving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.canvas import Canvas, draw_label, frame_size, make_canvas
from linker.compose import place
from linker.config import FinishSettings
from linker.errors import EnvironmentError
from linker.shards import video_names

ASPECTS = ["as_is", "16x9", "9x16", "1x1", "4x5"]


@settings(max_examples=60, deadline=None)
@given(st.integers(200, 3000), st.integers(200, 3000), st.sampled_from(ASPECTS), st.sampled_from([None, 640, 1920]))
def test_the_frame_has_the_aspect_and_holds_the_picture(width: int, height: int, aspect: str, side: int | None) -> None:
    wanted = FinishSettings(aspect=aspect, side_px=side, max_side_px=1920)  # type: ignore[arg-type]
    box = [width // 4, height // 4, width // 4 + min(width, height) // 2, height // 4 + min(width, height) // 2]
    placement = place({"box_px": box, "source_size_px": [width, height]}, wanted)
    frame = frame_size(placement, wanted)
    assert frame[0] >= placement.width
    assert frame[1] >= placement.height
    assert max(frame) <= 1920
    assert frame[0] % 2 == frame[1] % 2 == 0
    if aspect != "as_is":
        across, down = map(int, aspect.split("x"))
        assert abs(frame[0] * down - frame[1] * across) <= 4 * max(across, down)
    if side:
        assert max(frame) in (side, side - 2)


def test_the_picture_is_in_the_middle_and_untouched() -> None:
    wanted = FinishSettings(aspect="16x9", max_side_px=640, fill="black")
    placement = place({"box_px": [40, 40, 160, 160], "source_size_px": [200, 200]}, wanted)
    still = np.random.default_rng(0).integers(1, 256, (placement.height, placement.width, 3), dtype=np.uint8)
    frame = make_canvas(still, placement, wanted).lay(still)
    left = (frame.shape[1] - placement.width) // 2
    assert np.array_equal(frame[: placement.height, left : left + placement.width], still)
    assert not frame[:, : left - 1].any()


def test_slivers_continue_the_picture() -> None:
    wanted = FinishSettings(aspect="1x1", side_px=400)
    placement = place({"box_px": [11, 21, 211, 221], "source_size_px": [333, 333]}, wanted)
    still = np.full((placement.height, placement.width, 3), 200, np.uint8)
    assert (make_canvas(still, placement, wanted).lay(still) == 200).all()


def test_a_label_is_in_the_corner_and_large_enough() -> None:
    wanted = FinishSettings(label="AI-generated")
    placement = place({"box_px": [40, 40, 360, 360], "source_size_px": [400, 400]}, wanted)
    still = np.full((placement.height, placement.width, 3), 90, np.uint8)
    changed = (make_canvas(still, placement, wanted).lay(still) != 90).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert columns.min() > 200
    assert rows.max() < 60
    assert rows.max() - rows.min() >= 0.05 * 400


def test_a_font_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_text("no font")
    with pytest.raises(EnvironmentError, match="label_font"):
        draw_label("AI", str(tmp_path / "a.ttf"), (400, 400))


@pytest.mark.parametrize("size", [(226, 400), (400, 226), (128, 128), (1080, 1920)])
@pytest.mark.parametrize("text", ["AI", "This video shows a person who never said this: AI-generated", "W" * 60])
def test_a_label_fits_whole(size: tuple[int, int], text: str) -> None:
    label = draw_label(text, "", size)
    letters = max(round(min(size) * 0.05), 8)
    assert label.shape[1] <= size[0] - letters // 2 * 2
    assert letters < label.shape[0] < size[1] // 2
    ink = label[..., 0] > 128
    assert not ink[[0, -1]].any()
    assert not ink[:, [0, -1]].any()
    Canvas(np.zeros((size[1], size[0], 3), np.uint8), label).lay(np.zeros((size[1], size[0], 3), np.uint8))


def test_a_font_without_the_letters_is_named() -> None:
    with pytest.raises(
        EnvironmentError, match=r"finish\.label: the built-in font has no 生 成; set finish\.label_font"
    ):
        draw_label("AI 生成", "", (400, 400))
    draw_label('Made by AI: 100 % (v2) - "not real"', "", (400, 400))


def test_names_by_template(write_manifest) -> None:  # type: ignore[no-untyped-def]
    from linker.config import GenerateSettings
    from linker.errors import SettingsError
    from linker.manifest import read_manifest

    rows = read_manifest(write_manifest("clip,portrait,audio,language\na,p.png,a.wav,pt-BR\nb,p.png,a.wav,\n")).rows
    named = video_names(rows, GenerateSettings(), FinishSettings(name="{clip}_{language}.{aspect}.{fps}"))
    assert named == {"a": "a_pt-br.as-is.25.mp4", "b": "b_und.as-is.25.mp4"}
    with pytest.raises(SettingsError, match=r"a and b both become p\.mp4"):
        video_names(rows, GenerateSettings(), FinishSettings(name="{portrait}"))
    with pytest.raises(SettingsError, match="needed a-z"):
        video_names(rows, GenerateSettings(), FinishSettings(name=".{clip}"))
