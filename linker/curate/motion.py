"""Motion and light outside the head, and how sharp the face is: what stage 4 judges."""

from __future__ import annotations

import cv2
import numpy as np

from linker.landmarks import CHIN, FOREHEAD, OVAL, bounds

GRAY_PX = 256  # longest side of the picture whose motion is measured
HEAD_REACH = 0.45  # around the face's oval, in face heights, that still counts as head and hair
BODY_REACH = 1.1  # to both sides of the chin, in face heights: shoulders, which may move
SHARP_PX = 96  # side of the face whose sharpness is measured


class Mover:
    """Remembers the frame before."""

    def __init__(self) -> None:
        self.before: np.ndarray | None = None
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def measure(self, frame: np.ndarray, faces: dict[int, np.ndarray]) -> dict[str, float]:
        """luma and luma_outside (0..255), change (mean difference), camera and objects (widths a frame), sharpness."""
        scale = GRAY_PX / max(frame.shape[:2])
        gray = cv2.cvtColor(
            cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        outside = background(gray.shape, [face * scale for face in faces.values()])
        camera = objects = change = 0.0
        if self.before is not None and self.before.shape == gray.shape:
            change = float(cv2.absdiff(gray, self.before).mean())
            camera, objects = self._motion(gray, outside) if change > 0 else (0.0, 0.0)
        self.before = gray
        return {
            "luma": float(gray.mean()),
            "luma_outside": float(gray[outside].mean()) if outside.any() else float(gray.mean()),
            "change": change,
            "camera": camera,
            "objects": objects,
            "sharpness": sharpness(frame, max(faces.values(), key=np.ptp)) if faces else np.nan,
        }

    def _motion(self, gray: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
        if outside.mean() < 0.03:
            return 0.0, 0.0
        flow = self.flow.calc(self.before, gray, None)
        speed = np.linalg.norm(flow[outside], axis=1) / gray.shape[1]
        return float(np.median(speed)), float(np.percentile(speed, 95))


def background(shape: tuple[int, ...], faces: list[np.ndarray]) -> np.ndarray:
    """bool (H, W): what is neither head nor shoulders of any face."""
    outside = np.ones(shape, bool)
    for face in faces:
        height = float(np.linalg.norm(face[CHIN] - face[FOREHEAD]))
        x0, y0, x1, y1 = bounds(face[list(OVAL)])
        reach, wide = HEAD_REACH * height, BODY_REACH * height
        outside[max(0, int(y0 - reach)) : max(0, int(y1)), max(0, int(x0 - reach)) : max(0, int(x1 + reach))] = False
        outside[max(0, int(face[CHIN][1] - 0.1 * height)) :, max(0, int(x0 - wide)) : max(0, int(x1 + wide))] = False
    return outside


def sharpness(frame: np.ndarray, face: np.ndarray) -> float:
    """Variance of the Laplacian of the face at SHARP_PX, over the variance of its light: 0 = a flat blur."""
    x0, y0, x1, y1 = bounds(face[list(OVAL)])
    cut = frame[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    if min(cut.shape[:2]) < 8:
        return float("nan")
    gray = cv2.resize(cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY), (SHARP_PX, SHARP_PX), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    return float(cv2.Laplacian(gray, cv2.CV_32F).var() / (gray.var() + 25))


def blockiness(frame: np.ndarray) -> float:
    """How much steeper 8 x 8 block edges are than what lies between, 0 = not at all (of the source's own pixels)."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    figures = []
    for steps in (np.abs(np.diff(gray, axis=1)).mean(0), np.abs(np.diff(gray, axis=0)).mean(1)):
        whole = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(0)
        figures.append(float(whole[7] / (np.delete(whole, 7).mean() + 0.5)) - 1)
    return max(0.0, float(np.mean(figures)))
