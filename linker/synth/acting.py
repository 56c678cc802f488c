"""How one training video differs from plain speech: how far each region moves, from which expression, how tilted.

A net learns what scale and range mean (Eqs. 1 and 2) from videos whose regions move by as much as these say.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from linker.config import REGIONS
from linker.synth.drawing import Array
from linker.synth.motion import Motion
from linker.synth.regions import Outlines

CURVES = {  # region -> what moves in it
    "head": ("yaw_deg", "pitch_deg", "roll_deg", "x", "y"),
    "mouth": ("open", "width"),
    "eyes": ("blink", "brow", "gaze_x", "gaze_y"),
}
LIMITS = {"open": (0.0, 1.25), "width": (-1.2, 1.2), "blink": (0.0, 1.0), "brow": (-1.0, 1.0)}
DIRECTED = 0.7  # share of videos whose regions do not all move as the speech asks
GRINS = 0.25  # share that begins with a smile or an open mouth
LEAN = 0.4  # share whose picture is tilted
LEAN_DEG = 25.0


@dataclass(frozen=True)
class Acting:
    """scales and ranges: of head, mouth and eyes, 1 = as the speech asks; grin: (open, width, teeth) of the first
    frame, or none; lean_deg: turn of the whole picture, clockwise."""

    scales: NDArray[np.float32]
    ranges: NDArray[np.float32]
    grin: tuple[float, float, float] | None = None
    lean_deg: float = 0.0

    def performed(self, motion: Motion) -> Motion:
        """The motion with its start and its amplitudes; what a region does not do, it keeps from the first frame."""
        motion = leaving(motion, self.grin) if self.grin else motion
        strength = dict(zip(REGIONS, self.scales * self.ranges, strict=True))
        moved = {}
        for region, names in CURVES.items():
            for name in names:
                curve = getattr(motion, name)
                moved[name] = np.clip(curve[0] + strength[region] * (curve - curve[0]), *LIMITS.get(name, (-90, 90)))
        return motion.with_curves(**moved)


def draw_acting(seed: int) -> Acting:
    """The acting of video `seed`."""
    rng = np.random.default_rng([seed, 11])
    scales, ranges = np.ones(3, np.float32), np.ones(3, np.float32)
    if rng.random() < DIRECTED:
        scales = np.where(rng.random(3) < 0.3, 0, rng.uniform(0.3, 2, 3)).astype(np.float32)
        scales = np.where(rng.random(3) < 0.35, 1, scales).astype(np.float32)
        ranges = np.where(rng.random(3) < 0.5, 1, np.exp(rng.uniform(np.log(0.5), np.log(1.8), 3))).astype(np.float32)
    grin = (rng.uniform(0, 0.5), rng.uniform(0, 1), rng.uniform(0.5, 1)) if rng.random() < GRINS else None
    lean = float(rng.uniform(-LEAN_DEG, LEAN_DEG)) if rng.random() < LEAN else 0.0
    return Acting(scales, ranges, grin, lean)


def leaving(motion: Motion, grin: tuple[float, float, float]) -> Motion:
    """The motion from another first mouth, left within 6 frames."""
    share = np.clip(1 - np.arange(len(motion)) / 6, 0, 1).astype(np.float32)
    share = share * share * (3 - 2 * share)
    names = ("open", "width", "teeth")
    first = dict(zip(names, grin, strict=True))
    return motion.with_curves(**{name: (1 - share) * getattr(motion, name) + share * first[name] for name in names})


def leaned(frames: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Square frames (T, S, S, 3) turned about their middle; what comes in at the edge is mirrored."""
    if not degrees:
        return frames
    turn = turning(frames.shape[1], degrees)
    size = frames.shape[1:3]
    return np.stack([cv2.warpAffine(frame, turn, size, borderMode=cv2.BORDER_REFLECT_101) for frame in frames])


def leaned_outlines(outlines: Outlines, side: int, degrees: float) -> Outlines:
    """Outlines in frame pixels, turned as `leaned` turns frames."""
    turn = turning(side, degrees)
    return {name: np.asarray(points @ turn[:, :2].T + turn[:, 2], np.float32) for name, points in outlines.items()}


def turning(side: int, degrees: float) -> Array:
    """(2, 3): a clockwise turn about the middle of a square."""
    return cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -degrees, 1.0)
