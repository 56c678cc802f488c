"""measure_syncnet: SyncNet's embeddings of every face in a video, where the user has given its weights.

The face is cut out as the authors do it: its box, smoothed over 13 frames, 0.4 of its size around it and more below.
Their face detector is replaced by the landmarks' box, so scores may differ a little from theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.signal import medfilt

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.curate.faces import restored
from linker.curate.measure import Measures
from linker.curate.verdicts import Segment
from linker.landmarks import OVAL
from linker.media import read_audio
from linker.model.syncnet import FACE_PX, WINDOW, Score, embed_lips, embed_sound, load_syncnet, score
from linker.records import atomic
from linker.ticks import ticks

Embeddings = dict[str, np.ndarray]
CROP_SCALE, SMOOTHED, PAD = 0.4, 13, 110  # of the authors' run_pipeline.py


def measure_syncnet(video: Path, measures: Path, sound: Path, weights: Path, embeddings: Path) -> None:
    """Write `embeddings` (.npz): sound (T - 5, 1024) float16 and for each slot `lips{slot}`, whose first row is of the
    frame `first{slot}`; a refused video has none."""
    net = load_syncnet(weights)
    with np.load(measures) as arrays:
        refused = "points" not in arrays
    found: dict[str, Any] = {}
    if not refused:
        looked, (samples, _) = Measures.load(measures), read_audio(sound, SAMPLE_RATE_HZ)
        count = max(0, min(len(looked), len(samples) * FPS // SAMPLE_RATE_HZ) - WINDOW)
        found["sound"] = embed_sound(net, samples, count).astype(np.float16)
        for slot in range(looked.points.shape[1]):
            first, crops = face_crops(video, looked, slot)
            found[f"first{slot}"] = np.array(first)
            found[f"lips{slot}"] = embed_lips(net, crops)[: max(0, count - first)].astype(np.float16)
    with atomic(embeddings) as temporary:
        np.savez(temporary, **found)


def face_crops(video: Path, measures: Measures, slot: int) -> tuple[int, Iterator[np.ndarray]]:
    """The first frame in which a slot's face is seen, and uint8 (224, 224, 3) of each from there to its last."""
    points = restored(measures.points[:, slot])[:, list(OVAL)] / float(measures.scale)
    seen = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    if not len(seen):
        return 0, iter(())
    first, last = int(seen[0]), int(seen[-1]) + 1
    low, high = (_smooth(edge[first:last]) for edge in (points.min(1), points.max(1)))
    half, middle = (high - low).max(1) / 2, (low + high) / 2
    frames = (tick.frame for tick in islice(ticks(video), first, last))
    return first, (crop(frame, middle[i], half[i]) for i, frame in enumerate(frames))


def _smooth(edge: np.ndarray) -> np.ndarray:
    """(T, 2) with unseen frames between their neighbours', then a median over up to SMOOTHED frames."""
    times, seen = np.arange(len(edge)), np.isfinite(edge[:, 0])
    width = min(SMOOTHED, len(edge) - 1 + len(edge) % 2)
    return np.stack([medfilt(np.interp(times, times[seen], column[seen]), width) for column in edge.T], 1)


def crop(frame: np.ndarray, middle: np.ndarray, half: float) -> np.ndarray:
    """The square about a face, grey beyond the picture: uint8 (224, 224, 3)."""
    reach = int(half * (1 + 2 * CROP_SCALE))
    padded = cv2.copyMakeBorder(frame, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(PAD, PAD, PAD))
    x, y = (int(value) + reach for value in middle)
    wide = int(half * (1 + CROP_SCALE))
    square = padded[max(0, y - int(half)) : y + reach, max(0, x - wide) : x + wide]
    return cv2.resize(square, (FACE_PX, FACE_PX)) if square.size else np.full((FACE_PX, FACE_PX, 3), PAD, np.uint8)


def load_embeddings(path: Path) -> Embeddings:
    """What measure_syncnet wrote."""
    with np.load(path) as arrays:
        return dict(arrays)


def segment_score(embeddings: Embeddings, segment: Segment) -> Score | None:
    """Sync-C, Sync-D and offset of a segment's face; None where it has no embeddings."""
    if f"lips{segment.slot}" not in embeddings:
        return None
    lips, start = embeddings[f"lips{segment.slot}"], int(embeddings[f"first{segment.slot}"])
    first, last = max(segment.first, start), min(segment.last, start + len(lips))
    if last <= first:
        return None
    return score(
        lips[first - start : last - start].astype(np.float32), embeddings["sound"][first:last].astype(np.float32)
    )
