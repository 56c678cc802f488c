"""Stage 1: something before the face, or the face gone.

A face is compared with itself: put upright into a small tile, most of its places keep their colour while it talks.
What covers it is found as places that leave their usual range together, for several frames; hands are also found by
their own detector. What is worn throughout is the face's usual look: it is found as a lower half of one colour, or of
another colour than the face above it, at whose mouth nothing but its place changes.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import median_filter

from linker.config import CurateSettings
from linker.curate.faces import TILE_PX, heights_px, restored
from linker.curate.measure import EVERY, Measures
from linker.curate.verdicts import Segment, Verdict, stretches, sustained
from linker.landmarks import LEFT_EYE, OVAL, RIGHT_EYE, Box, crop_box

CELLS = 16  # a tile is judged on 16 x 16 places
HOLD = 5  # frames that something must stay: shorter than that is a blink or a blur
LASTING = 7  # frames whose middle look counts: lips come and go, what covers them stays
LEAST_CHANGE, LESSER_CHANGE = 10.0, 5.0  # CIELAB distances: no shade of the same skin; perhaps one
UNLIKE, LESS_ALIKE = 0.4, 0.3  # local correlation with the usual look; how far below the usual correlation
FLAT = 9.0  # variance of grey levels that counts as no structure
HAND_CHANGES = 0.03  # share of the face that a hand before it changes at least: the detector also sees hands in faces
USUAL = 3.5  # robust deviations that a place stays within
MOUTH_CHANGE = 4.0  # CIELAB distance at a mouth, where another structure decides
MOUTH_COUNTS = 0.55  # of a face, that its mouth alone counts for: a third of it may be covered
SMILES = 1.75  # share of a mouth that changes when it smiles, a unit of width
WORN_STILL, CLOTH_STILL = 1.35, 2.7  # times the change of forehead and cheeks: a mouth that speaks changes more
WORN_PLAIN, CLOTH_PLAIN = 4.5, 12.0  # CIELAB distance of colour within the lower half of a face: lips are further off
CLOTH_APART = 18.0  # distance of its colour, light aside, from the rest of the face: no beard's, no shadow's
OUTSIDE = 0.02  # of the face's height beyond an edge that does not count


def judge_occlusion(video: str, segment: Segment, measures: Measures, settings: CurateSettings) -> Verdict:
    """The score is the share of the face that stays covered for HOLD frames; 1 where the face is not seen."""
    (change, over_mouth), gone = covered(measures, segment), leaving(measures, segment)
    figures = {
        "covered": change,
        "mouth": MOUTH_COUNTS * over_mouth,
        "missing": missing(measures, segment),
        "hand": hand_over(measures, segment) * (change > HAND_CHANGES),
        "leaving": gone,
        "adrift": adrift(measures, segment) * (gone <= settings.occlusion),
        "worn": worn(measures, segment),
    }
    held = {name: sustained(figure, HOLD) for name, figure in figures.items()}
    peaks = {name: round(float(figure.max()), 4) for name, figure in held.items()}
    name = max(peaks, key=lambda name: peaks[name])
    kept = peaks[name] <= settings.occlusion
    frames = [] if kept else stretches(held[name] > settings.occlusion, segment.first)
    reason = "" if kept else _WORDS[name].format(peaks[name])
    return Verdict(
        video,
        segment.number,
        "occlusion",
        peaks[name],
        settings.occlusion,
        kept,
        "" if kept else name,
        reason,
        frames,
        peaks,
    )


_WORDS = {
    "covered": "something covers {:.0%} of the face",
    "mouth": "something covers the mouth",
    "missing": "the face is lost",
    "hand": "a hand covers {:.0%} of the face",
    "leaving": "{:.0%} of the face is outside the picture",
    "adrift": "{:.0%} of the face is outside the square that is cut out",
    "worn": "a mask or scarf hides the mouth throughout, {:.0%} of the face",
}


def missing(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) 1 where no face is followed."""
    assert segment.slot is not None
    return (~np.isfinite(measures.points[segment.span, segment.slot, 0, 0])).astype(np.float32)


def covered(measures: Measures, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """(T,) shares of the face's and of the mouth's places that have left their usual look; 0 where no face is seen.

    A place has left it by its colour alone, or by a lesser change of colour together with another structure: a hand
    may have the face's colour, but not its eyes, nose and lips. A mouth that speaks changes its colours by itself, but
    not for long the whole structure from nose to chin, unless it smiles: there it is structure that counts.
    """
    assert segment.slot is not None
    seen = missing(measures, segment) == 0
    face, mouth = np.zeros((2, len(seen)), np.float32)
    if seen.sum() >= 2 * HOLD:
        tiles = measures.tiles[segment.span, segment.slot][seen]
        distance, spread = _recoloured(np.stack([_cells(tile) for tile in tiles]))
        other, unlike = distance > np.maximum(LEAST_CHANGE, USUAL * spread), _restructured(tiles)
        touched = distance > np.maximum(LESSER_CHANGE, 2 * spread)
        face[seen] = (other | (touched & unlike))[:, _FACE].mean(1)
        changed = ((distance > MOUTH_CHANGE) & unlike)[:, _LIPS].mean(1)
        mouth[seen] = np.maximum(changed - SMILES * smile(measures.points[segment.span, segment.slot][seen]), 0)
    return face, mouth


def smile(points: np.ndarray) -> np.ndarray:
    """(T,) how much wider the mouth is than usual, as a share; 0 where it is not. Points are all seen."""
    mesh = restored(points)
    right, left = (mesh[:, list(eye)].mean(1) for eye in (RIGHT_EYE, LEFT_EYE))
    width = np.linalg.norm(mesh[:, 61] - mesh[:, 291], axis=1) / np.maximum(np.linalg.norm(left - right, axis=1), 1e-6)
    return np.maximum(width / max(float(np.median(width)), 1e-6) - 1, 0)


def _recoloured(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CIELAB (T, 16, 16, 3): how far each place is from its usual colour (T, 16, 16), and mostly is (16, 16)."""
    lab = median_filter(lab, (LASTING, 1, 1, 1), mode="nearest")
    usual = np.median(lab, 0)
    lab = lab - np.median((lab - usual)[:, _FACE], 1)[:, None, None]  # the light of the whole face may change
    distance = np.linalg.norm(lab - usual, axis=-1)
    return distance, 1.4826 * np.median(distance, 0)


def _restructured(tiles: np.ndarray) -> np.ndarray:
    """(T, 16, 16): places whose surroundings no longer correlate with how they mostly look."""
    gray = np.stack([cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY).astype(np.float32) for tile in tiles])
    gray = median_filter(gray, (LASTING, 1, 1), mode="nearest")
    usual = np.median(gray, 0)
    alike = np.stack([_alike(one, usual) for one in gray])
    return alike < np.minimum(UNLIKE, np.median(alike, 0) - LESS_ALIKE)


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Local correlation of two tiles over 7 x 7 pixels, at the cells (16, 16)."""
    size = (7, 7)
    mean_a, mean_b = cv2.blur(a, size), cv2.blur(b, size)
    var_a, var_b = cv2.blur(a * a, size) - mean_a**2, cv2.blur(b * b, size) - mean_b**2
    shared = cv2.blur(a * b, size) - mean_a * mean_b
    return cv2.resize(
        (shared + FLAT) / np.sqrt((var_a + FLAT) * (var_b + FLAT)), (CELLS, CELLS), interpolation=cv2.INTER_AREA
    )


def _cells(tile: np.ndarray) -> np.ndarray:
    """CIELAB (16, 16, 3) float32."""
    small = cv2.resize(tile, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cv2.cvtColor(small, cv2.COLOR_RGB2LAB)


def _face_cells() -> tuple[np.ndarray, np.ndarray]:
    """The oval of a face in its tile, and its mouth with what lies between nose and chin, (16, 16) bool."""
    rows, columns = np.mgrid[:CELLS, :CELLS] + 0.5
    oval = ((columns - CELLS / 2) / 4.6) ** 2 + ((rows - 8.2) / 5.6) ** 2 < 1
    return oval, (np.abs(columns - CELLS / 2) < 3) & (rows > 9) & (rows < 14)


_FACE, _LIPS = _face_cells()


def worn(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) share of the face that something worn throughout hides, 0 where mouth or lips are seen: the mouth's place
    hardly changes more than forehead, nose and cheeks do, and the lower half is of one colour, or of another colour
    than the upper."""
    assert segment.slot is not None
    seen = missing(measures, segment) == 0
    share = np.zeros(len(seen), np.float32)
    if seen.sum() >= 2 * HOLD:
        still, plain, apart = lower_half(measures.tiles[segment.span, segment.slot][seen])
        plainly = still < WORN_STILL and plain < WORN_PLAIN
        boldly = still < CLOTH_STILL and plain < CLOTH_PLAIN and apart > CLOTH_APART
        share[seen] = _LOW.sum() / _OVAL.sum() if plainly or boldly else 0
    return share


def lower_half(tiles: np.ndarray) -> tuple[float, float, float]:
    """What uint8 (T, 32, 32, 3) show of a mouth: the change over time at its place, as a multiple of that on forehead,
    nose and cheeks; how far colours (CIELAB's, light aside) of the lower half lie from its middle (90th percentile);
    how far that middle lies from the upper half's."""
    lab = np.stack([cv2.cvtColor(tile.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for tile in tiles])
    usual = np.median(lab, 0)
    lab = lab - np.median((lab - usual)[:, _OVAL], 1)[:, None, None]  # the light of the whole face may change
    mouth, calm = (_unmoved(lab - usual, usual, places) for places in (_MOUTH, _CALM))
    still = float(np.percentile(mouth, 75) / max(float(np.median(calm)), 0.5))
    colours, above = usual[_LOW][:, 1:], usual[_OVAL & ~_LOW][:, 1:]
    plain = float(np.percentile(np.linalg.norm(colours - np.median(colours, 0), axis=1), 90))
    return still, plain, float(np.linalg.norm(np.median(colours, 0) - np.median(above, 0)))


def _unmoved(change: np.ndarray, usual: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Root mean square (n,) over time of what no shift, zoom or shear of the usual look explains at n places: landmarks
    tremble, and a pattern then changes more than skin does."""
    down, across = np.gradient(usual, axis=(0, 1))
    rows, columns = (axis[..., None] - TILE_PX / 2 for axis in np.mgrid[:TILE_PX, :TILE_PX])
    ways = [way * by for way in (down, across) for by in (1, rows / TILE_PX, columns / TILE_PX)]
    basis, _ = np.linalg.qr(np.stack([way[places].ravel() for way in ways], 1))
    flat = change[:, places].reshape(len(change), -1)
    rest = flat - (flat @ basis) @ basis.T
    return np.asarray(np.sqrt(np.square(rest).reshape(len(change), -1, 3).sum(-1).mean(0)))


def _parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a tile, (32, 32) bool: the face's oval, its lower half, the mouth's place, and what speech leaves alone."""
    rows, columns = np.mgrid[:TILE_PX, :TILE_PX] + 0.5
    oval = ((columns - 16) / 9.2) ** 2 + ((rows - 16.4) / 11.2) ** 2 < 1
    mouth = oval & (np.abs(columns - 16) < 5) & (rows > 19) & (rows < 26)
    calm = oval & ((rows < 8) | ((rows > 11.5) & (rows < 18) & (np.abs(columns - 16) < 8)))
    return oval, oval & (rows > 18.5), mouth, calm


_OVAL, _LOW, _MOUTH, _CALM = _parts()


def hand_over(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) share of the face's oval that hands lie over, held between looks."""
    assert segment.slot is not None
    mesh = restored(measures.points[segment.span, segment.slot])
    share = np.zeros(len(mesh), np.float32)
    for i in range(len(mesh)):
        hands = measures.hands[min((segment.first + i) // EVERY, len(measures.hands) - 1)]
        if np.isfinite(mesh[i, OVAL[0], 0]) and np.isfinite(hands[:, 0, 0]).any():
            share[i] = _overlap(mesh[i, list(OVAL)], hands[np.isfinite(hands[:, 0, 0])])
    return share


def _overlap(oval: np.ndarray, hands: np.ndarray) -> float:
    """Share of an oval (36, 2) under the hulls of hands (n, 21, 2)."""
    corner = oval.min(0)
    scale = 64 / max(float(np.ptp(oval, axis=0).max()), 1.0)
    face, hand = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(((oval - corner) * scale).astype(np.int32)), 1)
    for points in hands:
        cv2.fillConvexPoly(hand, cv2.convexHull(((points - corner) * scale).astype(np.int32)), 1)
    return float((face & hand).sum() / max(int(face.sum()), 1))


def leaving(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) share of the face's height or width that lies beyond the picture's edge."""
    return _beyond(measures, segment, (0, 0, int(measures.size[1]), int(measures.size[0])))


def adrift(measures: Measures, segment: Segment) -> np.ndarray:
    """(T,) the same of the square that cut_segments takes: it stands still, so a head that wanders leaves it."""
    assert segment.slot is not None
    usual = restored(np.nanmedian(measures.points[segment.span, segment.slot], 0))
    return _beyond(measures, segment, crop_box(usual))


def _beyond(measures: Measures, segment: Segment, box: Box) -> np.ndarray:
    assert segment.slot is not None
    points = measures.points[segment.span, segment.slot]
    mesh = restored(points)[:, list(OVAL)]
    beyond = np.maximum(box[:2] - mesh.min(1), mesh.max(1) - box[2:]).max(1) / np.maximum(heights_px(points), 1)
    return np.nan_to_num(np.maximum(beyond - OUTSIDE, 0)).astype(np.float32)
