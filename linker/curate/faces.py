"""Faces in moving pictures: followed from frame to frame, each in its own slot, and put upright into small tiles."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from linker import landmarks
from linker.face_models import close_early, closed_at_exit
from linker.landmarks import (
    CHIN,
    FOREHEAD,
    LEFT_BROW,
    LEFT_EYE,
    LIPS,
    LOWER_LIP,
    OVAL,
    RIGHT_BROW,
    RIGHT_EYE,
    UNDER_LIP,
)

INNER_LIPS = (13, 14, 78, 308)
NOSE = (1, 2, 168)
KEPT = tuple(
    sorted({*LIPS, *LOWER_LIP, *INNER_LIPS, *NOSE, *OVAL, *LEFT_EYE, *RIGHT_EYE, *LEFT_BROW, *RIGHT_BROW}
           | {FOREHEAD, CHIN, UNDER_LIP})
)  # fmt: skip
MESH_POINTS = 478
SLOTS = 3  # faces followed at once
TILE_PX = 32  # side of an upright face tile
TILE_EYES, TILE_MOUTH = np.array([15.5, 10.0]), np.array([15.5, 22.0])  # where it has the eyes' middle and the mouth
SAME_FACE = 0.6  # of a face height: how far a face moves between two frames at most
FORGET = 50  # frames after which a lost face's slot may be another's


class Follower:
    """Meshes of up to SLOTS faces a frame; a face keeps its slot while it is seen and for FORGET frames after."""

    def __init__(self) -> None:
        import mediapipe

        mesh = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=False, max_num_faces=SLOTS, refine_landmarks=True,
            min_detection_confidence=0.3, min_tracking_confidence=0.3,
        )  # fmt: skip
        self.mesh: Any = closed_at_exit(mesh)
        self.last: dict[int, tuple[int, np.ndarray]] = {}
        self.count = 0

    def follow(self, frame: np.ndarray) -> dict[int, np.ndarray]:
        """Slot -> float32 (478, 2) pixels, of uint8 (H, W, 3)."""
        height, width = frame.shape[:2]
        found = self.mesh.process(frame).multi_face_landmarks or []
        faces = [np.array([(p.x * width, p.y * height) for p in face.landmark], np.float32) for face in found]
        slots = {
            slot: face for face in sorted(faces, key=_height, reverse=True) if (slot := self._slot(face)) is not None
        }
        self.count += 1
        return slots

    def _slot(self, face: np.ndarray) -> int | None:
        """The nearest slot's number, or a free one; each slot once a frame."""
        open_slots = {slot: seen for slot, seen in self.last.items() if seen[0] < self.count}
        near = {slot: float(np.linalg.norm(face.mean(0) - seen[1].mean(0))) for slot, seen in open_slots.items()}
        best = min(near, key=lambda slot: near[slot], default=None)
        if best is None or near[best] > SAME_FACE * _height(face):
            stale = [slot for slot, seen in open_slots.items() if self.count - seen[0] > FORGET]
            free = [slot for slot in range(SLOTS) if slot not in self.last] + stale
            best = free[0] if free else None
        if best is not None:
            self.last[best] = (self.count, face)
        return best

    def close(self) -> None:
        """Free the network."""
        close_early(self.mesh)


def _height(face: np.ndarray) -> float:
    return float(np.linalg.norm(face[CHIN] - face[FOREHEAD]))


def tile(frame: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The face turned upright, eyes and mouth at fixed places: uint8 (32, 32, 3)."""
    eyes = (face[list(RIGHT_EYE)].mean(0) + face[list(LEFT_EYE)].mean(0)) / 2
    mouth = face[list(LIPS)].mean(0)
    turn = similarity(eyes, mouth, TILE_EYES, TILE_MOUTH)
    scale = float(np.hypot(turn[0, 0], turn[0, 1]))
    reach = int(TILE_PX / max(scale, 1e-3))
    x0, y0 = (max(0, int(value) - reach) for value in (eyes + mouth) / 2)
    region = frame[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
    if region.size == 0:
        return np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    if scale < 0.5:  # many pixels a tile's: averaged first
        region = cv2.GaussianBlur(region, (0, 0), 0.4 / scale)
    turn[:, 2] += turn[:, :2] @ (x0, y0)
    return cv2.warpAffine(region, turn, (TILE_PX, TILE_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def similarity(a: np.ndarray, b: np.ndarray, to_a: np.ndarray, to_b: np.ndarray) -> np.ndarray:
    """(2, 3): the turn, scale and shift that bring points a and b onto to_a and to_b."""
    before, after = complex(*(b - a)), complex(*(to_b - to_a))
    z = after / before if abs(before) > 1e-6 else 1 + 0j
    linear = np.array([[z.real, -z.imag], [z.imag, z.real]])
    return np.concatenate([linear, (to_a - linear @ a)[:, None]], 1)


def kept(face: np.ndarray) -> np.ndarray:
    """The landmarks that are stored, (len(KEPT), 2)."""
    return face[list(KEPT)]


def restored(points: np.ndarray) -> np.ndarray:
    """Stored landmarks (..., len(KEPT), 2) in their places of the mesh (..., 478, 2); NaN elsewhere."""
    mesh = np.full((*points.shape[:-2], MESH_POINTS, 2), np.nan, np.float32)
    mesh[..., list(KEPT), :] = points
    return mesh


def lip_shape(points_TP2: np.ndarray) -> np.ndarray:
    """(T, 4) of stored landmarks, as landmarks.lip_shape has it."""
    return landmarks.lip_shape(restored(points_TP2))


def yaw(points_TP2: np.ndarray) -> np.ndarray:
    """(T,) how far the nose has left the middle of the face, -1..1 (about the sine of the turn)."""
    mesh = restored(points_TP2)
    left, right, nose = mesh[:, 454], mesh[:, 234], mesh[:, 1]
    across = left - right
    along = ((nose - right) * across).sum(1) / np.maximum((across**2).sum(1), 1e-6)
    return np.clip(2 * along - 1, -1, 1)


def heights_px(points_TP2: np.ndarray) -> np.ndarray:
    """(T,) forehead to chin."""
    mesh = restored(points_TP2)
    return np.linalg.norm(mesh[:, CHIN] - mesh[:, FOREHEAD], axis=1)


def centres(points_TP2: np.ndarray) -> np.ndarray:
    """(T, 2) mean of the eyes' and the mouth's middle: the part of a face that speech moves least is its eyes."""
    mesh = restored(points_TP2)
    return (mesh[:, list(RIGHT_EYE)].mean(1) + mesh[:, list(LEFT_EYE)].mean(1)) / 2
