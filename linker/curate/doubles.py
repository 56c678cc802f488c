"""Who speaks in which segment, and which segments are the same footage twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.signal import correlate

from linker.config import FPS
from linker.curate.faces import lip_shape

if TYPE_CHECKING:
    from linker.curate.funnel import Judged

SAME_PERSON = 0.92  # correlation of two mean upright faces
SAME_FOOTAGE = 0.6  # share of a segment's pictures that the other has too
SAME_LIPS, LEAST_SHARED = 0.9, 50  # correlation of two openings, over at least so many frames
TINY = 1e-8  # variance of an opening that does not move, face heights squared
BANDS = 4  # of a 64-bit picture hash: two near ones share at least half
Seen = dict[tuple[int, int], dict[str, None]]  # band of a hash -> segments that have it, in order


def identities(kept: list[Judged], measured: dict[str, Path]) -> dict[str, str]:
    """Segment key -> who: the list's word, otherwise the first segment with a face that looks the same."""
    names: dict[str, str] = {}
    groups: list[tuple[str, np.ndarray]] = []
    for segment in kept:
        face = mean_face(segment, measured)
        best = max(groups, key=lambda group: float(group[1] @ face), default=None)
        if segment.video.identity:
            names[segment.key] = segment.video.identity
        elif best is not None and float(best[1] @ face) > SAME_PERSON:
            names[segment.key] = best[0]
        else:
            names[segment.key] = segment.key
        groups.append((names[segment.key], face))
    return names


def mean_face(segment: Judged, measured: dict[str, Path]) -> np.ndarray:
    """The segment's median upright face without its mean and contrast: a unit vector."""
    with np.load(measured[segment.video.id]) as arrays:
        tiles = arrays["tiles"][segment.first : segment.last, segment.slot or 0]
    seen = tiles[tiles.any((1, 2, 3))]
    face = np.median(seen[:: max(1, len(seen) // 20)], 0)
    small = cv2.resize(face.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    centred = (small - small.mean((0, 1))).ravel()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6))


def find_doubles(kept: list[Judged], measured: dict[str, Path]) -> dict[str, str]:
    """Segment key -> the earlier segment that shows the same: pictures with the same hashes, and lips that move alike
    (one person before one wall looks the same in every sentence)."""
    seen: Seen = {}
    doubles: dict[str, str] = {}
    openings: dict[str, np.ndarray] = {}
    for segment in kept:
        hashes = picture_hashes(segment, measured)
        shared = Counter(other for value in hashes for other in _near(value, seen))
        alike = (other for other, count in shared.items() if count >= SAME_FOOTAGE * len(hashes))
        own = opening(segment, measured)
        double = next((other for other in alike if same_lips(own, openings[other])), "")
        if double:
            doubles[segment.key] = double
        openings[segment.key] = own
        for value in hashes:
            for band in _bands(value):
                seen.setdefault(band, {})[segment.key] = None
    return doubles


def opening(segment: Judged, measured: dict[str, Path]) -> np.ndarray:
    """(T,) how far the mouth opens in each frame, unseen frames as closed."""
    with np.load(measured[segment.video.id]) as arrays:
        points = arrays["points"][segment.first : segment.last, segment.slot or 0]
    return np.nan_to_num(lip_shape(points)[:, 0])


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


def picture_hashes(segment: Judged, measured: dict[str, Path]) -> list[int]:
    """A 64-bit difference hash of one small picture a second."""
    with np.load(measured[segment.video.id]) as arrays:
        thumbs = arrays["thumbs"][segment.first : segment.last : FPS]
    hashes = []
    for thumb in thumbs:
        small = cv2.resize(cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(int)
        hashes.append(int("".join("1" if bit else "0" for bit in (np.diff(small, axis=1) > 0).ravel()), 2))
    return hashes
