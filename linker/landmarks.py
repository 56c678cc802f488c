"""Geometry of a face: which mesh points are lips, eyes and oval, the square cut around them, the region masks.

Points are the face mesh's 478 (468 without irises) as float (P, 2) in pixels, x right, y down. A face height is the
distance from the top of the forehead to the chin, so it does not change when the head is tilted.
"""

from __future__ import annotations

import cv2
import numpy as np

from linker.config import EYES_Y, FACE_PX, MOUTH_Y, FaceSettings

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside

LIPS = (0, 17, 37, 39, 40, 61, 84, 91, 146, 181, 185, 267, 269, 270, 291, 314, 321, 375, 405, 409)  # outer contour
LOWER_LIP = (17, 84, 91, 146, 181, 314, 321, 375, 405)
RIGHT_EYE = (7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246)
LEFT_EYE = (249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466)
RIGHT_BROW = (46, 52, 53, 55, 63, 65, 66, 70, 105, 107)
LEFT_BROW = (276, 282, 283, 285, 293, 295, 296, 300, 334, 336)
OVAL = (
    10,
    21,
    54,
    58,
    67,
    93,
    103,
    109,
    127,
    132,
    136,
    148,
    149,
    150,
    152,
    162,
    172,
    176,
    234,
    251,
    284,
    288,
    297,
    323,
    332,
    338,
    356,
    361,
    365,
    377,
    378,
    379,
    389,
    397,
    400,
    454,
)
FOREHEAD, CHIN, UNDER_LIP, UNDER_NOSE, NOSE_TIP = 10, 152, 17, 2, 1
UPPER_SHARE = 0.55  # of a face height from the forehead to below the nose: speech does not move it

HAIR_REACH = 0.35  # how far around the oval the subject counts as head, in face heights
JAW_SHARE = 0.3  # how far towards the chin the mouth region goes down, as a share of lip to chin
SOFT_EDGE = 0.012  # sigma of the masks' edges, in face heights
GRID = 1024  # masks are multiples of 1 / GRID: exact in float16, so that their sum never exceeds 1


def face_height_px(points: np.ndarray) -> float:
    """Top of the forehead to the chin, pixels."""
    return float(np.linalg.norm(points[CHIN] - points[FOREHEAD]))


def roll_deg(points: np.ndarray) -> float:
    """Tilt of the head in the picture's plane, degrees in (-180, 180]; 0 is upright."""
    across, down = points[CHIN] - points[FOREHEAD]
    return float(np.degrees(np.arctan2(-across, down)))


def bounds(points: np.ndarray) -> Box:
    """The smallest box around `points`."""
    (x0, y0), (x1, y1) = np.floor(points.min(0)), np.ceil(points.max(0)) + 1
    return int(x0), int(y0), int(x1), int(y1)


def lip_shape(meshes: np.ndarray) -> np.ndarray:
    """(T, 4) of meshes (T, 478, 2): inner opening, outer opening, width, chin to nose, in face heights; NaN unseen."""
    upper = np.linalg.norm(meshes[:, FOREHEAD] - meshes[:, UNDER_NOSE], axis=1)
    unit = np.nanmedian(upper) / UPPER_SHARE if np.isfinite(upper).any() else 1.0
    pairs = ((13, 14), (0, 17), (61, 291), (CHIN, NOSE_TIP))
    return np.stack([np.linalg.norm(meshes[:, a] - meshes[:, b], axis=1) for a, b in pairs], 1) / unit


def crop_box(points: np.ndarray) -> Box:
    """The square to animate: eyes at EYES_Y and mouth at MOUTH_Y of its side, half way across, as in training.

    It may reach beyond the picture, whose edge is then repeated: only what lies inside is ever delivered.
    """
    eyes = (points[list(RIGHT_EYE)].mean(0) + points[list(LEFT_EYE)].mean(0)) / 2
    mouth = points[list(LIPS)].mean(0)
    side = float(np.linalg.norm(mouth - eyes)) / (MOUTH_Y - EYES_Y)
    return square_box((eyes + mouth) / 2 + (0.0, side * (0.5 - (EYES_Y + MOUTH_Y) / 2)), side)


def square_box(centre: np.ndarray, side: float) -> Box:
    """A square of whole pixels about `centre`, at least `side` wide; it may reach beyond the picture."""
    whole = max(2, int(np.ceil(side)))
    x0, y0 = (int(value) for value in np.round(np.asarray(centre) - whole / 2))
    return x0, y0, x0 + whole, y0 + whole


def scale_box(box: Box, scale: float) -> Box:
    """A square about the centre of `box`, `scale` times its longer side."""
    x0, y0, x1, y1 = box
    return square_box(np.array([(x0 + x1) / 2, (y0 + y1) / 2]), scale * max(x1 - x0, y1 - y0))


def to_crop(points: np.ndarray, box: Box, side_px: int = FACE_PX) -> np.ndarray:
    """Source pixels (P, 2) to pixels of the square `box` resized to `side_px`."""
    return (points - (box[0], box[1])) * (side_px / (box[2] - box[0]))


def to_source(points: np.ndarray, box: Box, side_px: int = FACE_PX) -> np.ndarray:
    """The inverse of `to_crop`."""
    return points * ((box[2] - box[0]) / side_px) + (box[0], box[1])


def region_masks(points: np.ndarray, alpha: np.ndarray, settings: FaceSettings) -> dict[str, np.ndarray]:
    """The spec's regions as float16 (H, W) in 0..1, disjoint (their sum is at most 1).

    mouth: outer lips and a part of the way to the chin, dilated. eyes: eyes with their brows, dilated. head: the face's
    oval and what of the subject (`alpha`, float (H, W)) lies within HAIR_REACH of it above the jaw, minus both.
    """
    height = face_height_px(points)
    mouth = _soften(_grow(_mouth(points, alpha.shape), settings.mouth_margin * height), height)
    eyes = _soften(_grow(_eyes(points, alpha.shape), settings.eyes_margin * height), height)
    eyes = _on_grid(np.minimum(eyes, 1 - _on_grid(mouth)))
    head = np.minimum(_head(points, alpha, settings.head_margin, height), 1 - _on_grid(mouth) - eyes)
    regions = {"head": head, "mouth": mouth, "eyes": eyes}
    return {name: _on_grid(mask).astype(np.float16) for name, mask in regions.items()}


def _mouth(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    down = (points[CHIN] - points[UNDER_LIP]) * JAW_SHARE
    return _hull(np.concatenate([points[list(LIPS)], points[list(LOWER_LIP)] + down]), shape)


def _eyes(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    right, left = points[list(RIGHT_EYE + RIGHT_BROW)], points[list(LEFT_EYE + LEFT_BROW)]
    return np.maximum(_hull(right, shape), _hull(left, shape))


def _head(points: np.ndarray, alpha: np.ndarray, margin: float, height: float) -> np.ndarray:
    oval = _hull(points[list(OVAL)], alpha.shape)
    face = _soften(_grow(oval, margin * height), height)
    near = _soften(_grow(oval, HAIR_REACH * height), 4 * height) * _above_jaw(points, alpha.shape)
    return np.maximum(face, near * alpha)


def _above_jaw(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """1 above the lower lip, falling along the face's axis to 0 at the chin, so that shoulders do not count as head."""
    down = points[CHIN] - points[UNDER_LIP]
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    below = (columns - points[UNDER_LIP][0]) * down[0] + (rows - points[UNDER_LIP][1]) * down[1]
    return np.clip(1 - below / max(float(down @ down), 1.0), 0, 1)


def _hull(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The convex hull filled with 1, float32."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return mask.astype(np.float32)


def _grow(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """All within `radius_px` of the mask; by distance, as dilating with a wide kernel is slow."""
    return (cv2.distanceTransform(1 - mask.astype(np.uint8), cv2.DIST_L2, 5) <= radius_px).astype(np.float32)


def _soften(mask: np.ndarray, height: float) -> np.ndarray:
    return cv2.GaussianBlur(mask, (0, 0), max(SOFT_EDGE * height, 0.5), borderType=cv2.BORDER_REPLICATE)


def _on_grid(mask: np.ndarray) -> np.ndarray:
    """Values rounded down to multiples of 1 / GRID in 0..1."""
    return np.floor(np.clip(mask, 0, 1) * GRID) / GRID
