"""What a drawn face does over time: one number a frame for each thing that can move, the same for all portraits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """Curves of shape (T,), float32, one value a frame. All zero is the rest: mouth closed, eyes open and ahead."""

    open: Curve  # jaw: 0 closed .. 1 wide open
    width: Curve  # mouth: -1 rounded .. +1 spread
    teeth: Curve  # how far the upper teeth show in an open mouth: 0 .. 1
    blink: Curve  # 0 open eyes .. 1 closed
    brow: Curve  # -1 lowered .. +1 raised
    gaze_x: Curve  # -1 .. +1, positive = towards the picture's right
    gaze_y: Curve  # -1 .. +1, positive = down
    yaw_deg: Curve  # -25 .. 25, positive = the nose moves to the picture's right
    pitch_deg: Curve  # -15 .. 15, positive = the nose moves down
    roll_deg: Curve  # -12 .. 12, positive = clockwise as seen
    x: Curve  # shift of the head to the right, face heights, -0.08 .. 0.08
    y: Curve  # shift of the head down, face heights, -0.08 .. 0.08
    breath: Curve  # 0 .. 1, lifts the shoulders a little

    def __len__(self) -> int:
        return len(self.open)

    def __getitem__(self, frames: slice) -> Motion:
        """The motion of a slice of frames."""
        return Motion(**{f.name: getattr(self, f.name)[frames] for f in fields(self)})

    def with_curves(self, **curves: Curve | float) -> Motion:
        """A copy with some curves replaced; a number is held over all frames."""
        full = {name: np.broadcast_to(np.asarray(value, np.float32), (len(self),)) for name, value in curves.items()}
        return replace(self, **full)


def rest(frames: int) -> Motion:
    """The motion of a face that does nothing for `frames` frames (teeth show half, once the mouth is opened)."""
    zero = np.zeros(frames, np.float32)
    still = Motion(**{f.name: zero for f in fields(Motion)})
    return still.with_curves(teeth=0.6)
