"""Hands and further faces, looked for a few times a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from linker.face_models import close_early, closed_at_exit

MAX_HANDS, MAX_FACES = 2, 4


class HandFinder:
    """MediaPipe's hands and its full-range face detector, whose weights lie inside the wheel."""

    def __init__(self) -> None:
        import mediapipe

        solutions = mediapipe.solutions
        hands = solutions.hands.Hands(
            static_image_mode=True, max_num_hands=MAX_HANDS, model_complexity=0, min_detection_confidence=0.5
        )
        self.hands: Any = closed_at_exit(hands)
        faces = solutions.face_detection.FaceDetection(model_selection=1, min_detection_confidence=0.5)
        self.faces: Any = closed_at_exit(faces)

    def measure(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """hands (2, 21, 2) pixels, NaN where there is none; others (4, 5): x0, y0, x1, y1 pixels and score."""
        height, width = frame.shape[:2]
        hands = np.full((MAX_HANDS, 21, 2), np.nan, np.float32)
        for i, hand in enumerate((self.hands.process(frame).multi_hand_landmarks or [])[:MAX_HANDS]):
            hands[i] = [(p.x * width, p.y * height) for p in hand.landmark]
        others = np.full((MAX_FACES, 5), np.nan, np.float32)
        for i, face in enumerate((self.faces.process(frame).detections or [])[:MAX_FACES]):
            box = face.location_data.relative_bounding_box
            corners = (
                box.xmin * width,
                box.ymin * height,
                (box.xmin + box.width) * width,
                (box.ymin + box.height) * height,
            )
            others[i] = (*corners, face.score[0])
        return {"hands": hands, "others": others}

    def close(self) -> None:
        """Free the networks."""
        close_early(self.hands)
        close_early(self.faces)
