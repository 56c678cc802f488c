"""Stills in motion: the mouth opens as far as it is said to, lids close, and the picture's border stands still."""

from __future__ import annotations

import numpy as np
import pytest
from test_synth_portrait import patches

from linker.synth import features, warp
from linker.synth.drawing import Array
from linker.synth.geometry import outline, project
from linker.synth.motion import Motion, rest
from linker.synth.portrait import Portrait, draw_portrait
from linker.synth.warp import StillPortrait

SIZE = 192


def spread_along(points: Array, count: int) -> Array:
    """`count` points evenly spread over the rows of a curve."""
    at = np.linspace(0, len(points) - 1, count)
    return np.stack([np.interp(at, np.arange(len(points)), points[:, k]) for k in (0, 1)], -1)


def mesh_of(portrait: Portrait) -> Array:
    """The landmarks of a drawn portrait at rest, as a face mesh would give them."""
    t, m, frame = portrait.traits, rest(1), portrait.frame
    mesh = np.zeros((468, 2), np.float32)
    mouth = features.posed(features.mouth(t, m), m, frame)
    rows = {
        warp.INNER_UP: mouth["inner_up"][0],
        warp.INNER_LOW: mouth["inner_low"][0],
        warp.OUTER_UP: mouth["outer_up"][0],
        warp.OUTER_LOW: mouth["outer_low"][0],
    }
    for name, side in (("left", -1), ("right", 1)):
        eye = features.posed(features.eye(t, m, side), m, frame)
        rows |= {warp.LIDS[name][0]: eye["top"][0], warp.LIDS[name][1]: eye["low"][0]}
        brow = frame.px(np.float32([(side * t.eye_x + x, t.brow_y) for x in (-0.08, -0.04, 0, 0.04, 0.08)]))
        rows |= {warp.BROWS[name]: brow, warp.UNDER_BROWS[name]: brow[1:4] + np.float32([0, 0.01 * frame.face_px])}
    oval = outline(t)
    rows[warp.OVAL] = project(oval[None] * np.float32([1, 0.88 / 1.2]) + np.float32([0, 0.13]), m, frame)[0]
    for indices, points in rows.items():
        mesh[list(indices)] = spread_along(points, len(indices))
    mesh[[warp.TOP, warp.CHIN]] = frame.px(np.float32([(0, -0.38), (0, 0.5)]))
    return mesh


@pytest.fixture(scope="module", params=["photo", "painting"])
def still(request: pytest.FixtureRequest) -> StillPortrait:
    portrait = draw_portrait(41 if request.param == "photo" else 42, request.param, SIZE)
    return StillPortrait(portrait.render(rest(1))[0], mesh_of(portrait), SIZE)


def ramp(frames: int, **ends: float) -> Motion:
    return rest(frames).with_curves(**{k: np.linspace(0, v, frames, dtype=np.float32) for k, v in ends.items()})


def test_rest_is_the_still_itself(still: StillPortrait) -> None:
    frame = still.render(rest(1))[0]
    assert frame.shape == (SIZE, SIZE, 3)
    assert np.abs(frame.astype(int) - still.image).mean() < 2


def test_same_motion_gives_the_same_pixels_in_any_batch(still: StillPortrait) -> None:
    motion = ramp(20, open=1.0, yaw_deg=15.0, blink=1.0)
    whole = still.render(motion)
    np.testing.assert_array_equal(whole, still.render(motion))
    np.testing.assert_array_equal(whole[17:19], still.render(motion[17:19]))


def test_the_known_opening_grows_and_the_mouth_with_it(still: StillPortrait) -> None:
    motion = ramp(6, open=1.0)
    gaps = still.mouth_opening_px(motion)
    assert (np.diff(gaps) > 0).all()
    assert gaps[-1] - gaps[0] == pytest.approx(0.147 * still.frame.face_px, rel=0.15)
    x0, y0, x1, y1 = still.regions(motion)[-1, 1].astype(int)
    mouth = still.render(motion)[:, y0:y1, x0:x1].astype(float)
    assert (np.diff(np.abs(mouth - mouth[:1]).mean((1, 2, 3))) > 0).all()


def test_tracked_points_are_those_of_a_drawn_face(still: StillPortrait) -> None:
    motion = ramp(4, open=1.0, yaw_deg=10.0, blink=1.0)
    tracked = still.tracked(motion)
    assert tracked.shape == draw_portrait(41, "photo", SIZE).tracked(motion).shape
    lips, lids = (tracked[:, first : first + 84].reshape(4, 4, 21, 2) for first in (0, 84))
    np.testing.assert_allclose(
        np.linalg.norm(lips[:, 2, 10] - lips[:, 1, 10], axis=-1), still.mouth_opening_px(motion), atol=1e-3
    )
    assert np.linalg.norm(lids[-1, [1, 3], 10] - lids[-1, [0, 2], 10], axis=-1).max() < 0.02 * still.frame.face_px


def test_tracked_skin_looks_the_same_where_it_has_gone(still: StillPortrait) -> None:
    motion = ramp(2, open=1.0, yaw_deg=8.0, roll_deg=5.0, brow=1.0)
    video, skin = still.render(motion), still.tracked(motion)[:, 168:]
    skin = skin[:, np.isfinite(skin).all((0, 2))]
    at_first, there = (patches(video[frame], skin[frame]) for frame in (0, 1))
    assert len(skin[0]) > 30
    assert np.abs(there - at_first).mean() < 0.6 * np.abs(patches(video[1], skin[0]) - at_first).mean()


def test_an_open_mouth_is_dark_inside(still: StillPortrait) -> None:
    motion = rest(2).with_curves(open=np.float32([0, 1]), teeth=0.0)
    x0, y0, x1, y1 = still.regions(motion)[1, 1].astype(int)
    closed, wide = still.render(motion)[:, y0:y1, x0:x1].mean(-1)
    assert wide.min() < 0.6 * closed.min()


def test_closing_the_eyes_changes_only_the_eye_region(still: StillPortrait) -> None:
    motion = rest(2).with_curves(blink=np.float32([0, 1]))
    changed = np.abs(np.diff(still.render(motion).astype(int), axis=0)[0]).max(-1) > 3
    eyes = still.masks(motion, SIZE)[:, 2].max(0) > 0
    assert changed.any()
    assert (changed & ~eyes).sum() <= 0.03 * changed.sum()


def test_the_border_stands_still(still: StillPortrait) -> None:
    video = still.render(ramp(5, yaw_deg=20.0, pitch_deg=10.0, roll_deg=8.0, x=0.05, open=1.0)).astype(int)
    moved = np.abs(video - video[:1]).max((0, 3))
    assert max(moved[:2].max(), moved[:, :2].max(), moved[:, -2:].max()) <= 4
    assert moved[SIZE // 3 : SIZE // 2, SIZE // 3 : -SIZE // 3].mean() > 5


def test_masks_are_disjoint_and_follow_the_head(still: StillPortrait) -> None:
    masks = still.masks(ramp(4, open=1.0, roll_deg=10.0), 32)
    assert masks.shape == (4, 3, 32, 32)
    assert masks.min() >= 0
    assert masks.sum(1).max() <= 1 + 1e-5
    assert (masks.sum((2, 3)) > 0).all()


def test_a_picture_that_is_not_square_is_named() -> None:
    with pytest.raises(ValueError, match="found 40 x 30 and 468 landmarks, needed a square"):
        StillPortrait(np.zeros((30, 40, 3), np.uint8), np.zeros((468, 2), np.float32), 64)
