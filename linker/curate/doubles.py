"""Who speaks in which segment, and which segments are the same footage twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from linker.config import FPS
from linker.curate.faces import lip_shape

if TYPE_CHECKING:
    from linker.curate.funnel import Judged

SAME_PERSON = 0.92  # correlation of two mean upright faces
SAME_FOOTAGE = 0.6  # share of a segment's pictures that the other has too
SAME_LIPS, LEAST_SHARED = 0.9, 50  # correlation of two openings, over at least so many frames
BANDS = 4  # of a 64-bit picture hash: two near ones share at least one


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
    seen: dict[tuple[int, int], list[str]] = {}
    doubles: dict[str, str] = {}
    openings: dict[str, np.ndarray] = {}
    for segment in kept:
        hashes = picture_hashes(segment, measured)
        found = [other for value in hashes for band in _bands(value) for other in set(seen.get(band, ()))]
        shares = {other: sum(other in _near(value, seen) for value in hashes) / len(hashes) for other in set(found)}
        alike = (other for other, share in shares.items() if share >= SAME_FOOTAGE)
        own = opening(segment, measured)
        double = next((other for other in alike if same_lips(own, openings[other])), "")
        if double:
            doubles[segment.key] = double
        openings[segment.key] = own
        for value in hashes:
            for band in _bands(value):
                seen.setdefault(band, []).append(segment.key)
    return doubles


def opening(segment: Judged, measured: dict[str, Path]) -> np.ndarray:
    """(T,) how far the mouth opens in each frame, unseen frames as closed."""
    with np.load(measured[segment.video.id]) as arrays:
        points = arrays["points"][segment.first : segment.last, segment.slot or 0]
    return np.nan_to_num(lip_shape(points)[:, 0])


def same_lips(a: np.ndarray, b: np.ndarray) -> bool:
    """True when the two curves agree over at least LEAST_SHARED frames at some shift."""
    shifts = range(LEAST_SHARED - len(b), len(a) - LEAST_SHARED + 1)
    return any(_agree(a[max(0, s) : s + len(b)], b[max(0, -s) : len(a) - s]) for s in shifts)


def _agree(a: np.ndarray, b: np.ndarray) -> bool:
    spread = float(a.std() * b.std())
    return spread > 0 and float(((a - a.mean()) * (b - b.mean())).mean()) / spread > SAME_LIPS


def _near(value: int, seen: dict[tuple[int, int], list[str]]) -> set[str]:
    """Segments with a picture that shares at least half of a hash's bands."""
    hits = [other for band in _bands(value) for other in set(seen.get(band, ()))]
    return {other for other in hits if hits.count(other) >= BANDS // 2}


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
