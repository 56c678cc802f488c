"""How videos differ from plain speech: amplitudes by region, first expressions, tilts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linker.config import REGIONS
from linker.synth.acting import CURVES, Acting, draw_acting, leaned, leaned_outlines
from linker.synth.motion import Motion, rest

ONES = np.ones(3, np.float32)


def some_motion(frames: int = 20) -> Motion:
    """Every curve moves, within what is anatomy."""
    wave = 0.3 * np.sin(np.linspace(0, 6, frames)) ** 2
    return rest(frames).with_curves(**{name: wave for names in CURVES.values() for name in names})


def test_plain_acting_changes_nothing() -> None:
    plain, acted = some_motion(), Acting(ONES, ONES).performed(some_motion())
    for name in vars(plain):
        np.testing.assert_allclose(getattr(acted, name), getattr(plain, name), atol=1e-6)


@given(
    st.lists(st.floats(0, 1.5), min_size=3, max_size=3),
    st.lists(st.floats(0.5, 1.8), min_size=3, max_size=3),
)
def test_a_region_moves_by_its_scale_times_its_range(scales: list[float], ranges: list[float]) -> None:
    acting, plain = Acting(np.array(scales, np.float32), np.array(ranges, np.float32)), some_motion()
    acted = acting.performed(plain)
    for region, scale, area in zip(REGIONS, scales, ranges, strict=True):
        for name in CURVES[region]:
            np.testing.assert_allclose(getattr(acted, name), scale * area * getattr(plain, name), rtol=1e-4, atol=1e-6)


def test_a_grin_is_left_within_six_frames_and_kept_where_the_mouth_does_not_move() -> None:
    grin = (0.4, 0.8, 0.9)
    left = Acting(ONES, ONES, grin).performed(some_motion())
    kept = Acting(np.array([1, 0, 1], np.float32), ONES, grin).performed(some_motion())
    assert (left.open[0], left.width[0], left.teeth[0]) == pytest.approx(grin)
    np.testing.assert_allclose(left.open[6:], some_motion().open[6:], atol=1e-6)
    np.testing.assert_allclose(kept.open, 0.4, atol=1e-6)
    np.testing.assert_allclose(kept.blink, some_motion().blink, atol=1e-6)


@given(st.floats(-25, 25), st.integers(60, 195), st.integers(60, 195))
def test_outlines_turn_with_their_picture(degrees: float, x: int, y: int) -> None:
    frames = np.zeros((1, 256, 256, 3), np.uint8)
    frames[0, y - 2 : y + 3, x - 2 : x + 3] = 255
    weight = leaned(frames, degrees)[0, :, :, 0].astype(np.float64)
    rows, columns = np.mgrid[:256, :256]
    seen = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    told = leaned_outlines({"mouth": np.array([[[x, y]]], np.float32)}, 256, degrees)["mouth"][0, 0]
    assert np.linalg.norm(seen - told) < 0.6


def test_actings_are_functions_of_their_seed_and_of_all_kinds() -> None:
    drawn = [draw_acting(seed) for seed in range(400)]
    assert all(np.array_equal(one.scales, draw_acting(seed).scales) for seed, one in enumerate(drawn[:20]))
    plain = np.mean([np.array_equal(one.scales * one.ranges, ONES) for one in drawn])
    assert 0.2 < plain < 0.5
    for region in range(3):
        assert 0.08 < np.mean([one.scales[region] == 0 for one in drawn]) < 0.3
    assert 0.15 < np.mean([one.grin is not None for one in drawn]) < 0.35
    assert 0.3 < np.mean([one.lean_deg != 0 for one in drawn]) < 0.5
