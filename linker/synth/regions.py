"""Region outlines of moving faces as the masks and boxes the model is trained with: head, mouth, eyes."""

from __future__ import annotations

import cv2
import numpy as np

from linker.synth.drawing import SHIFT, Array, fixed

Outlines = dict[str, Array]  # "head", "mouth", "left", "right" (eye with brow) -> (T, n, 2) frame pixels
FINE_PX = 192  # masks are drawn at about this size before they are averaged


def region_boxes(outlines: Outlines) -> Array:
    """Boxes (T, 3, 4) x0, y0, x1, y1 in frame pixels of head, mouth and both eyes."""
    groups = (outlines["head"], outlines["mouth"], np.concatenate([outlines["left"], outlines["right"]], 1))
    return np.stack([np.concatenate([g.min(1), g.max(1)], -1) for g in groups], 1)


def region_masks(outlines: Outlines, frame_px: int, size_px: int) -> Array:
    """(T, 3, size_px, size_px) float32, 0..1, area-averaged and disjoint: head (minus the others), mouth, eyes."""
    fine = size_px * max(1, round(FINE_PX / size_px))
    scale = fine / frame_px
    out = np.empty((len(outlines["head"]), 3, size_px, size_px), np.float32)
    for i, frame in enumerate(out):
        head, mouth, eyes = (np.zeros((fine, fine), np.uint8) for _ in range(3))
        for layer, name in ((head, "head"), (mouth, "mouth"), (eyes, "left"), (eyes, "right")):
            cv2.fillPoly(layer, [fixed(outlines[name][i] * scale)], 1, cv2.LINE_8, SHIFT)
        eyes &= 1 - mouth
        head &= 1 - (mouth | eyes)
        for k, region in enumerate((head, mouth, eyes)):
            frame[k] = cv2.resize(region.astype(np.float32), (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.clip(out, 0, 1)
