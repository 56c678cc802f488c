"""Drawn portraits: pure, smooth, and true to the numbers they were asked to show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.config import MOUTH_Y
from linker.synth.features import Patch
from linker.synth.geometry import expressed, skin_points, unexpress
from linker.synth.motion import Motion, rest
from linker.synth.portrait import Portrait, Truth, draw_portrait
from linker.synth.traits import STYLES, draw_traits

SIZE = 128


@pytest.fixture(scope="module", params=STYLES)
def portrait(request: pytest.FixtureRequest) -> Portrait:
    return draw_portrait(STYLES.index(request.param) + 3, request.param, SIZE)


def ramp(frames: int, **ends: float) -> Motion:
    """A motion whose named curves rise from 0 to the given end."""
    return rest(frames).with_curves(**{k: np.linspace(0, v, frames, dtype=np.float32) for k, v in ends.items()})


def test_motion_slices_and_replaces() -> None:
    motion = ramp(10, open=1.0)
    assert len(motion) == 10
    assert len(motion[2:5]) == 3
    assert motion[2:5].open[0] == motion.open[2]
    assert motion.with_curves(blink=0.5).blink.tolist() == [0.5] * 10
    assert rest(4).open.dtype == np.float32


@pytest.mark.parametrize("style", STYLES)
def test_cropped_portraits_have_eyes_and_mouth_where_crops_have_them(style: str) -> None:
    for seed in range(3):
        boxes = draw_portrait(seed, style, SIZE, cropped=True).truth(rest(1)).regions()[0] / SIZE
        mouth = (boxes[1, :2] + boxes[1, 2:]) / 2
        assert mouth == pytest.approx((0.5, MOUTH_Y), abs=0.03)


def test_a_shape_smaller_than_a_pixel_is_left_out() -> None:
    """It once ended the drawing of two portraits in a thousand."""
    canvas = np.full((32, 32, 3), 90, np.uint8)
    patch = Patch(canvas, np.array([[8.0, 8.0], [24.0, 24.0]]), 2, 64)
    patch.lay(np.array([1.0, 0.0, 0.0]), np.zeros(patch.drawn.shape, np.uint8))
    patch.put_back()
    assert (canvas == 90).all()


def test_same_seed_gives_the_same_pixels(portrait: Portrait) -> None:
    motion = ramp(3, open=1.0, yaw_deg=10.0)
    again = draw_portrait(STYLES.index(portrait.traits.style) + 3, portrait.traits.style, SIZE)
    np.testing.assert_array_equal(portrait.render(motion), again.render(motion))


def test_seeds_give_different_people() -> None:
    frames = [draw_portrait(seed, "photo", SIZE).render(rest(1))[0].astype(float) for seed in range(3)]
    assert min(np.abs(frames[i] - frames[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))) > 10


def test_frames_do_not_depend_on_their_neighbours(portrait: Portrait) -> None:
    motion = ramp(40, open=1.0, yaw_deg=20.0, blink=1.0)
    whole = portrait.render(motion)
    assert whole.shape == (40, SIZE, SIZE, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[35:37], portrait.render(motion[35:37]))


def dark_rows(portrait: Portrait, frame: np.ndarray, truth: Truth, index: int) -> float:
    """Rows of the mouth's middle column that differ from the closed mouth's lips: its opening as seen."""
    x0, y0, x1, y1 = truth.regions()[index, 1].astype(int)
    column = frame[y0 : y1 + 1, (x0 + x1) // 2 - 1 : (x0 + x1) // 2 + 2].astype(float).mean((1, 2))
    return float((column < np.quantile(column, 0.98) * 0.45).sum())


def test_known_opening_grows_with_open(portrait: Portrait) -> None:
    truth = portrait.truth(ramp(9, open=1.0))
    gaps = truth.mouth_opening_px
    assert gaps[0] == pytest.approx(0, abs=1e-3)
    assert (np.diff(gaps) > 0).all()
    assert gaps[-1] == pytest.approx(0.16 * portrait.frame.face_px, rel=0.15)


def test_tracked_lips_part_by_the_known_opening_and_lids_meet(portrait: Portrait) -> None:
    motion = ramp(5, open=1.0, yaw_deg=10.0, blink=1.0)
    lips, lids = (portrait.tracked(motion)[:, first : first + 84].reshape(5, 4, 21, 2) for first in (0, 84))
    gaps = np.linalg.norm(lips[:, 2, 10] - lips[:, 1, 10], axis=-1)
    np.testing.assert_allclose(gaps, portrait.mouth_opening_px(motion), atol=1e-3)
    shut = np.linalg.norm(lids[:, [1, 3], 10] - lids[:, [0, 2], 10], axis=-1)
    assert (np.diff(shut, axis=0) < 0).all()
    assert shut[-1].max() < 0.1


def test_tracked_skin_looks_the_same_where_it_has_gone() -> None:
    portrait = draw_portrait(5, "painting", 256)
    motion = ramp(2, open=1.0, yaw_deg=6.0, roll_deg=4.0, brow=1.0)
    video, skin = portrait.render(motion), portrait.tracked(motion)[:, 168:]
    skin = skin[:, np.isfinite(skin).all((0, 2))]
    at_first, there = (patches(video[frame], skin[frame]) for frame in (0, 1))
    stayed = patches(video[1], skin[0])
    assert len(skin[0]) > 30
    assert np.abs(skin[1] - skin[0]).max() > 10
    assert np.abs(there - at_first).mean() < 0.5 * np.abs(stayed - at_first).mean()


def patches(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What lies within three pixels about points."""
    return np.stack([cv2.getRectSubPix(frame, (7, 7), (float(x) - 0.5, float(y) - 0.5)) for x, y in points]).astype(
        float
    )


@settings(max_examples=25, deadline=None)
@given(opening=st.floats(0, 1.25), width=st.floats(-1.2, 1.2), brow=st.floats(-1, 1), seed=st.integers(0, 50))
def test_skin_goes_where_it_comes_from(opening: float, width: float, brow: float, seed: int) -> None:
    t = draw_traits(np.random.default_rng(seed), "photo")
    motion = rest(2).with_curves(open=opening, width=width, brow=brow)
    points = skin_points(t.eye_x, t.eye_y, 0.0, t.mouth_y, t.mouth_w)
    there = expressed(points, t, motion)
    back = np.stack(unexpress(there[:, None, :, 0], there[:, None, :, 1], t, motion), -1)[:, 0]
    np.testing.assert_allclose(back, np.broadcast_to(points, back.shape), atol=2e-3)


def test_the_mouth_changes_more_the_wider_it_opens(portrait: Portrait) -> None:
    motion = ramp(5, open=1.0)
    video, boxes = portrait.render(motion).astype(float), portrait.truth(motion).regions()
    x0, y0, x1, y1 = boxes[-1, 1].astype(int)
    change = np.abs(video[:, y0:y1, x0:x1] - video[:1, y0:y1, x0:x1]).mean((1, 2, 3))
    assert change[1] > 2
    assert (np.diff(change) > 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_an_open_mouth_is_seen_as_tall_as_it_is_known_to_be(style: str) -> None:
    portrait = draw_portrait(5, style, 256)
    motion = rest(3).with_curves(open=np.float32([0.3, 0.65, 1.0]), teeth=0.0)
    video, truth = portrait.render(motion), portrait.truth(motion)
    seen = [dark_rows(portrait, video[i], truth, i) for i in range(3)]
    assert seen[0] < seen[1] < seen[2]


def test_width_moves_the_corners(portrait: Portrait) -> None:
    widths = portrait.truth(rest(3).with_curves(width=np.float32([-1, 0, 1]))).mouth_width_px
    assert widths[0] < 0.75 * widths[1]
    assert widths[2] > 1.1 * widths[1]


def test_closing_the_eyes_changes_only_the_eye_region(portrait: Portrait) -> None:
    motion = ramp(2, blink=1.0)
    video = portrait.render(motion).astype(int)
    eyes = portrait.masks(motion, SIZE)[:, 2].max(0) > 0
    changed = np.abs(video[1] - video[0]).max(-1) > 0
    assert changed.any()
    assert not (changed & ~eyes).any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(-25, 25), st.floats(-15, 15), st.floats(-12, 12))
def test_masks_are_disjoint_and_within_bounds(seed: int, opening: float, yaw: float, pitch: float, roll: float) -> None:
    motion = rest(1).with_curves(open=opening, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)
    truth = DRAWN[seed % len(DRAWN)].truth(motion)
    masks, boxes = truth.masks(32), truth.regions()
    assert masks.shape == (1, 3, 32, 32)
    assert masks.dtype == np.float32
    assert masks.min() >= 0
    assert masks.sum(1).max() <= 1 + 1e-5
    assert (masks.sum((2, 3)) > 0).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()


DRAWN = [draw_portrait(seed, None, 64) for seed in range(4)]


def test_the_background_stands_still(portrait: Portrait) -> None:
    motion = ramp(6, open=1.0, yaw_deg=25.0, pitch_deg=10.0, x=0.05)
    video = portrait.render(motion)
    corners = video[:, : SIZE // 8, : SIZE // 10], video[:, : SIZE // 8, -SIZE // 10 :]
    assert all((corner == corner[:1]).all() for corner in corners)


def test_small_motion_is_smooth_below_a_pixel(portrait: Portrait) -> None:
    motion = ramp(9, yaw_deg=2.0, open=0.1)
    video = portrait.render(motion).astype(float)
    steps = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < 2.5 * np.median(steps)


def test_breathing_moves_only_what_is_below_the_chin(portrait: Portrait) -> None:
    motion = ramp(2, breath=1.0)
    changed = (np.abs(np.diff(portrait.render(motion).astype(int), axis=0)[0]).max(-1) > 0).any(1)
    middle = portrait.frame.cy
    assert changed.any()
    assert not changed[: int(middle)].any()
