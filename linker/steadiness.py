"""Does the background stay, and does the head move as before? Figures of a clip's frames while they stream past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

SIDE = 128  # of the small pictures that are looked at
AWAY = 0.16  # of the crop's side: what is farther from the head is background
END_S = 5.0  # colour drift is told between the means of the first and of the last seconds
POINTS = 30  # of a curve in the sidecar, however long the clip
Figures = dict[str, Any]


class Watch:
    """Looks at the frames of one clip; its memory grows by three numbers a frame.

    `head` float (H,W): the head's mask in the crop. Frames are uint8 (S,S,3), all of one size.
    """

    def __init__(self, head: np.ndarray) -> None:
        self._head = cv2.resize(head.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 0.5
        apart = cv2.distanceTransform((~self._head).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        self._away = apart > AWAY * SIDE if self._head.any() else np.ones_like(self._head)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._rim = ~self._head & ~self._away
        self._sums, self._rim_sums = (np.zeros((2, int(place.sum()), 3)) for place in (self._away, self._rim))
        self._first = self._grey = np.zeros(0)
        self._moved: list[float] = []
        self._left: list[float] = []
        self._colours: list[np.ndarray] = []

    def seen(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same frames, each looked at."""
        for frame in frames:
            self.see(frame)
            yield frame

    def see(self, frame: np.ndarray) -> None:
        """Look at the next frame."""
        small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        grey, pixels = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), small[self._away].astype(np.float64)
        if not self._moved:
            self._first, self._grey = pixels, grey
        flow = self._flow.calc(self._grey, grey, None)
        self._moved.append(_mean(np.linalg.norm(flow, axis=2)[self._head]) / SIDE)
        self._left.append(float(np.sqrt(_mean((pixels - self._first) ** 2))))
        self._colours.append(pixels.mean(axis=0) if len(pixels) else np.zeros(3))
        self._sums += pixels, pixels**2
        rim = small[self._rim].astype(np.float64)
        self._rim_sums += rim, rim**2
        self._grey = grey

    def figures(self, fps: int) -> Figures:
        """`background_variance`: over time, the mean of pixels and channels, levels squared; `rim_variance`: the same
        of the rim between head and background, where hair and shoulders move with the head; `head_motion`: the mean, in
        parts per thousand of the crop's side a frame; `colour_drift`: of the background's mean colour from the first
        to the last seconds, in the channel that differs most, levels. The background's are None where the head leaves
        none, the head's where there are not two frames or no head."""
        count, has_background, colours = len(self._moved), bool(self._away.any()), np.array(self._colours)
        end = max(1, min(round(END_S * fps), count // 4))
        drift = float(np.abs(colours[-end:].mean(axis=0) - colours[:end].mean(axis=0)).max()) if count else 0.0
        moves = count > 1 and bool(self._head.any())
        return {
            "background_variance": _variance(self._sums, count) if has_background else None,
            "rim_variance": _variance(self._rim_sums, count) if self._rim.any() else None,
            "head_motion": round(1000 * float(np.mean(self._moved[1:])), 3) if moves else None,
            "colour_drift": round(drift, 3) if has_background else None,
        }

    def curves(self) -> dict[str, list[float]]:
        """By time, at most POINTS of each: how far the background is from its first picture (levels, root mean square),
        how far its mean colour is (levels), and the head's motion as in `figures`."""
        colours = np.array(self._colours)
        shift = np.abs(colours - colours[:1]).max(axis=1) if len(colours) else np.zeros(0)
        curves = {"background": self._left, "colour": shift, "head": 1000 * np.array(self._moved)}
        return {name: _thinned(np.asarray(curve)) for name, curve in curves.items()}


def compared(before: Watch, after: Watch, fps: int) -> Figures:
    """Both watches of one clip as a sidecar's JSON value."""
    return {
        "before": before.figures(fps),
        "after": after.figures(fps),
        "curves": {"before": before.curves(), "after": after.curves()},
    }


def _variance(sums: np.ndarray, count: int) -> float:
    mean, square = sums / max(count, 1)
    return round(float((square - mean**2).mean()), 4)


def _mean(values: np.ndarray) -> float:
    """0 of none."""
    return float(values.mean()) if values.size else 0.0


def _thinned(curve: np.ndarray) -> list[float]:
    """The means of at most POINTS pieces of equal length."""
    pieces = np.array_split(curve, min(POINTS, len(curve))) if len(curve) else []
    return [round(float(piece.mean()), 3) for piece in pieces]
