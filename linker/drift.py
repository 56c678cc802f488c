"""Has a clip drifted from its portrait? The last frame of a window against the portrait as the codec gives it back.

Windows follow each other: what one blurs, tints or deforms, the next takes for the truth. Where a window's end has left
the portrait too far behind, the next begins as the first one did, from the portrait itself (section 3.1; training sees
that start too). Identity is likeness in the picture: no network that knows people is licensed for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHARPNESS = (0.6, 1.8)  # of the portrait's; the embedded weights stay within 0.99 and 1.14 over a minute
COLOUR_LEVELS = 12.0  # mean colour of the face, of 255, in the channel that differs most
LIKENESS = 0.6  # correlation of the head with the portrait's, a little moved
SMALL_PX, SHIFT_PX = 64, 6


@dataclass(frozen=True)
class Drift:
    """How far a frame is from its portrait: sharpness as a share of the portrait's, colour in levels, likeness 0..1."""

    sharpness: float
    colour: float
    likeness: float

    @property
    def is_breach(self) -> bool:
        low, high = SHARPNESS
        return not (low <= self.sharpness <= high) or self.colour > COLOUR_LEVELS or self.likeness < LIKENESS


class Guard:
    """Knows a portrait and says how far a frame has drifted from it.

    `portrait` uint8 (S,S,3) as the codec decodes it; `masks` float (3,H,W): head, mouth, eyes.
    """

    def __init__(self, portrait: np.ndarray, masks: np.ndarray) -> None:
        side = portrait.shape[0]
        head, whole = (
            cv2.resize(mask.astype(np.float32), (side, side)) > 0.5 for mask in (masks[0], masks.max(axis=0))
        )
        skin = cv2.erode(head.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        self._skin = skin if skin.any() else np.ones_like(skin)
        self._box = _box(whole)
        self._detail, self._colour = _detail(portrait, self._skin), portrait[self._skin].mean(axis=0)
        self._small = self._shrunk(portrait)[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX]

    def look(self, frame: np.ndarray) -> Drift:
        """uint8 (S,S,3) -> its drift."""
        small = self._shrunk(frame)
        near = cv2.matchTemplate(small, self._small, cv2.TM_CCOEFF_NORMED) if small.std() > 1 else np.zeros(1)
        return Drift(
            sharpness=_detail(frame, self._skin) / max(self._detail, 1e-3),
            colour=float(np.abs(frame[self._skin].mean(axis=0) - self._colour).max()),
            likeness=float(np.nan_to_num(near, posinf=0, neginf=0).max()),
        )

    def _shrunk(self, picture: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(picture[self._box], cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA).astype(np.float32)


def _detail(picture: np.ndarray, where: np.ndarray) -> float:
    """Deviation of the Laplacian, in levels: what a blur takes away."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (3, 3), 0)
    return float(cv2.Laplacian(grey, cv2.CV_32F)[where].std())


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return slice(None), slice(None)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
