"""measure_syncnet: SyncNet's embeddings of a video's main face, where the user has given its weights.

The face is cut out as the authors do it: its box, smoothed over 13 frames, 0.4 of its size around it and more below.
Their face detector is replaced by the landmarks' box, so scores may differ a little from theirs.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from scipy.signal import medfilt

from linker.config import SAMPLE_RATE_HZ
from linker.curate.faces import heights_px, restored
from linker.curate.measure import READ_PX, Measures
from linker.curate.verdicts import Segment
from linker.landmarks import OVAL
from linker.media import read_audio
from linker.model.syncnet import FACE_PX, Score, embed, load_syncnet, score
from linker.records import atomic
from linker.ticks import ticks

CROP_SCALE, SMOOTHED, PAD = 0.4, 13, 110  # of the authors' run_pipeline.py


def measure_syncnet(video: Path, measures: Path, sound: Path, weights: Path, embeddings: Path) -> None:
    """Write `embeddings` (.npz): lips and sound (T - 5, 1024) float16; empty where no face was followed."""
    net = load_syncnet(weights)
    with np.load(measures) as arrays:
        refused = "points" not in arrays
    if refused:
        lips = heard = np.zeros((0, 1024), np.float32)
    else:
        samples, _ = read_audio(sound, SAMPLE_RATE_HZ)
        lips, heard = embed(net, face_crops(video, Measures.load(measures)), samples)
    with atomic(embeddings) as temporary:
        np.savez(temporary, lips=lips.astype(np.float16), sound=heard.astype(np.float16))


def face_crops(video: Path, measures: Measures) -> np.ndarray:
    """uint8 (T, 224, 224, 3) of the face that is seen longest and largest; (0, ...) without one."""
    sizes = np.nan_to_num(np.stack([heights_px(points) for points in measures.points.swapaxes(0, 1)])).sum(1)
    points = restored(measures.points[:, int(sizes.argmax())])[:, list(OVAL)] / float(measures.scale)
    if not np.isfinite(points).any():
        return np.zeros((0, FACE_PX, FACE_PX, 3), np.uint8)
    low, high = (_smooth(edge) for edge in (points.min(1), points.max(1)))
    half, middle = (high - low).max(1) / 2, (low + high) / 2
    crops = [crop(t.frame, middle[i], half[i]) for i, t in enumerate(ticks(video, READ_PX)) if i < len(measures)]
    return np.stack(crops)


def _smooth(edge: np.ndarray) -> np.ndarray:
    """(T, 2) with unseen frames between their neighbours', then a median over SMOOTHED frames."""
    times, seen = np.arange(len(edge)), np.isfinite(edge[:, 0])
    return np.stack([medfilt(np.interp(times, times[seen], column[seen]), SMOOTHED) for column in edge.T], 1)


def crop(frame: np.ndarray, middle: np.ndarray, half: float) -> np.ndarray:
    """The square about a face, grey beyond the picture: uint8 (224, 224, 3)."""
    reach = int(half * (1 + 2 * CROP_SCALE))
    padded = cv2.copyMakeBorder(frame, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(PAD, PAD, PAD))
    x, y = (int(value) + reach for value in middle)
    wide = int(half * (1 + CROP_SCALE))
    square = padded[max(0, y - int(half)) : y + reach, max(0, x - wide) : x + wide]
    return cv2.resize(square, (FACE_PX, FACE_PX)) if square.size else np.full((FACE_PX, FACE_PX, 3), PAD, np.uint8)


def segment_score(embeddings: Path, segment: Segment) -> Score | None:
    """Sync-C, Sync-D and offset of a segment; None where it has no embeddings."""
    with np.load(embeddings) as arrays:
        lips, heard = (arrays[name][segment.span].astype(np.float32) for name in ("lips", "sound"))
    return score(lips, heard) if len(lips) else None
