"""Draws talking portraits whose truth is known: a pure function of a seed and a motion, in five styles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from linker.config import EYES_Y, MOUTH_Y
from linker.synth import drawing as d
from linker.synth import features, hair, skin
from linker.synth.backdrop import background, body
from linker.synth.drawing import Array, Image, vec
from linker.synth.geometry import SCALE, Frame, enlarge, expressed, gap_of, maps, project, skin_points
from linker.synth.hair import Layer
from linker.synth.motion import Motion
from linker.synth.regions import Outlines, region_boxes, region_masks
from linker.synth.traits import STYLES, Traits, draw_traits

Video = NDArray[np.uint8]  # (T, size, size, 3) RGB
BACK_DEPTH = 0.1  # back hair and ears turn as if this deep, face heights
CHUNK = 32  # frames whose maps are held at once


@dataclass(frozen=True)
class Sprite:
    """A layer ready for compositing, at texture size: colours times alpha, and 255 - alpha (uint8)."""

    colour: Video  # (texture, texture, 3)
    behind: NDArray[np.uint8]  # (texture, texture)
    reach: tuple[slice, slice]  # rows and columns of the frame it can ever touch


@dataclass(frozen=True)
class Portrait:
    """One drawn person in one picture; everything that never changes is baked."""

    traits: Traits
    frame: Frame
    ground: Video  # (size, size, 3)
    body: Sprite
    back: Sprite
    face: Sprite
    palette: features.Palette
    canvas: Video  # (size, size, 3), 128 = unchanged: grain or canvas weave of the picture

    def render(self, motion: Motion) -> Video:
        """Frames (T, size, size, 3) RGB of this person doing `motion`."""
        chunks = [self._render(motion[i : i + CHUNK]) for i in range(0, len(motion), CHUNK)]
        return np.concatenate(chunks)

    def _render(self, m: Motion) -> Video:
        parts = contours(self.traits, m, self.frame)
        size = self.frame.size
        back, face = maps(self.frame, self.traits, m, BACK_DEPTH), maps(self.frame, self.traits, m, None)
        video = np.empty((len(m), size, size, 3), np.uint8)
        for i in range(len(m)):
            video[i] = self.ground
            compose(video[i], self.back, enlarge(back[i], size))
            compose(video[i], self.body, self._breathing(float(m.breath[i])))
            compose(video[i], self.face, enlarge(face[i], size))
            self._features(video[i], m, parts, i)
            cv2.multiply(video[i], self.canvas, dst=video[i], scale=1 / 128)
        return video

    def _breathing(self, breath: float) -> Array:
        """Map of the body, raised by up to 0.012 face heights."""
        fine, still = self.frame.texture, straight(self.frame)
        return still + vec([0, breath * 0.012 * fine.face_px])

    def _features(self, image: Video, m: Motion, parts: dict[str, dict[str, Array]], i: int) -> None:
        px, t = self.frame.face_px, self.traits
        for name in ("left", "right"):
            features.draw_eye(image, t, self.palette, frame_of(parts[name], i), float(m.blink[i]), px)
        mouth = frame_of(parts["mouth"], i)
        teeth = float(m.teeth[i] * (1 + 0.6 * min(m.width[i], 0)))
        gap = float(np.linalg.norm(mouth["inner_low"][10] - mouth["inner_up"][10]))
        features.draw_mouth(image, t, self.palette, mouth, gap, teeth, px)
        if "glasses" in parts:
            features.draw_glasses(image, t, parts["glasses"]["rims"][i], parts["glasses"]["arms"][i], px)

    def truth(self, motion: Motion) -> Truth:
        """What is known about every frame of `render(motion)`."""
        return Truth(self.traits, self.frame, motion)

    def masks(self, motion: Motion, size_px: int = 32) -> Array:
        """Head, mouth and eyes of every frame: (T, 3, size_px, size_px), 0..1, disjoint."""
        return self.truth(motion).masks(size_px)

    def outlines(self, motion: Motion) -> Outlines:
        """Region outlines (T, n, 2) in frame pixels: head, mouth, left and right eye with its brow."""
        return self.truth(motion).outlines()

    def mouth_opening_px(self, motion: Motion) -> Array:
        """Gap between the lips at the middle (T,), frame pixels."""
        return self.truth(motion).mouth_opening_px

    def tracked(self, motion: Motion) -> Array:
        """Points of lips, lids and skin (T, n, 2), frame pixels, the same in every frame; NaN where a face has none."""
        return self.truth(motion).tracked


@dataclass(frozen=True)
class Truth:
    """The known answers: sizes in frame pixels, region masks and boxes."""

    traits: Traits
    frame: Frame
    motion: Motion

    @property
    def mouth_opening_px(self) -> Array:
        """Gap between the lips at the middle (T,)."""
        mouth = features.posed(features.mouth(self.traits, self.motion), self.motion, self.frame)
        return np.linalg.norm(mouth["inner_low"][:, 10] - mouth["inner_up"][:, 10], axis=-1)

    @property
    def mouth_width_px(self) -> Array:
        """Distance between the corners of the mouth (T,)."""
        mouth = features.posed(features.mouth(self.traits, self.motion), self.motion, self.frame)
        return np.linalg.norm(mouth["inner_up"][:, -1] - mouth["inner_up"][:, 0], axis=-1)

    @property
    def tracked(self) -> Array:
        """Lips (4 x 21), lids (4 x 21) and skin (63): (T, 231, 2)."""
        t, m = self.traits, self.motion
        lips = features.posed(features.mouth(t, m), m, self.frame)
        eyes = [features.posed(features.eye(t, m, side), m, self.frame) for side in (-1, 1)]
        skin = expressed(skin_points(t.eye_x, t.eye_y, 0.0, t.mouth_y, t.mouth_w), t, m)
        lids = (eye[name] for eye in eyes for name in ("top", "low"))
        return np.concatenate([*lips.values(), *lids, project(skin, m, self.frame)], 1)

    def outlines(self) -> Outlines:
        """Region outlines (T, n, 2) in frame pixels: head, mouth, left and right eye with its brow."""
        t, m = self.traits, self.motion
        shape = features.mouth(t, m)
        lips = np.concatenate([shape.outer_up, shape.outer_low[:, ::-1]], 1)
        middle = lips.mean(1, keepdims=True)
        regions = {"mouth": middle + (lips - middle) * vec([1.22, 1.35]), "head": head_points(t, m)}
        for side, name in ((-1, "left"), (1, "right")):
            box = d.ellipse(side * t.eye_x, (t.eye_y + t.brow_y) / 2, 0.14, 0.5 * (t.eye_y - t.brow_y) + 0.075, 28)
            regions[name] = np.broadcast_to(box, (len(m), *box.shape))
        return {name: project(points, m, self.frame) for name, points in regions.items()}

    def regions(self) -> Array:
        """Boxes (T, 3, 4) x0, y0, x1, y1 in frame pixels of head, mouth and both eyes."""
        return region_boxes(self.outlines())

    def masks(self, size_px: int = 32) -> Array:
        """(T, 3, size_px, size_px) float32, area-averaged: head (minus the others), mouth, eyes."""
        return region_masks(self.outlines(), self.frame.size, size_px)


def head_points(t: Traits, m: Motion) -> Array:
    """Outline of the head with hair (T, n, 2), its chin following the jaw."""
    points = np.broadcast_to(hair.head_outline(t), (len(m), *hair.head_outline(t).shape)).copy()
    points[..., 1] += gap_of(m)[:, None] * np.clip((points[..., 1] - t.mouth_y) / 0.12, 0, 1)
    return points


def contours(t: Traits, m: Motion, frame: Frame) -> dict[str, dict[str, Array]]:
    """Everything drawn anew a frame, as frame pixels."""
    parts = {
        "left": features.posed(features.eye(t, m, -1), m, frame),
        "right": features.posed(features.eye(t, m, 1), m, frame),
        "mouth": features.posed(features.mouth(t, m), m, frame),
    }
    if t.glasses != "none":
        rims = features.glasses(t, len(m))
        ends = vec([[[-1, 1]], [[1, 1]]]) * vec([t.cheek_w + 0.01, t.eye_y - 0.01])
        posed = project(rims.reshape(len(m), -1, 2), m, frame, 0.035).reshape(rims.shape)
        ears = project(np.broadcast_to(ends.reshape(-1, 2), (len(m), 2, 2)), m, frame)
        outer = posed[:, :, 38]
        parts["glasses"] = {"rims": posed, "arms": np.stack([outer, ears], 2)}
    return parts


@lru_cache(maxsize=8)
def straight(frame: Frame) -> Array:
    """Map (size, size, 2) from a frame's pixels to its texture's, nothing moved."""
    x, y = frame.grid()
    return frame.texture.px(np.stack([x, y], -1)) - vec(0.5)


def frame_of(arrays: dict[str, Array], i: int) -> dict[str, Array]:
    """One frame of every array."""
    return {name: array[i] for name, array in arrays.items()}


def compose(image: Video, sprite: Sprite, look_up: Array) -> None:
    """The sprite, looked up through a map (size, size, 2), over the image, in place."""
    view = image[sprite.reach]
    x, y = cv2.convertMaps(look_up[sprite.reach], None, cv2.CV_16SC2)
    colour = cv2.remap(sprite.colour, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    behind = cv2.remap(sprite.behind, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cv2.add(cv2.multiply(view, cv2.merge([behind] * 3), scale=1 / 255), colour, dst=view)


def sprite(layer: Layer, frame: Frame, play: float) -> Sprite:
    """A baked layer as uint8; it may move by up to `play` face heights."""
    alpha = np.clip(layer.alpha, 0, 1)[..., None]
    colour = np.rint(np.clip(layer.image, 0, 1) * alpha * 255).astype(np.uint8)
    behind = np.rint((1 - alpha) * 255).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(255 - behind)
    margin, room = (len(behind) / SCALE - frame.size) / 2, round(play * frame.face_px) + 2
    spans = [
        (int(start / SCALE - margin) - room, int((start + length) / SCALE - margin) + room)
        for start, length in ((y, h), (x, w))
    ]
    rows, columns = (slice(max(0, low), max(0, high)) for low, high in spans)
    return Sprite(colour, behind[..., 0], (rows, columns))


def draw_portrait(seed: int, style: str | None = None, size_px: int = 256, cropped: bool = False) -> Portrait:
    """A person chosen by `seed`; `style` is one of STYLES, or chosen by the seed too. `cropped`: as crop_face would."""
    rng = np.random.default_rng([seed, 7])
    chosen = str(rng.choice(STYLES))
    t = draw_traits(rng, style or chosen)
    return bake(t, aligned(t, size_px, rng) if cropped else free(t, size_px), rng)


def free(t: Traits, size_px: int) -> Frame:
    """The head where the artist put it."""
    return Frame(size_px, t.face_h * size_px, t.centre_x * size_px, t.centre_y * size_px)


def aligned(t: Traits, size_px: int, rng: np.random.Generator) -> Frame:
    """The head as crop_face cuts it, but for what a landmark finder errs by."""
    face_px = float(size_px * (MOUTH_Y - EYES_Y) / (t.mouth_y - t.eye_y) * rng.uniform(0.96, 1.04))
    shift_x, shift_y = (float(shift) for shift in rng.uniform(-0.012, 0.012, 2) * size_px)
    middle = size_px * (EYES_Y + MOUTH_Y) / 2 - face_px * (t.eye_y + t.mouth_y) / 2
    return Frame(size_px, face_px, size_px / 2 + shift_x, middle + shift_y)


def bake(t: Traits, frame: Frame, rng: np.random.Generator) -> Portrait:
    """Paint all layers once."""
    fine = frame.texture
    image, alpha, light = skin.bake(t, fine, rng)
    face = Layer(image, np.maximum(alpha, skin.beard_alpha(t, fine)))
    hair.add_front(t, fine, rng, face)
    back, torso = hair.bake_back(t, fine, rng), body(t, fine, rng)
    ground = background(t, frame, rng)
    for layer in (back, torso, face):
        finish(t, fine, rng, layer)
    if t.style == "painting":
        ground = d.brush(rng, ground, frame.size * 0.05, 2600)
    lights = [sample(light, fine, point) for point in ((0.0, t.eye_y), (0.0, t.mouth_y))]
    return Portrait(
        t,
        frame,
        np.rint(np.clip(ground, 0, 1) * 255).astype(np.uint8),
        sprite(torso, frame, 0.02),
        sprite(back, frame, 0.45),
        sprite(face, frame, 0.45),
        features.palette(t, *lights),
        weave(t, frame, rng),
    )


def finish(t: Traits, frame: Frame, rng: np.random.Generator, layer: Layer) -> None:
    """The style's last touch on a layer: ink lines or brush strokes."""
    if t.style == "cartoon":
        hair.ink(t, frame, layer)
    if t.style == "painting":
        layer.image = d.brush(
            rng, d.extended(layer.image, layer.alpha, 0.05 * frame.face_px), 0.055 * frame.face_px, 9000
        )


def sample(light: Image, frame: Frame, point: tuple[float, float]) -> Array:
    """Mean light (3,) around a point of the face."""
    x, y = frame.px(vec(point)).astype(int)
    r = round(0.12 * frame.face_px)
    return light[y - r : y + r, x - r : x + r].mean((0, 1))


def weave(t: Traits, frame: Frame, rng: np.random.Generator) -> Video:
    """Texture of the picture itself, fixed in it: film grain, canvas, or nothing."""
    level = {"photo": 0.016, "painting": 0.018, "sculpture": 0.012}.get(t.style, 0.0)
    grain = rng.normal(0, 1, frame.shape).astype(np.float32)
    if t.style == "painting":
        axis = np.arange(frame.size, dtype=np.float32)
        grain = grain * 0.4 + np.sin(axis * 2.3)[:, None] + np.sin(axis * 2.3)[None, :]
    flat = np.clip(np.rint(128 * (1 + level * grain)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(flat[..., None], 3, 2))
