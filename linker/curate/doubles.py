"""How segments look, and which of them are the same footage twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.signal import correlate

from linker.config import FPS
from linker.curate.faces import lip_shape
from linker.curate.measure import Measures
from linker.curate.verdicts import Segment
from linker.records import atomic

SAME_FOOTAGE = 0.6  # share of a segment's pictures that the other has too
SAME_LIPS, LEAST_SHARED = 0.9, 50  # correlation of two openings, over at least so many frames
TINY = 1e-8  # variance of an opening that does not move, face heights squared
BANDS = 4  # of a 64-bit picture hash: two near ones share at least half
Seen = dict[tuple[int, int], dict[str, None]]  # band of a hash -> segments that have it, in order


@dataclass(frozen=True)
class Look:
    """What a segment shows, small: `face` (768,) the median upright face without its mean and contrast, a unit vector;
    `hashes` (n,) uint64 of a picture a second; `opening` (T,) of the mouth, unseen frames as closed."""

    face: np.ndarray
    hashes: np.ndarray
    opening: np.ndarray


def look_at(measures: Measures, segment: Segment) -> Look:
    """Of a segment with a face."""
    assert segment.slot is not None
    face = mean_face(measures.tiles[segment.span, segment.slot])
    lips = lip_shape(measures.points[segment.span, segment.slot])[:, 0]
    return Look(face, picture_hashes(measures.thumbs[segment.span][::FPS]), np.nan_to_num(lips).astype(np.float32))


def save_looks(path: Path, looks: dict[int, Look]) -> None:
    """Write those of a video's segments, by number (.npz)."""
    arrays: dict[str, Any] = {
        f"{name}{number}": value for number, look in looks.items() for name, value in vars(look).items()
    }
    with atomic(path) as temporary:
        np.savez(temporary, **arrays)


def load_look(path: Path, number: int) -> Look:
    """One of what `save_looks` wrote."""
    with np.load(path) as arrays:
        return Look(*(arrays[f"{field.name}{number}"] for field in fields(Look)))


def mean_face(tiles: np.ndarray) -> np.ndarray:
    """Of upright faces uint8 (T, 32, 32, 3), black where unseen."""
    seen = tiles[tiles.any((1, 2, 3))]
    face = np.median(seen[:: max(1, len(seen) // 20)], 0) if len(seen) else np.zeros(tiles.shape[1:])
    small = cv2.resize(face.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    centred = (small - small.mean((0, 1))).ravel()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6))


def find_doubles(looks: dict[str, Look]) -> dict[str, str]:
    """Segment key -> the earlier segment that shows the same: pictures with the same hashes, and lips that move alike
    (one person before one wall looks the same in every sentence)."""
    seen: Seen = {}
    doubles: dict[str, str] = {}
    for key, look in looks.items():
        hashes = [int(value) for value in look.hashes]
        shared = Counter(other for value in hashes for other in _near(value, seen))
        alike = (other for other, count in shared.items() if count >= SAME_FOOTAGE * len(hashes))
        double = next((other for other in alike if same_lips(look.opening, looks[other].opening)), "")
        if double:
            doubles[key] = double
        for value in hashes:
            for band in _bands(value):
                seen.setdefault(band, {})[key] = None
    return doubles


def same_lips(a: np.ndarray, b: np.ndarray) -> bool:
    """True when the two curves correlate over at least LEAST_SHARED frames at some shift."""
    a, b = (np.asarray(curve, np.float64) - curve.mean() for curve in (a, b))
    ones_a, ones_b = np.ones(len(a)), np.ones(len(b))
    count = correlate(ones_a, ones_b)
    enough = count.round() >= LEAST_SHARED
    if not enough.any():
        return False
    count = count[enough]
    sum_a, sum_b, product = (correlate(*pair)[enough] for pair in ((a, ones_b), (ones_a, b), (a, b)))
    spread_a = correlate(a * a, ones_b)[enough] - sum_a**2 / count
    spread_b = correlate(ones_a, b * b)[enough] - sum_b**2 / count
    moving = (spread_a > TINY * count) & (spread_b > TINY * count)
    shared = product - sum_a * sum_b / count
    return bool((shared[moving] > SAME_LIPS * np.sqrt(spread_a[moving] * spread_b[moving])).any())


def _near(value: int, seen: Seen) -> list[str]:
    """Segments with a picture that shares at least half of a hash's bands, in the order they came."""
    hits = Counter(other for band in _bands(value) for other in seen.get(band, ()))
    return [other for other, count in hits.items() if count >= BANDS // 2]


def _bands(value: int) -> list[tuple[int, int]]:
    return [(i, value >> (16 * i) & 0xFFFF) for i in range(BANDS)]


def picture_hashes(thumbs: np.ndarray) -> np.ndarray:
    """64-bit difference hashes of small pictures (n, h, w, 3): uint64 (n,)."""
    grays = (cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY) for thumb in thumbs)
    small = np.stack([cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(int) for gray in grays])
    return np.packbits((np.diff(small, axis=2) > 0).reshape(len(small), 64), axis=1).view(">u8")[:, 0].astype(np.uint64)
