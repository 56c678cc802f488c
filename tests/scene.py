"""A small world for the finishing steps: a painted person before a textured wall, and a video of the moving head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from linker.media import lossless_writer
from linker.records import write_json

FACE_PX = 512


def paint(
    width: int,
    height: int,
    centre: tuple[float, float],
    head_px: float,
    move: tuple[float, float] = (0, 0),
    mouth: float = 0.0,
) -> np.ndarray:
    """Portrait uint8 (height,width,3); `head_px` is the head's height, `move` shifts head and hair, pixels."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), head_px / 60)
    noise = noise / noise.std() * 14
    rows = np.linspace(0, 1, height)[:, None]
    wall = np.stack([noise + 90 + 60 * rows, noise + 120 + 20 * rows, noise + 150 - 50 * rows], axis=-1)
    picture = np.ascontiguousarray(np.clip(wall, 0, 255).astype(np.uint8))
    x, y = centre
    _oval(picture, (x, y + 1.15 * head_px), (0.85 * head_px, 0.6 * head_px), (40, 50, 120))
    x, y = x + move[0], y + move[1]
    _oval(picture, (x, y + 0.45 * head_px), (0.16 * head_px, 0.3 * head_px), (196, 150, 125))
    _oval(picture, (x, y - 0.06 * head_px), (0.43 * head_px, 0.52 * head_px), (45, 30, 22))
    _oval(picture, (x, y + 0.03 * head_px), (0.35 * head_px, 0.45 * head_px), (214, 170, 145))
    for side in (-0.14, 0.14):
        _oval(picture, (x + side * head_px, y - 0.06 * head_px), (0.055 * head_px, 0.03 * head_px), (250, 250, 250))
        _oval(picture, (x + side * head_px, y - 0.06 * head_px), (0.025 * head_px, 0.028 * head_px), (40, 40, 60))
    _oval(picture, (x, y + 0.25 * head_px), (0.12 * head_px, (0.015 + 0.06 * mouth) * head_px), (120, 30, 40))
    return picture


def _oval(picture: np.ndarray, centre: tuple[float, float], half: tuple[float, float], colour: tuple[int, ...]) -> None:
    points = cv2.ellipse2Poly((0, 0), (1000, 1000), 0, 0, 360, 3) / 1000
    corners = ((points * half + centre) * 16).round().astype(np.int32)
    cv2.fillPoly(picture, [corners], colour, lineType=cv2.LINE_AA, shift=4)


class Scene:
    """Files of one portrait and one generated clip below `root`, as the earlier steps leave them."""

    def __init__(self, root: Path, width: int = 320, height: int = 400, head_px: float = 130, side: int = 64) -> None:
        self.root, self.size, self.head_px, self.video_px = root, (width, height), head_px, side
        self.centre = (width * 0.5, height * 0.45)
        crop_px = round(head_px * 1.6)
        left, top = round(self.centre[0] - crop_px / 2), round(self.centre[1] - crop_px / 2)
        self.box = [left, top, left + crop_px, top + crop_px]
        self.portrait, self.face = root / "portrait.png", root / "face.png"
        self.crop, self.masks, self.generated = root / "crop.json", root / "masks.npz", root / "generated.mkv"
        still = self.picture()
        Image.fromarray(still).save(self.portrait)
        Image.fromarray(self.cut(still, FACE_PX)).save(self.face)
        write_json(self.crop, {"refusal": None, "box_px": self.box, "source_size_px": list(self.size)})
        np.savez(self.masks, **self._masks())

    def picture(self, move: tuple[float, float] = (0, 0), mouth: float = 0.0) -> np.ndarray:
        return paint(*self.size, self.centre, self.head_px, move, mouth)

    def cut(self, picture: np.ndarray, side: int) -> np.ndarray:
        x0, y0, x1, y1 = self.box
        return np.array(Image.fromarray(picture).crop((x0, y0, x1, y1)).resize((side, side), Image.Resampling.LANCZOS))

    def _masks(self) -> dict[str, np.ndarray]:
        scale = FACE_PX / (self.box[2] - self.box[0])
        ovals = {}
        for name, (x, y), (half_x, half_y) in (("head", (0, -0.03), (0.45, 0.54)), ("mouth", (0, 0.25), (0.15, 0.1)),
                                               ("eyes", (0, -0.06), (0.24, 0.07)), ("alpha", (0, -0.03), (0.45, 0.54)),
                                               ("body", (0, 1.15), (0.85, 0.6))):  # fmt: skip
            canvas = np.zeros((FACE_PX, FACE_PX), np.uint8)
            centre = [(self.centre[i] + (x, y)[i] * self.head_px - self.box[i]) * scale for i in (0, 1)]
            half = (half_x * self.head_px * scale, half_y * self.head_px * scale)
            _oval(canvas, (centre[0], centre[1]), half, (255,))
            ovals[name] = (canvas / 255).astype(np.float16)
        ovals["head"] = np.clip(ovals["head"] - ovals["mouth"] - ovals["eyes"], 0, 1)
        ovals["alpha"] = np.maximum(ovals["alpha"], ovals.pop("body"))
        return ovals

    def moved(self, frames: int, sway: float = 0.06) -> Iterator[np.ndarray]:
        """What a perfect model would make: the head sways by `sway` head heights and speaks; (S,S,3)."""
        for index in range(frames):
            turn = 2 * np.pi * index / 50
            move = (sway * self.head_px * np.sin(turn), 0.4 * sway * self.head_px * np.cos(2 * turn) - 0.4 * sway)
            yield self.cut(self.picture(move, mouth=0.5 + 0.5 * np.sin(turn * 6)), self.video_px)

    def generate(self, frames: int = 25, sway: float = 0.06, noise: float = 4.0, drift: float = 12.0) -> None:
        """generated.mkv as a small model makes it: soft, with a swimming background and a slow shift of colour."""
        rng = np.random.default_rng(2)
        with lossless_writer(self.generated, self.video_px, self.video_px) as writer:
            for index, frame in enumerate(self.moved(frames, sway)):
                soft = cv2.GaussianBlur(frame, (0, 0), 0.9).astype(np.float32)
                swim = cv2.resize(rng.normal(0, noise, (8, 8, 3)).astype(np.float32), frame.shape[:2])
                soft = soft * 0.95 + swim + np.float32([drift, 4, -6]) * (0.5 + 0.5 * index / frames)
                writer.write(np.clip(soft, 0, 255).astype(np.uint8))
