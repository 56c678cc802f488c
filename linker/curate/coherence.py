"""Stage 4: incoherence: what moves or flickers outside the head, splices, frozen frames, blur and block edges."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from linker.config import FPS, CurateSettings
from linker.curate.faces import centres, heights_px
from linker.curate.measure import EVERY, Measures
from linker.curate.verdicts import Segment, Verdict, stretches, sustained, worst

HOLD = 4  # frames that a motion must last
STEADY = 3.0  # frames: light that changes more slowly than this is no flicker
MIDDLE, DARK = 110.0, 30.0  # grey levels: of an ordinary picture; of one too dark to tell
EQUAL = 0.05  # grey levels by which two frames of footage always differ


def judge_coherence(video: str, segment: Segment, measures: Measures, settings: CurateSettings) -> Verdict:
    """The score is the worst figure as a multiple of its own setting."""
    figures = disturbances(measures, segment, settings)
    peaks = {name: round(float(np.nan_to_num(figure).max(initial=0.0)), 4) for name, figure in figures.items()}
    name = worst(peaks)
    kept = peaks[name] <= 1
    frames = [] if kept else stretches(figures[name] > 1, segment.first)
    reason = "" if kept else f"{_WORDS[name]}, {peaks[name]:.1f} times the limit"
    return Verdict(
        video, segment.number, "coherence", peaks[name], 1.0, kept, "" if kept else name, reason, frames, peaks
    )


_WORDS = {
    "camera": "the background moves", "objects": "something moves beside the head", "flicker": "the light flickers",
    "splice": "a splice", "frozen": "frames are frozen", "repeated": "frames are repeated",
    "blur": "the face is blurred", "blocks": "heavy compression", "quantised": "heavy compression of a smoothed kind",
}  # fmt: skip


def disturbances(measures: Measures, segment: Segment, settings: CurateSettings) -> dict[str, np.ndarray]:
    """Each figure (T,) as a multiple of its setting: over 1 is too much."""
    span = segment.span
    camera, objects = _after_first(measures.camera[span]), _after_first(measures.objects[span])
    soft = np.nanmedian(measures.sharpness[span]) if np.isfinite(measures.sharpness[span]).any() else np.inf
    looks = measures.blocks[segment.first // EVERY : -(-segment.last // EVERY)]
    length, still = segment.last - segment.first, _after_first(measures.change[span] < EQUAL).astype(bool)
    return {
        "camera": sustained(camera, HOLD) / settings.camera,
        "objects": sustained(objects, HOLD) / settings.objects,
        "flicker": flicker(measures.luma_outside[span], measures.luma[span]) / settings.flicker,
        "splice": splices(measures, segment) / settings.splice,
        "frozen": frozen_s(still) / settings.frozen_s,
        "repeated": np.full(length, float(still.mean()) / settings.repeated),
        "blur": np.full(length, settings.sharpness / max(float(soft), 1e-6)),
        "blocks": np.full(length, float(np.median(looks)) / settings.blocks),
        "quantised": np.full(length, float(np.median(measures.qp[span])) / settings.max_qp),
    }


def _after_first(figure: np.ndarray) -> np.ndarray:
    """A segment's first frame is compared with one outside the segment: it counts nothing."""
    return np.concatenate([[0.0], figure[1:]])


def flicker(outside: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(T,) grey levels by which the light leaves its own slow course, over half a second; whichever is steadier of
    picture and background, since a head that moves changes one of them."""
    rough = [np.abs(light - gaussian_filter1d(light.astype(float), STEADY)) for light in (outside, whole)]
    steady = np.minimum(*(np.sqrt(gaussian_filter1d(figure**2, FPS / 4)) for figure in rough))
    return np.asarray(steady * MIDDLE / max(float(np.median(whole)), DARK))  # in the dark, less light flickers as much


def splices(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) how much further the eyes leap between two frames than around them, face heights; lost frames count 0."""
    assert segment.slot is not None
    points = measures.points[segment.span, segment.slot]
    height = np.nanmedian(heights_px(points))
    step = np.linalg.norm(np.diff(centres(points), axis=0), axis=1) / height
    step = np.nan_to_num(np.concatenate([[0.0], step]))
    return np.asarray(np.maximum(step - 2 * median_filter(step, 9, mode="nearest"), 0))


def frozen_s(still: np.ndarray) -> np.ndarray:
    """(T,) seconds that a stretch of frames that equal the one before lasts, the file's own or one that its clock
    holds; what a slower frame rate repeats is a stretch of one frame."""
    lasting = np.zeros(len(still))
    for first, last in stretches(still):
        lasting[first:last] = (last - first) / FPS
    return lasting
