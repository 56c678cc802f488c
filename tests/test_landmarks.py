"""Geometry of crops and masks, held as properties over all faces a mesh could give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker import landmarks as lm
from linker.config import EYES_Y, FACE_PX, MOUTH_Y, FaceSettings

ROUND = np.linspace(0, 2 * np.pi, 478, endpoint=False)


def a_face(x: float, y: float, height: float, tilt_deg: float = 0.0) -> np.ndarray:
    """478 points on ellipses placed as in a face: oval, lips, eyes and brows; the rest lies on the oval."""
    points = np.stack([0.38 * np.sin(ROUND), -0.5 * np.cos(ROUND)], 1)
    parts = {lm.OVAL: (0, 0, 0.38, 0.5), lm.LIPS: (0, 0.25, 0.13, 0.05), lm.RIGHT_EYE: (-0.17, -0.08, 0.07, 0.03)}
    parts |= {lm.LEFT_EYE: (0.17, -0.08, 0.07, 0.03), lm.RIGHT_BROW: (-0.17, -0.18, 0.09, 0.02)}
    parts |= {lm.LEFT_BROW: (0.17, -0.18, 0.09, 0.02)}
    for index, (cx, cy, rx, ry) in parts.items():
        turn = np.linspace(0, 2 * np.pi, len(index), endpoint=False)
        points[list(index)] = np.stack([cx + rx * np.sin(turn), cy - ry * np.cos(turn)], 1)
    points[lm.FOREHEAD], points[lm.CHIN], points[lm.UNDER_LIP] = (0, -0.5), (0, 0.5), (0, 0.3)
    turn = np.radians(tilt_deg)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ matrix.T * height + (x, y)


coordinates = st.floats(-500, 5000)
heights = st.floats(40, 3000)
tilts = st.floats(-60, 60)


def test_index_sets_are_mediapipes() -> None:
    edges = pytest.importorskip("mediapipe").solutions.face_mesh_connections
    sets = {"FACE_OVAL": lm.OVAL, "LEFT_EYE": lm.LEFT_EYE, "RIGHT_EYE": lm.RIGHT_EYE}
    sets |= {"LEFT_EYEBROW": lm.LEFT_BROW, "RIGHT_EYEBROW": lm.RIGHT_BROW}
    for name, ours in sets.items():
        assert {point for edge in getattr(edges, f"FACEMESH_{name}") for point in edge} == set(ours)
    assert set(lm.LIPS) < {point for edge in edges.FACEMESH_LIPS for point in edge}


@given(coordinates, coordinates, heights, tilts)
def test_height_and_roll_do_not_depend_on_place_and_tilt(x: float, y: float, height: float, tilt: float) -> None:
    points = a_face(x, y, height, tilt)
    assert lm.face_height_px(points) == pytest.approx(height)
    assert lm.roll_deg(points) == pytest.approx(tilt, abs=0.01)


@given(coordinates, coordinates, heights, tilts)
def test_crop_is_square_and_holds_the_face(x: float, y: float, height: float, tilt: float) -> None:
    points = a_face(x, y, height, tilt)
    x0, y0, x1, y1 = lm.crop_box(points)
    assert x1 - x0 == y1 - y0
    assert (points >= (x0 - 1, y0 - 1)).all()
    assert (points <= (x1 + 1, y1 + 1)).all()


@given(coordinates, coordinates, heights)
def test_every_crop_has_its_eyes_and_mouth_where_training_had_them(x: float, y: float, height: float) -> None:
    points = a_face(x, y, height)
    inside = lm.to_crop(points, lm.crop_box(points), 1)
    eyes = inside[list(lm.RIGHT_EYE + lm.LEFT_EYE)].mean(0)
    off = 4 / height  # boxes are whole pixels
    assert eyes == pytest.approx((0.5, EYES_Y), abs=off)
    assert inside[list(lm.LIPS)].mean(0) == pytest.approx((0.5, MOUTH_Y), abs=off)


@given(coordinates, coordinates, heights)
def test_crop_and_source_pixels_round_trip(x: float, y: float, height: float) -> None:
    points = a_face(x, y, height)
    box = lm.crop_box(points)
    inside = lm.to_crop(points, box)
    assert np.allclose(lm.to_source(inside, box), points, atol=1e-6)
    assert np.allclose(lm.to_crop(np.array([[box[0], box[1]], [box[2], box[3]]]), box), [[0, 0], [FACE_PX, FACE_PX]])


@settings(max_examples=15, deadline=None)
@given(st.floats(200, 320), st.floats(200, 320), st.floats(150, 300), tilts)
def test_masks_are_disjoint_and_cover_their_parts(x: float, y: float, height: float, tilt: float) -> None:
    points = a_face(x, y, height, tilt)
    alpha = np.ones((FACE_PX, FACE_PX), np.float32)
    masks = lm.region_masks(points, alpha, FaceSettings())
    total = sum(mask.astype(np.float64) for mask in masks.values())
    assert total.max() <= 1
    assert min(mask.min() for mask in masks.values()) >= 0
    assert value_at(masks["mouth"], points[list(lm.LIPS)].mean(0)) > 0.99
    assert value_at(masks["eyes"], points[list(lm.LEFT_EYE)].mean(0)) > 0.9
    assert value_at(masks["head"], points[list(lm.LIPS)].mean(0)) < 0.01


def test_head_takes_hair_of_the_subject_but_no_background_and_no_shoulders() -> None:
    points = a_face(256, 256, 200)
    alpha = np.zeros((FACE_PX, FACE_PX), np.float32)
    alpha[:, 256:] = 1  # the right half is subject, the left half background
    head = lm.region_masks(points, alpha, FaceSettings())["head"]
    assert value_at(head, np.array([280, 115])) > 0.9  # hair above
    assert value_at(head, np.array([360, 240])) > 0.9  # hair beside
    assert value_at(head, np.array([232, 110])) < 0.1  # background above
    assert value_at(head, np.array([355, 365])) < 0.1  # shoulder
    assert value_at(head, np.array([256, 230])) > 0.98  # nose


@pytest.mark.parametrize("name", ["mouth_margin", "eyes_margin", "head_margin"])
def test_each_margin_widens_its_region(name: str) -> None:
    points, alpha = a_face(256, 256, 220), np.zeros((FACE_PX, FACE_PX), np.float32)
    region = name.split("_")[0]
    small, large = (lm.region_masks(points, alpha, FaceSettings(**{name: value}))[region] for value in (0.02, 0.15))
    assert large.sum(dtype=np.float64) > 1.1 * small.sum(dtype=np.float64)


def value_at(mask: np.ndarray, point: np.ndarray) -> float:
    x, y = point.round().astype(int)
    return float(mask[y, x])
