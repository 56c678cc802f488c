"""PySceneDetect's figures for every frame, of the whole picture and of the face alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode, HistogramDetector, StatsManager

from linker.config import FPS
from linker.landmarks import OVAL, bounds

PICTURE_PX, FACE_PX = 160, 64  # sides of what the detectors are shown


class Changes:
    """The adaptive (with it the content) and the histogram detector; their figures, not their verdicts, are kept."""

    def __init__(self) -> None:
        self.picture, self.face = _Detectors(), _Detectors()
        self.box: tuple[int, int, int, int] | None = None
        self.count = 0

    def measure(self, frame: np.ndarray, faces: dict[int, np.ndarray]) -> dict[str, float]:
        """content and histogram of the picture, content_face; 0, 1 and 0 for a first frame."""
        scale = PICTURE_PX / max(frame.shape[:2])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self.picture.show(self.count, small)
        self.face.show(self.count, self._face(frame, faces))
        whole, face = self.picture.figures(self.count), self.face.figures(self.count)
        self.count += 1
        return {"content": whole[0], "histogram": whole[1], "content_face": face[0]}

    def _face(self, frame: np.ndarray, faces: dict[int, np.ndarray]) -> np.ndarray:
        """The largest face, where it was last seen while it is not seen."""
        if faces:
            self.box = bounds(max(faces.values(), key=np.ptp)[list(OVAL)])
        x0, y0, x1, y1 = self.box or (0, 0, frame.shape[1], frame.shape[0])
        cut = frame[max(0, y0) : max(1, y1), max(0, x0) : max(1, x1)]
        return cv2.resize(cut if cut.size else frame, (FACE_PX, FACE_PX), interpolation=cv2.INTER_AREA)

    def windows(self) -> dict[str, np.ndarray]:
        """adaptive and adaptive_face (T,), known once their windows are whole; 0 at the ends."""
        return {"adaptive": self.picture.adaptive(self.count), "adaptive_face": self.face.adaptive(self.count)}


class _Detectors:
    def __init__(self) -> None:
        self.stats: Any = StatsManager()
        self.detectors: list[Any] = [AdaptiveDetector(), HistogramDetector()]
        for detector in self.detectors:
            detector.stats_manager = self.stats
            self.stats.register_metrics(detector.get_metrics())
        self.content, self.ratio = "content_val", next(k for k in self.detectors[0].get_metrics() if "adaptive" in k)
        self.histogram = self.detectors[1].get_metrics()[0]

    def show(self, number: int, picture: np.ndarray) -> None:
        """One frame, uint8 (h, w, 3) RGB; the detectors want BGR."""
        when = FrameTimecode(number, float(FPS))
        for detector in self.detectors:
            detector.process_frame(when, np.ascontiguousarray(picture[..., ::-1]))

    def figures(self, number: int) -> tuple[float, float]:
        """content and histogram of a frame that was shown."""
        when = FrameTimecode(number, float(FPS))
        content, histogram = self.stats.get_metrics(when, [self.content, self.histogram])
        return float(content or 0.0), float(1.0 if histogram is None else histogram)

    def adaptive(self, count: int) -> np.ndarray:
        """(T,) ratio of a frame's content to its neighbours'."""
        found = [self.stats.get_metrics(FrameTimecode(i, float(FPS)), [self.ratio])[0] for i in range(count)]
        return np.array([float(value or 0.0) for value in found], np.float32)
