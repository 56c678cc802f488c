"""What the stages say: segments of videos, and a verdict a stage. Scores are comparable with their thresholds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from linker.config import FPS

STAGES = ("cut", "occlusion", "scene", "sync", "coherence")  # the paper's order (section 3.2)


@dataclass(frozen=True)
class Segment:
    """Frames `first` up to `last` (outside) of a video at 25 a second; `slot` of the speaking face, None = no face."""

    number: int
    first: int
    last: int
    slot: int | None

    @property
    def seconds(self) -> float:
        return (self.last - self.first) / FPS

    @property
    def span(self) -> slice:
        return slice(self.first, self.last)


@dataclass(frozen=True)
class Verdict:
    """One stage on one segment. `kept` says how score and threshold compare, `kind` is a short stable word for why not;
    `frames` are [first, last) stretches of the video that decided; `measured` holds all figures that were looked at."""

    video: str
    segment: int
    stage: str
    score: float
    threshold: float
    kept: bool
    kind: str = ""
    reason: str = ""
    frames: list[list[int]] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stretches(marked: np.ndarray, first: int = 0) -> list[list[int]]:
    """Runs of True in bool (T,) as [start, end) frames, counted from `first`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return [[int(start) + first, int(end) + first] for start, end in edges.reshape(-1, 2)]


def sustained(figure: np.ndarray, frames: int) -> np.ndarray:
    """(T,) the level that `figure` (T,) keeps for at least `frames` frames around each frame."""
    from scipy.ndimage import grey_opening

    return figure if len(figure) < frames else np.asarray(grey_opening(figure, frames, mode="nearest"))


def worst(figures: dict[str, float]) -> str:
    """The name of the largest figure."""
    return max(figures, key=lambda name: figures[name])
