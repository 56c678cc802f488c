"""The stages on figures made by hand: what each one finds, and what it lets pass."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.config import CurateSettings
from linker.curate.coherence import flicker, judge_coherence
from linker.curate.cut import GAP, by_face, find_segments, judge_cut
from linker.curate.faces import KEPT, TILE_EYES, TILE_MOUTH, restored, similarity
from linker.curate.measure import Measures
from linker.curate.occlusion import judge_occlusion
from linker.curate.scenes import dissolve, fade, judge_scenes
from linker.curate.sync import fault
from linker.curate.verdicts import Segment, stretches, sustained
from linker.landmarks import CHIN, FOREHEAD, LEFT_EYE, LIPS, OVAL, RIGHT_EYE
from linker.model.critic import Sync

RNG = np.random.default_rng(0)
SETTINGS = CurateSettings()


def face(x: float = 160.0, y: float = 90.0, height: float = 100.0) -> np.ndarray:
    """Landmarks (P, 2) of an upright face whose oval is an ellipse."""
    mesh = np.full((478, 2), (x, y), np.float32)
    angles = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    mesh[list(OVAL)] = np.stack([x + 0.38 * height * np.cos(angles), y + height / 2 * np.sin(angles)], 1)
    mesh[FOREHEAD], mesh[CHIN], mesh[2] = (x, y - height / 2), (x, y + height / 2), (x, y + 0.05 * height)
    mesh[list(LIPS)] = (x, y + 0.25 * height)
    mesh[234], mesh[454] = (x - 0.38 * height, y), (x + 0.38 * height, y)
    mesh[list(RIGHT_EYE)], mesh[list(LEFT_EYE)] = (
        (x - 0.15 * height, y - 0.1 * height),
        (x + 0.15 * height, y - 0.1 * height),
    )
    return mesh[list(KEPT)]


def measures(count: int = 100, **changed: Any) -> Measures:
    """A face that holds still before a wall, in a camera's noise."""
    looks = -(-count // 5)
    values: dict[str, Any] = {
        "source": np.arange(count), "qp": np.full(count, np.nan),
        "luma": np.full(count, 120.0), "luma_outside": np.full(count, 120.0),
        "content": np.full(count, 1.0), "content_face": np.full(count, 2.0), "histogram": np.ones(count),
        "adaptive": np.ones(count), "adaptive_face": np.ones(count), "change": np.full(count, 1.0),
        "camera": np.zeros(count), "objects": np.zeros(count), "sharpness": np.full(count, 0.2),
        "blocks": np.zeros(looks), "thumbs": np.full((count, 18, 32, 3), 120, np.uint8),
        "points": np.tile(face(), (count, 1, 1, 1)).reshape(count, 1, len(KEPT), 2),
        "tiles": np.tile(RNG.integers(60, 200, (1, 1, 32, 32, 3), np.uint8), (count, 1, 1, 1, 1)),
        "hands": np.full((looks, 2, 21, 2), np.nan), "others": np.full((looks, 4, 5), np.nan),
        "previews": np.zeros(0, np.uint8), "preview_ends": np.zeros(0), "size": np.array([180, 320]),
        "scale": np.array(1.0),
    }  # fmt: skip
    return Measures(**{**values, **changed})


WHOLE = Segment(0, 0, 100, 0)
SLOWER = np.arange(100) * 24 // 25  # frames of a video with 24 a second
HELD = np.where((np.arange(100) // 20) == 2, 40, np.arange(100))  # one frame for 0.8 s by its time stamp


def spiked(count: int, at: int, high: float, low: float) -> np.ndarray:
    figure = np.full(count, low)
    figure[at] = high
    return figure


def test_quiet_footage_passes_every_stage() -> None:
    for judge in (judge_cut, judge_occlusion, judge_scenes, judge_coherence):
        verdict = judge("v", WHOLE, measures(), SETTINGS)
        assert (verdict.kept, verdict.reason, verdict.frames) == (True, "", []), verdict


@given(st.lists(st.booleans(), min_size=1, max_size=400))
@settings(max_examples=60, deadline=None)
def test_stretches_with_and_without_a_face_cover_a_shot_once(seen: list[bool]) -> None:
    parts = by_face(np.array(seen), 7)
    covered = [frame for (first, last), _ in parts for frame in range(first, last)]
    assert covered == list(range(7, 7 + len(seen)))
    for (first, last), has_face in parts:
        inside = np.array(seen[first - 7 : last - 7])
        assert inside.any() == has_face
        if has_face:
            assert inside[0]
            assert inside[-1]
            assert all(b - a <= GAP for a, b in stretches(~inside))


@given(
    st.lists(st.integers(1, 799), max_size=6), st.lists(st.tuples(st.integers(0, 700), st.integers(1, 99)), max_size=3)
)
@settings(max_examples=40, deadline=None)
def test_every_frame_is_in_exactly_one_segment(cuts: list[int], unseen: list[tuple[int, int]]) -> None:
    adaptive, content = np.ones(800), np.ones(800)
    adaptive[cuts], content[cuts] = 10, 60
    points = measures(800).points.copy()
    for first, length in unseen:
        points[first : first + length] = np.nan
    found = find_segments(measures(800, adaptive=adaptive, content=content, points=points), [[0.0, 32.0]], SETTINGS)
    assert [frame for s in found for frame in range(s.first, s.last)] == list(range(800))
    assert all(s.seconds <= SETTINGS.max_segment_s for s in found if s.slot is not None)


def test_a_long_stretch_is_cut_in_its_longest_pause() -> None:
    speech = [[0.0, 7.0], [7.2, 15.0], [16.5, 32.0]]
    found = find_segments(measures(800), speech, SETTINGS)
    assert [segment.first for segment in found] == [0, 393]  # the middle of 15.0 to 16.5 s


def test_long_shots_are_segments_and_short_ones_stay_together() -> None:
    edges = [100, 130, 150]
    adaptive, content = np.ones(250), np.ones(250)
    adaptive[edges], content[edges] = 10, 60
    found = find_segments(measures(250, adaptive=adaptive, content=content), [], SETTINGS)
    assert [(s.first, s.last) for s in found] == [(0, 100), (100, 150), (150, 250)]


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"scale": np.array(4.0)}, "small"),
        ({"others": np.tile(np.array([230, 60, 290, 120, 0.9]), (20, 4, 1))}, "crowd"),
        ({"points": np.tile(face(), (100, 1, 1, 1)).reshape(100, 1, -1, 2) + 0}, ""),
    ],
)
def test_the_cut_wants_one_large_face(changed: dict[str, Any], kind: str) -> None:
    assert judge_cut("v", WHOLE, measures(**changed), SETTINGS).kind == kind
    assert judge_cut("v", Segment(0, 0, 40, 0), measures(), SETTINGS).kind == "short"
    assert judge_cut("v", Segment(0, 0, 100, None), measures(), SETTINGS).kind == "faceless"


def test_a_head_on_its_side_is_refused() -> None:
    points = (measures().points - (160, 90))[..., ::-1] * (1, -1) + (160, 90)
    verdict = judge_cut("v", WHOLE, measures(points=points.astype(np.float32)), SETTINGS)
    assert (verdict.kind, verdict.measured["roll_deg"]) == ("tilted", 90.0)


def test_a_profile_is_refused() -> None:
    points = measures().points.copy()
    nose = KEPT.index(1)
    points[:, 0, nose] = points[:, 0, KEPT.index(454)]
    assert judge_cut("v", WHOLE, measures(points=points), SETTINGS).kind == "profile"


def test_what_covers_a_face_is_found_with_its_frames() -> None:
    tiles = measures().tiles.copy()
    tiles[40:55, 0, 16:28, 8:24] = (200, 30, 30)
    verdict = judge_occlusion("v", WHOLE, measures(tiles=tiles), SETTINGS)
    assert verdict.kind == "covered"
    assert np.abs(np.array(verdict.frames) - [[40, 55]]).max() <= 3  # the middle look of 7 frames counts
    blink = measures().tiles.copy()
    blink[40:43, 0, 16:28, 8:24] = (200, 30, 30)
    assert judge_occlusion("v", WHOLE, measures(tiles=blink), SETTINGS).kept
    lit = np.clip(measures().tiles * np.linspace(0.8, 1.2, 100)[:, None, None, None, None], 0, 255).astype(np.uint8)
    assert judge_occlusion("v", WHOLE, measures(tiles=lit), SETTINGS).kept


def test_what_hides_the_mouth_is_found_and_a_smile_is_nothing() -> None:
    """Too little of the face for `covered`; the mouth of a smile becomes wider, too."""
    tiles, points = measures().tiles.copy(), measures().points.copy()
    tiles[40:60, 0, 20:26, 12:20] = 255 - tiles[40:60, 0, 20:26, 12:20]
    corners = [KEPT.index(61), KEPT.index(291)]
    points[..., corners, 0] += (-10, 10)
    verdict = judge_occlusion("v", WHOLE, measures(tiles=tiles, points=points), SETTINGS)
    assert (verdict.kept, verdict.kind) == (False, "mouth")
    assert np.abs(np.array(verdict.frames) - [[40, 60]]).max() <= 3
    assert verdict.measured["covered"] < SETTINGS.occlusion
    points[40:60, :, corners, 0] += (-2, 2)
    assert judge_occlusion("v", WHOLE, measures(tiles=tiles, points=points), SETTINGS).kept


def faces(cloth: tuple[int, int, int] | None, lips: float) -> np.ndarray:
    """Tiles (100, 1, 32, 32, 3) of a face in a camera's noise, its lower half under a cloth or not; `lips` open and
    close by so many pixels."""
    tiles = np.tile(np.array([200, 160, 140], float), (100, 32, 32, 1))
    rows, columns = np.mgrid[:32, :32]
    for frame, tile in enumerate(tiles):
        high = 2 + lips * abs(np.sin(frame / 4))
        tile[((columns - 15.5) / 5) ** 2 + ((rows - 22) / high) ** 2 < 1] = (150, 60, 70)
        tile[rows > 16] = cloth if cloth else tile[rows > 16]
    noisy = tiles + np.random.default_rng(3).normal(0, 3, tiles.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)[:, None]


@pytest.mark.parametrize("cloth", [(120, 170, 205), (238, 238, 240), (28, 28, 32), (150, 40, 60), (205, 165, 145)])
def test_a_mask_worn_throughout_is_found(cloth: tuple[int, int, int]) -> None:
    verdict = judge_occlusion("v", WHOLE, measures(tiles=faces(cloth, 0)), SETTINGS)
    assert (verdict.kept, verdict.kind, verdict.frames) == (False, "worn", [[0, 100]])
    assert verdict.score == pytest.approx(0.35, abs=0.02)


def test_a_bold_mask_is_found_though_landmarks_tremble() -> None:
    """Stripes that move by a pixel change more than skin does; a mouth changes otherwise. Beneath, the face's own
    colour is none."""
    tiles = faces((30, 60, 150), 0).astype(int)
    tiles[:, 0, 17:, ::4] += 50
    for frame in range(0, 100, 2):
        tiles[frame, 0, 17:] = np.roll(tiles[frame, 0, 17:], 1, 1)
    verdict = judge_occlusion("v", WHOLE, measures(tiles=np.clip(tiles, 0, 255).astype(np.uint8)), SETTINGS)
    assert verdict.kind == "worn"
    tiles[:, 0, 20:25, 12:20] += (40 * np.sin(np.arange(100) / 3)).astype(int)[:, None, None, None]
    verdict = judge_occlusion("v", WHOLE, measures(tiles=np.clip(tiles, 0, 255).astype(np.uint8)), SETTINGS)
    assert verdict.measured["worn"] == 0


@pytest.mark.parametrize("lips", [0, 3])
def test_lips_that_speak_or_rest_are_no_mask(lips: float) -> None:
    verdict = judge_occlusion("v", WHOLE, measures(tiles=faces(None, lips)), SETTINGS)
    assert verdict.measured["worn"] == 0


def test_a_mouth_that_moves_without_lips_is_no_mask() -> None:
    """A bearded or dark face shows no lips at this size; its mouth moves all the same."""
    tiles = faces((90, 70, 60), 0).astype(int)
    tiles[:, 0, 20:25, 12:20] += (12 * np.sin(np.arange(100) / 3)).astype(int)[:, None, None, None]
    verdict = judge_occlusion("v", WHOLE, measures(tiles=np.clip(tiles, 0, 255).astype(np.uint8)), SETTINGS)
    assert verdict.measured["worn"] == 0


def test_a_lost_face_and_a_leaving_one_are_occlusions() -> None:
    points = measures().points.copy()
    points[30:40] = np.nan
    assert judge_occlusion("v", WHOLE, measures(points=points), SETTINGS).kind == "missing"
    points = measures().points.copy()
    points[30:60, ..., 0] -= 150
    assert judge_occlusion("v", WHOLE, measures(points=points), SETTINGS).kind == "leaving"


def test_a_head_that_wanders_leaves_its_square() -> None:
    drift = np.zeros((100, 1, 1, 2), np.float32)
    drift[..., 0] = np.linspace(-60, 60, 100)[:, None, None]
    wide = {"points": measures().points + drift, "size": np.array([180, 640])}
    verdict = judge_occlusion("v", WHOLE, measures(**wide), SETTINGS)
    assert (verdict.kind, verdict.measured["leaving"]) == ("adrift", 0)
    assert verdict.frames[0][0] == 0
    assert verdict.frames[-1][1] == 100
    nodding = {**wide, "points": measures().points + drift / 4}
    assert judge_occlusion("v", WHOLE, measures(**nodding), SETTINGS).kept


def test_a_cut_inside_a_segment_is_a_scene_change() -> None:
    changed = {"adaptive": spiked(100, 60, 9.0, 1.0), "content": spiked(100, 60, 70.0, 1.0)}
    verdict = judge_scenes("v", WHOLE, measures(**changed), SETTINGS)
    assert (verdict.kept, verdict.frames) == (False, [[60, 61]])
    assert judge_scenes(
        "v", Segment(0, 60, 100, 0), measures(**changed), SETTINGS
    ).kept  # a segment may begin with a cut


def test_fades_and_dissolves_are_told_from_motion() -> None:
    luma = np.full(100, 120.0)
    luma[50:60] = 2.0
    assert fade(luma).max() > SETTINGS.scene
    assert fade(np.full(100, 2.0)).max() == 0
    rng = np.random.default_rng(1)
    one, two = (rng.integers(0, 256, (18, 32, 3)).astype(float) for _ in range(2))
    share = np.clip((np.arange(100) - 40) / 20, 0, 1)[:, None, None, None]
    assert dissolve((one * (1 - share) + two * share).astype(np.uint8)).max() > SETTINGS.scene
    moving = np.stack([np.roll(one, i // 2, 1) for i in range(100)]).astype(np.uint8)
    assert dissolve(moving).max() < SETTINGS.scene


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"camera": np.where((np.arange(100) // 20) == 2, 0.03, 0.0)}, "camera"),
        ({"objects": np.where((np.arange(100) // 20) == 2, 0.1, 0.0)}, "objects"),
        ({"luma": 120 + 12 * (-1.0) ** np.arange(100), "luma_outside": 120 + 12 * (-1.0) ** np.arange(100)}, "flicker"),
        ({"change": np.where((np.arange(100) // 20) == 2, 0.0, 1.0)}, "frozen"),
        ({"source": HELD, "change": np.where(np.diff(HELD, prepend=-1), 1.0, 0.0)}, "frozen"),
        ({"change": np.where(np.arange(100) % 2, 0.0, 1.0)}, "repeated"),  # 12.5 frames a second
        ({"sharpness": np.full(100, 0.004)}, "blur"),
        ({"blocks": np.full(20, 3.0)}, "blocks"),
        ({"qp": np.full(100, 45.0)}, "quantised"),
        ({"qp": np.where(np.arange(100) % 2, 35.0, 41.0)}, ""),
        ({"camera": spiked(100, 50, 0.05, 0.0)}, ""),  # one frame is no motion
        ({"source": SLOWER, "change": np.where(np.diff(SLOWER, prepend=-1), 1.0, 0.0)}, ""),
    ],
)  # fmt: skip
def test_each_disturbance_is_named(changed: dict[str, Any], kind: str) -> None:
    assert judge_coherence("v", WHOLE, measures(**changed), SETTINGS).kind == kind


def test_a_leap_of_the_face_is_a_splice_and_a_fast_turn_is_not() -> None:
    points = measures().points.copy()
    points[50:] += 20.0
    verdict = judge_coherence("v", WHOLE, measures(points=points), SETTINGS)
    assert (verdict.kind, verdict.frames) == ("splice", [[50, 51]])
    turning = measures().points + 12 * np.sin(np.arange(100) / 3)[:, None, None, None]
    assert judge_coherence("v", WHOLE, measures(points=turning.astype(np.float32)), SETTINGS).kept


def test_a_slow_dusk_is_no_flicker() -> None:
    dusk = np.linspace(160, 100, 100)
    assert flicker(dusk, dusk).max() < 2.0


@pytest.mark.parametrize(
    ("sync", "talking", "level", "kind"),
    [
        (Sync(0, 2.0, np.zeros(31)), 0.9, -20.0, ""),
        (Sync(3, 2.0, np.zeros(31)), 0.9, -20.0, ""),
        (Sync(5, 2.0, np.zeros(31)), 0.9, -20.0, "out_of_step"),
        (Sync(-6, 2.0, np.zeros(31)), 0.9, -20.0, "out_of_step"),
        (Sync(0, 0.3, np.zeros(31)), 0.9, -20.0, "dubbed"),
        (Sync(0, 2.0, np.zeros(31)), 0.0, -20.0, "music"),
        (Sync(0, 2.0, np.zeros(31)), 0.1, -20.0, "speechless"),
        (Sync(0, 2.0, np.zeros(31)), 0.9, -70.0, "silent"),
        (None, 0.9, -20.0, "unseen"),
    ],
)
def test_lips_and_sound(sync: Sync | None, talking: float, level: float, kind: str) -> None:
    assert fault(sync, talking, level, SETTINGS)[0] == kind


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 100))
def test_stretches_are_the_runs(marked: list[bool], first: int) -> None:
    found = stretches(np.array(marked, bool), first)
    assert [i for a, b in found for i in range(a - first, b - first)] == [i for i, m in enumerate(marked) if m]
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(found))


def test_sustained_keeps_what_lasts() -> None:
    figure = np.zeros(30)
    figure[5:8], figure[15:21] = 1, 2
    held = sustained(figure, 5)
    assert held[5:8].max() == 0
    assert held[15:21].min() == 2


@given(*(st.floats(-50, 50) for _ in range(4)))
def test_a_tile_has_eyes_and_mouth_in_their_places(x: float, y: float, dx: float, dy: float) -> None:
    a, b = np.array([x, y]), np.array([x + dx + 80, y + dy])
    turn = similarity(a, b, TILE_EYES, TILE_MOUTH)
    assert np.allclose(turn @ (*a, 1), TILE_EYES)
    assert np.allclose(turn @ (*b, 1), TILE_MOUTH)


def test_stored_landmarks_come_back_in_their_places() -> None:
    mesh = restored(face())
    assert np.allclose(mesh[CHIN], (160, 140))
    assert np.isnan(mesh[200]).all()
