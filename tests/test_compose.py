"""Geometry, weights and colour of the paste-back: what holds for every portrait and every crop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from linker import compose
from linker.config import FinishSettings


@st.composite
def crops(draw: st.DrawFn) -> dict[str, list[int]]:
    width, height = draw(st.integers(64, 5000)), draw(st.integers(64, 5000))
    side = draw(st.integers(40, 2 * min(width, height)))
    left, top = draw(st.integers(-side // 2, width - side // 2)), draw(st.integers(-side // 2, height - side // 2))
    return {"box_px": [left, top, left + side, top + side], "source_size_px": [width, height]}


@given(crops(), st.integers(128, 2000), st.sampled_from(["portrait", "crop"]))
@settings(max_examples=300, deadline=None)
def test_placement(crop: dict[str, list[int]], max_side_px: int, layout: str) -> None:
    placement = compose.place(crop, FinishSettings(layout=layout, max_side_px=max_side_px))
    assume(min(placement.crop_px, placement.width, placement.height) > 2)  # a ribbon of under two pixels
    width, height = crop["source_size_px"]
    x0, y0, x1, _ = crop["box_px"]
    assert placement.width % 2 == placement.height % 2 == placement.crop_px % 2 == 0
    assert max(placement.width, placement.height) <= max_side_px
    assert placement.crop_px <= x1 - x0
    left, top, right, bottom = placement.source_box
    if layout == "crop":
        assert (placement.width, placement.height) == (placement.crop_px, placement.crop_px)
        return
    scale = placement.crop_px / (x1 - x0)
    assert (x0 - left) * scale == pytest.approx(placement.crop_x)  # the crop falls on whole pixels of the canvas
    assert (y0 - top) * scale == pytest.approx(placement.crop_y)
    assert -1e-6 <= left <= right <= width + 1e-6
    assert -1e-6 <= top <= bottom <= height + 1e-6
    trimmed = max(width - (right - left), height - (bottom - top)) * scale
    assert trimmed < 3.1


def test_a_portrait_within_the_limit_keeps_its_pixels() -> None:
    portrait = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    placement = compose.place({"box_px": [31, 41, 131, 141], "source_size_px": [200, 300]}, FinishSettings())
    assert np.array_equal(compose.draw_still(portrait, placement), portrait)
    assert (placement.crop_x, placement.crop_y, placement.crop_px) == (31, 41, 100)


def test_crop_beyond_the_picture_shows_only_its_inside() -> None:
    portrait = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    placement = compose.place({"box_px": [-20, 30, 100, 150], "source_size_px": [100, 100]}, FinishSettings())
    still = compose.crop_of(compose.draw_still(portrait, placement), placement)
    _, _, crop_rows, crop_columns = placement.shown
    assert still.shape == (120, 120, 3)
    assert np.array_equal(still[crop_rows, crop_columns], portrait[30:100])
    assert np.array_equal(still[0, :20], np.repeat(portrait[30, :1], 20, axis=0))
    weight = compose.edge_weight(placement, 0.1)
    assert weight[60, 60] == 1
    assert weight[60, 20] == 1  # the picture's own left border: nothing to melt into
    assert weight[0, 60] < 0.1


def ellipse(side: int = 512, half: float = 0.25) -> np.ndarray:
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
    return (rows**2 + columns**2 < half**2).astype(np.float32)


def test_head_weight_is_whole_on_the_head_and_nothing_beyond_the_feather() -> None:
    weight = compose.head_weight(ellipse(), 200, 0.05, 0.1)
    assert (weight[ellipse(200, 0.29) > 0] > 0.99).all()
    assert (weight[ellipse(200, 0.42) == 0] == 0).all()
    assert np.abs(np.diff(weight, axis=1)).max() < 0.15  # no hard border


def test_no_head_gives_no_weight() -> None:
    assert not compose.head_weight(np.zeros((512, 512), np.float32), 64, 0.05, 0.1).any()


def test_follow_reaches_a_moved_thing_and_lets_go_slowly() -> None:
    still = np.full((96, 96, 3), 120, np.uint8)
    moved = still.copy()
    moved[40:50, 70:80] = 220
    core, reach = np.zeros((96, 96), np.float32), np.ones((96, 96), np.float32)
    weights = [weight for _, weight in compose.follow([still, moved, still, still], still, core, reach)]
    assert not weights[0].any()
    assert weights[1][45, 75] > 0.9
    assert weights[1][45, 75] > weights[2][45, 75] > weights[3][45, 75] > 0.5
    assert weights[1][10, 10] < 0.01
    near = [weight for _, weight in compose.follow([moved], still, core, core)]
    assert not near[0].any()  # out of reach


@given(st.integers(0, 255), st.integers(0, 255), st.floats(0, 1))
def test_blend_is_exact_at_its_ends_and_between(over: int, under: int, weight: float) -> None:
    pictures = [np.full((2, 2, 3), value, np.uint8) for value in (over, under)]
    result = compose.blend(*pictures, np.full((2, 2), weight, np.float32))
    assert abs(float(result[0, 0, 0]) - (over * weight + under * (1 - weight))) <= 0.51
    assert (compose.blend(*pictures, np.zeros((2, 2))) == under).all()
    assert (compose.blend(*pictures, np.ones((2, 2))) == over).all()


def test_colour_is_brought_back_slowly() -> None:
    wanted = np.array([[100, 110, 120], [30, 30, 30]], np.float32)
    drift = np.linspace(0, 20, 1000)[:, None, None] * np.array([[1], [0]])
    flicker = np.random.default_rng(0).normal(0, 3, (1000, 1, 1)) * np.array([[1], [0]])
    measured = (wanted + drift + flicker).astype(np.float32)
    corrections = compose.match_colour(measured, wanted, 200)
    offsets = corrections[:, 1, 0]
    assert np.abs(offsets + drift[:, 0, 0])[100:-100].max() < 1.0
    assert np.abs(np.diff(offsets)).max() < 0.15  # the correction itself does not flicker
    short = compose.match_colour(measured[:50], wanted, 200)
    assert np.ptp(short, axis=0).max() == 0  # a short clip gets one constant


def test_correct_applies_gain_and_offset_by_channel() -> None:
    frame = np.full((4, 4, 3), 100, np.uint8)
    corrected = compose.correct(frame, np.array([[1.1, 1, 0.9], [0, 10, 200]], np.float32))
    assert corrected[0, 0].tolist() == [110, 110, 255]
