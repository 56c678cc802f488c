"""Finds faces and their landmarks with the networks inside the mediapipe wheel: nothing is ever downloaded.

The detectors agree on people in every style we tried (photographs, paintings, sculptures, cartoons, anime); what
separates people from animals is the full-range detector, so the short-range one is believed only when it is sure.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np

from linker.landmarks import Box, scale_box, to_source
from linker.pictures import cut_square

os.environ.setdefault("GLOG_minloglevel", "3")  # read by the C++ side when it is first loaded
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SEARCH_PX = 1280  # longest side the detectors are shown; they look at 192 pixels themselves
SURE = 0.75  # the short-range detector alone: below it, most of what it finds are cats and dogs
SAME_FACE = 0.3  # overlap (intersection over union) from which two boxes are one face
MESH_CONFIDENCE = 0.3
MESH_PX = 384  # side of the square the mesh is shown
MESH_SCALES = (2.0, 1.5, 2.5, 1.1, 3.5)  # sides tried around a detected box, in its longer sides
MESH_TILTS_DEG = (0, 30, -30)
MESH_FACE_PX = 256  # width a detected face is shrunk to before the mesh looks at it


@dataclass(frozen=True)
class Found:
    """One detected face: `box` in the picture's pixels, `score` 0..1, the detector's name."""

    box: Box
    score: float
    detector: str

    @property
    def area(self) -> int:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def find_faces(picture: np.ndarray, min_confidence: float) -> list[Found]:
    """Faces in uint8 (H, W, 3), best first: in the picture or, when there are none, with a wide border (close-ups)."""
    picture, scale = _shrink(picture, SEARCH_PX)
    for search in (_search_whole, _search_bordered):
        faces = _distinct([face for face in search(picture) if face.score >= min_confidence])
        if faces:
            return [replace(face, box=_rescale(face.box, 1 / scale)) for face in faces]
    return []


def find_landmarks(picture: np.ndarray, box: Box) -> np.ndarray | None:
    """The face mesh inside `box`, float (478, 2) in the picture's pixels; None when no crop or tilt shows one.

    The mesh tells no confidence, and on drawn faces it depends on the crop: of the meshes on several crops the one
    nearest to all others is taken.
    """
    small, scale = _shrink(picture, round(max(picture.shape[:2]) * MESH_FACE_PX / (box[2] - box[0])))
    where = _rescale(box, scale)
    for tilt in MESH_TILTS_DEG:
        meshes = [mesh for zoom in MESH_SCALES if (mesh := _mesh_in(small, where, zoom, tilt)) is not None]
        if meshes:
            return 1 / scale * min(meshes, key=lambda mesh: sum(float(np.abs(mesh - other).mean()) for other in meshes))
    return None


def subject_map(picture: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to the person rather than the background: float32 (H, W), 0..1."""
    with _quiet():
        result = _segmenter().process(picture)
    return np.clip(np.asarray(result.segmentation_mask, np.float32), 0, 1)


def _search_whole(picture: np.ndarray) -> list[Found]:
    sure = [face for face in _detect("short-range", picture) if face.score >= SURE]
    return _detect("full-range", picture) + sure


def _search_bordered(picture: np.ndarray) -> list[Found]:
    border = max(picture.shape[:2]) // 2
    wide = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE)
    return [_move(face, -border, -border, "bordered") for face in _search_whole(wide)]


def _detect(name: str, picture: np.ndarray) -> list[Found]:
    with _quiet():
        detections = _detector(name).process(picture).detections or []
    height, width = picture.shape[:2]
    return [_found(one, name, width, height) for one in detections]


def _found(detection: Any, name: str, width: int, height: int) -> Found:
    box = detection.location_data.relative_bounding_box
    x0, y0, x1, y1 = box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height
    pixels = (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))
    return Found(pixels, float(detection.score[0]), name)


def _mesh_in(picture: np.ndarray, box: Box, scale: float, tilt: float) -> np.ndarray | None:
    square = scale_box(box, scale)
    turn = cv2.getRotationMatrix2D((MESH_PX / 2, MESH_PX / 2), tilt, 1.0)
    crop = cut_square(picture, square, MESH_PX)
    view = cv2.warpAffine(crop, turn, (MESH_PX, MESH_PX), borderMode=cv2.BORDER_REPLICATE) if tilt else crop
    with _quiet():
        meshes = _mesh().process(view).multi_face_landmarks or []
    points = [np.array([(p.x, p.y) for p in mesh.landmark]) * MESH_PX for mesh in meshes]
    turned = [to_source(cv2.transform(p[None], cv2.invertAffineTransform(turn))[0], square, MESH_PX) for p in points]
    inside = [p for p in turned if _holds(box, p.mean(0))]
    return max(inside, key=lambda p: float(np.prod(np.ptp(p, axis=0))), default=None)


def _holds(box: Box, point: np.ndarray) -> bool:
    return bool(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def _distinct(faces: list[Found]) -> list[Found]:
    """One box a face, best first."""
    kept: list[Found] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) < SAME_FACE for other in kept):
            kept.append(face)
    return kept


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / whole if whole > 0 else 0.0


def _shrink(picture: np.ndarray, longest_px: int) -> tuple[np.ndarray, float]:
    scale = min(1.0, longest_px / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return (cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if scale < 1 else picture), scale


def _rescale(box: Box, scale: float) -> Box:
    x0, y0, x1, y1 = (round(value * scale) for value in box)
    return x0, y0, x1, y1


def _move(face: Found, x: int, y: int, how: str) -> Found:
    x0, y0, x1, y1 = face.box
    return Found((x0 + x, y0 + y, x1 + x, y1 + y), face.score, f"{face.detector}, {how}")


@cache
def _detector(name: str) -> Any:
    models = {"short-range": 0, "full-range": 1}
    chosen = {"model_selection": models[name], "min_detection_confidence": 0.1}
    return closed_at_exit(_solutions().face_detection.FaceDetection(**chosen))


@cache
def _mesh() -> Any:
    options = {"static_image_mode": True, "refine_landmarks": True, "max_num_faces": 4}
    return closed_at_exit(_solutions().face_mesh.FaceMesh(min_detection_confidence=MESH_CONFIDENCE, **options))


@cache
def _segmenter() -> Any:
    return closed_at_exit(_solutions().selfie_segmentation.SelfieSegmentation(model_selection=0))


def closed_at_exit(solution: Any) -> Any:
    """The MediaPipe solution, closed before Python ends: threads still starting in one can abort one that goes."""
    atexit.register(solution.close)
    return solution


def close_early(solution: Any) -> None:
    """Close what `closed_at_exit` was given, which is then forgotten: MediaPipe takes a second closing for an error."""
    atexit.unregister(solution.close)
    solution.close()


@cache
def _solutions() -> Any:
    import mediapipe  # takes a second to load, and a refused file does not need it

    return mediapipe.solutions


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the C++ side writes to stderr whatever its log level is; shown only when the call fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
