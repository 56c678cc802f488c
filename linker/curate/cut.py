"""cut: stretches of 3 to 20 s in which one face is seen; every frame of a video ends up in exactly one of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from linker.config import FPS, CurateSettings
from linker.curate.faces import centres, heights_px, restored, yaw
from linker.curate.measure import EVERY, Measures
from linker.curate.verdicts import Segment, Verdict
from linker.landmarks import CHIN, FOREHEAD

SHOT_RATIO, SHOT_CONTENT = 3.0, 15.0  # PySceneDetect's defaults of its adaptive detector
GAP = 50  # frames without a face inside a segment: stage 1 judges them
MAX_ROLL_DEG = 35.0  # of a head in the picture: a crop is not turned
PROFILE_SHARE = 0.5  # of frames turned away that make a profile, or a crowd
CROP_SIDES = 1.1  # of a face height, to each side: what a crop shows
Span = tuple[int, int]


def find_segments(measures: Measures, speech: list[list[float]], settings: CurateSettings) -> list[Segment]:
    """Segments in order, without gaps or overlaps; which face speaks is said later where there are several."""
    parts: list[tuple[Span, bool]] = []
    for shot in shots(measures, round(settings.min_segment_s * FPS)):
        parts += by_face(np.isfinite(measures.points[shot[0] : shot[1], :, 0, 0]).any(1), shot[0])
    spans = [(part, face) for whole, face in parts for part in _bounded(whole, speech, settings, face)]
    return [Segment(i, *span, _main_slot(measures, span) if face else None) for i, (span, face) in enumerate(spans)]


def shots(measures: Measures, least: int) -> list[Span]:
    """The video between hard cuts; neighbouring shots shorter than `least` frames stay together for stage 2."""
    is_cut = (measures.adaptive >= SHOT_RATIO) & (measures.content >= SHOT_CONTENT)
    edges = [0, *(int(i) for i in np.flatnonzero(is_cut) if i > 0), len(measures)]
    joined: list[Span] = []
    for first, last in pairwise(edges):
        is_short = last - first < least
        if joined and is_short and _ends_in_short(joined, edges, least):
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _ends_in_short(joined: list[Span], edges: list[int], least: int) -> bool:
    """True when the last shot taken up was short: no stretch mixes long shots with short ones."""
    return joined[-1][1] - max(edge for edge in edges if edge < joined[-1][1]) < least


def by_face(seen: np.ndarray, start: int) -> list[tuple[Span, bool]]:
    """A shot cut where no face is seen for longer than GAP frames: stretches, and whether they show a face."""
    at = np.flatnonzero(seen)
    if not len(at):
        return [((start, start + len(seen)), False)]
    breaks = np.flatnonzero(np.diff(at) > GAP + 1)
    firsts, lasts = [at[0], *at[breaks + 1]], [*(at[breaks] + 1), at[-1] + 1]
    parts: list[tuple[Span, bool]] = []
    end = 0
    for first, last in zip(firsts, lasts, strict=True):
        parts += [((start + end, start + int(first)), False)] if first > end else []
        parts.append(((start + int(first), start + int(last)), True))
        end = int(last)
    return parts + ([((start + end, start + len(seen)), False)] if end < len(seen) else [])


def _bounded(span: Span, speech: list[list[float]], settings: CurateSettings, face: bool) -> list[Span]:
    """No longer than the longest segment, cut in the longest pause that leaves both sides long enough."""
    least, most = round(settings.min_segment_s * FPS), round(settings.max_segment_s * FPS)
    if span[1] - span[0] <= most or not face:
        return [span]
    where = _pause(span[0] + least, min(span[0] + most, span[1] - least), speech)
    return [(span[0], where), *_bounded((where, span[1]), speech, settings, face)]


def _pause(first: int, last: int, speech: list[list[float]]) -> int:
    """The middle frame of the longest silence between two frames; the last frame where all is speech."""
    talking = np.zeros(last - first + 1, bool)
    for start_s, end_s in speech:
        talking[max(0, round(start_s * FPS) - first) : max(0, round(end_s * FPS) - first)] = True
    quiet = np.flatnonzero(~talking)
    runs = np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)
    longest = max(runs, key=len)
    return first + int(longest[len(longest) // 2]) if len(longest) else last


def _main_slot(measures: Measures, span: Span) -> int:
    """The face that is seen longest and largest."""
    points = measures.points[span[0] : span[1]]
    sizes = [np.nansum(heights_px(points[:, slot])) for slot in range(points.shape[1])]
    return int(np.argmax(sizes))


def judge_cut(video: str, segment: Segment, measures: Measures, settings: CurateSettings) -> Verdict:
    """One face, large enough, turned to the camera, for long enough; the score is its height in source pixels."""
    if segment.slot is None:
        return _without_face(video, segment, settings)
    points = measures.points[segment.span, segment.slot]
    seen = np.isfinite(points[:, 0, 0])
    height = float(np.nanmedian(heights_px(points)) / measures.scale)
    away = float((np.abs(yaw(points[seen])) > settings.max_yaw).mean())
    figures = {"seconds": segment.seconds, "face_px": round(height, 1), "roll_deg": round(tilt(points[seen]), 1)}
    figures |= {"away": round(away, 3), "crowd": round(crowd(measures, segment), 3)}
    kind, reason = _fault(figures, settings)
    frames = [[segment.first, segment.last]] if kind else []
    return Verdict(
        video, segment.number, "cut", round(height, 1), settings.min_face_px, not kind, kind, reason, frames, figures
    )


def _fault(found: dict[str, float], settings: CurateSettings) -> tuple[str, str]:
    """The kind and the words of what is wrong; both '' when nothing is."""
    if found["seconds"] < settings.min_segment_s:
        return (
            "short",
            f"too short: a face is seen for {found['seconds']:.1f} s of the {settings.min_segment_s:g} s needed",
        )
    if found["face_px"] < settings.min_face_px:
        return "small", f"face too small: {found['face_px']:.0f} pixels of the {settings.min_face_px:g} needed"
    if found["roll_deg"] > MAX_ROLL_DEG:
        return "tilted", f"tilted: the head is turned by {found['roll_deg']:.0f} degrees in the picture"
    if found["away"] > PROFILE_SHARE:
        return "profile", f"profile: turned away in {found['away']:.0%} of the frames"
    if found["crowd"] > PROFILE_SHARE:
        return "crowd", f"several faces: another one in the picture in {found['crowd']:.0%} of the frames"
    return "", ""


def tilt(points: np.ndarray) -> float:
    """Median tilt of a head in the picture, degrees from upright."""
    mesh = restored(points)
    across, down = (mesh[:, CHIN] - mesh[:, FOREHEAD]).T
    return float(np.degrees(np.median(np.abs(np.arctan2(-across, down)))))


def _without_face(video: str, segment: Segment, settings: CurateSettings) -> Verdict:
    frames, figures = [[segment.first, segment.last]], {"seconds": segment.seconds}
    words = "faceless", "no face is seen"
    return Verdict(video, segment.number, "cut", 0.0, settings.min_face_px, False, *words, frames, figures)


def crowd(measures: Measures, segment: Segment) -> float:
    """Share of looks in which another face reaches into the square that would be cut out."""
    assert segment.slot is not None
    points = measures.points[segment.span, segment.slot]
    own, height = centres(points), heights_px(points)
    looks = np.arange(-(-segment.first // EVERY) * EVERY, segment.last, EVERY)
    hits = [_intrudes(measures.others[i // EVERY], own[i - segment.first], height[i - segment.first]) for i in looks]
    return float(np.mean(hits)) if hits else 0.0


def _intrudes(others: np.ndarray, own: np.ndarray, height: float) -> bool:
    boxes = others[np.isfinite(others[:, 0])]
    if not len(boxes) or not np.isfinite(height):
        return False
    middle = (boxes[:, :2] + boxes[:, 2:4]) / 2
    away = np.abs(middle - own).max(1) / height
    side = (boxes[:, 3] - boxes[:, 1]) / height
    return bool(((away > 0.5) & (away < CROP_SIDES + 0.3 * side) & (side > 0.25)).any())
