"""Does the background stay, and the head move as before? A generated clip against the same clip after stabilisation.

PYTHONPATH=. python tests/steady.py RESULTS MANIFEST     prints a line a clip
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from linker.compose import read_masks
from linker.media import read_frames

AWAY = 0.16  # of the crop's side: what is farther from the head is background
SIDE = 192


@dataclass(frozen=True)
class Steadiness:
    """Of one clip: variance over time of background pixels (levels squared, mean of channels), motion of the head
    (pixels a frame, of 192), and the change of the background's mean colour from its first to its last seconds."""

    variance: float
    motion: float
    colour_drift: float


def measure(video: Path, masks: Path, fps: int = 25) -> Steadiness:
    """Streamed: memory does not grow with length."""
    head = cv2.resize(read_masks(masks)["head"], (SIDE, SIDE)) > 0.5
    away = cv2.distanceTransform((~head).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > AWAY * SIDE
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    total, squares, count = np.zeros((away.sum(), 3)), np.zeros((away.sum(), 3)), 0
    colours, motions, before = [], [], None
    for frame in read_frames(video):
        small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        pixels = small[away].astype(np.float64)
        total, squares, count = total + pixels, squares + pixels**2, count + 1
        colours.append(pixels.mean(axis=0))
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        if before is not None:
            motions.append(np.linalg.norm(flow.calc(before, grey, None), axis=2)[head].mean())
        before = grey
    variance = (squares / count - (total / count) ** 2).mean()
    ends = np.mean(colours[: 5 * fps], axis=0), np.mean(colours[-5 * fps :], axis=0)
    return Steadiness(float(variance), float(np.mean(motions)), float(np.abs(ends[1] - ends[0]).max()))


def main() -> None:
    from linker.manifest import read_manifest

    results = Path(sys.argv[1])
    rows = read_manifest(Path(sys.argv[2])).rows
    for row in rows:
        clip, masks = row.clip, results / "portraits" / row.portrait_id / "masks.npz"
        before, after = (measure(results / "clips" / clip / f"{name}.mkv", masks) for name in ("generated", "stable"))
        less = 1 - after.variance / before.variance
        print(f"{clip:10} background variance {before.variance:.3f} -> {after.variance:.4f} ({less:.1%} less),",
              f"motion of the head x {after.motion / before.motion:.3f},",
              f"colour drift {before.colour_drift:.2f} -> {after.colour_drift:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
