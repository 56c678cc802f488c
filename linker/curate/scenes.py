"""Stage 2: extreme changes of the scene inside a segment: hard cuts, jump cuts, fades and dissolves.

PySceneDetect's detectors together, on the picture and on the face, each figure as a multiple of that detector's own
default threshold, but where a constant below says otherwise; and, for what changes slowly, the picture compared with
itself a second later.
"""

from __future__ import annotations

import numpy as np

from linker.config import CurateSettings
from linker.curate.measure import Measures
from linker.curate.verdicts import Segment, Verdict, stretches, worst

ADAPTIVE, LEAST_CONTENT = 3.0, 15.0  # AdaptiveDetector
CONTENT = 27.0  # ContentDetector
HISTOGRAM = 0.1  # 1 - correlation; HistogramDetector has 0.05, which a crowd behind the speaker reaches
BLACK, WHITE = 12.0, 245.0  # ThresholdDetector's floor, and its mirror image
SLOW = 25  # frames over which a dissolve is looked for
SLOW_LIMIT = 10.0  # grey levels of a mixture that is a dissolve
MIXED, STRANGE = 0.15, 3.0  # least share of either picture in a mixture; weight of what is no mixture


def judge_scenes(video: str, segment: Segment, measures: Measures, settings: CurateSettings) -> Verdict:
    """The score is the strongest change in units of the detectors' own thresholds."""
    figures = changes(measures, segment)
    peaks = {name: round(float(figure.max(initial=0.0)), 4) for name, figure in figures.items()}
    name = worst(peaks)
    kept = peaks[name] <= settings.scene
    frames = [] if kept else stretches(figures[name] > settings.scene, segment.first)
    reason = "" if kept else f"{_WORDS[name]} at frame {frames[0][0]}"
    return Verdict(
        video, segment.number, "scene", peaks[name], settings.scene, kept, "" if kept else name, reason, frames, peaks
    )


_WORDS = {
    "cut": "a cut", "jump": "a jump of the face", "content": "a sudden change", "histogram": "another light or scene",
    "fade": "a fade", "dissolve": "a dissolve",
}  # fmt: skip


def changes(measures: Measures, segment: Segment) -> dict[str, np.ndarray]:
    """Each detector's figure (T,), 1 = its threshold; a segment's first frame has none before it."""
    inside = slice(segment.first + 1, segment.last)
    content, face = measures.content[inside], measures.content_face[inside]
    luma = measures.luma[segment.span]
    figures = {
        "cut": np.minimum(measures.adaptive[inside] / ADAPTIVE, content / LEAST_CONTENT),
        "jump": np.minimum(measures.adaptive_face[inside] / ADAPTIVE, face / LEAST_CONTENT) / 2,  # faces live
        "content": content / CONTENT,
        "histogram": (1 - measures.histogram[inside]) / HISTOGRAM,
    }
    padded = {name: np.concatenate([[0.0], figure]) for name, figure in figures.items()}
    return padded | {"fade": fade(luma), "dissolve": dissolve(measures.thumbs[segment.span])}


def fade(luma: np.ndarray) -> np.ndarray:
    """(T,) over 1 where the picture goes to black or to white and was neither before."""
    if np.median(luma) <= BLACK or np.median(luma) >= WHITE:
        return np.zeros(len(luma))
    return np.maximum(BLACK / np.maximum(luma, 1.0), (255 - WHITE) / np.maximum(255 - luma, 1.0))


def dissolve(thumbs: np.ndarray) -> np.ndarray:
    """(T,) how much one picture is turning into another, in units of SLOW_LIMIT: their difference over SLOW frames,
    less what the picture in between has that is no mixture of the two (something moving is no mixture)."""
    half = SLOW // 2
    figure = np.zeros(len(thumbs))
    if len(thumbs) > 2 * half:
        flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
        before, now, after = flat[: -2 * half], flat[half:-half], flat[2 * half :]
        change = after - before
        share = (((now - before) * change).sum(1) / np.maximum((change**2).sum(1), 1e-6)).clip(0, 1)[:, None]
        apart, remains = np.abs(change).mean(1), np.abs(now - before - share * change).mean(1)
        mixed = ((share > MIXED) & (share < 1 - MIXED))[:, 0]
        figure[half:-half] = np.maximum(apart - STRANGE * remains, 0) * mixed / SLOW_LIMIT
    return figure
