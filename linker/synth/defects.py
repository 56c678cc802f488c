"""Faults planted into good footage, drawn or filmed, so that curation can be checked: each with a strength 0..1.

A plant takes frames (T, H, W, 3) uint8 RGB at 25 a second, samples float32 (n,) at 16 kHz and a face, and returns new
ones with the frames that it touched. The same seed plants the same fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from linker.config import FPS, SAMPLE_RATE_HZ

Frames = NDArray[np.uint8]
Samples = NDArray[np.float32]
PER_FRAME = SAMPLE_RATE_HZ // FPS
ARRIVAL = 5  # frames in which something comes before the face, and goes again


@dataclass(frozen=True)
class Footage:
    """`face` (T, 4): x0, y0, x1, y1 of the face's oval in each frame, pixels; `touched` [first, last) frames."""

    frames: Frames
    samples: Samples
    face: NDArray[np.float32]
    touched: tuple[int, int] = (0, 0)


Plant = Callable[[Footage, Footage, float, np.random.Generator], Footage]


def plant(kind: str, footage: Footage, other: Footage, strength: float, seed: int) -> Footage:
    """Put one fault of DEFECTS into `footage`; `other` lends pictures and sound; `strength` is 0..1."""
    rng = np.random.default_rng([seed, 31])
    return DEFECTS[kind][1](footage, other, strength, rng)


# ---- stage 1: something before the face ------------------------------------------------------------------------------


def hand(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A palm and fingers in another skin's colour, in front of mouth and cheek."""
    skin = np.array([rng.uniform(70, 240), 0, 0])
    skin[1:] = skin[0] * np.array([rng.uniform(0.66, 0.8), rng.uniform(0.45, 0.68)])
    return _covered(footage, strength, rng, lambda canvas, box: _draw_hand(canvas, box, skin, rng), (0.5, 0.75))


def microphone(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A dark ball on a stick, before the mouth and chin."""
    return _covered(footage, strength, rng, lambda canvas, box: _draw_microphone(canvas, box, rng), (0.5, 0.85))


def thing(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A box of one colour or a pattern, anywhere before the face."""
    colour = rng.uniform(0, 255, 3)
    where = (rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.75))
    return _covered(footage, strength, rng, lambda canvas, box: _draw_box(canvas, box, colour), where)


def caption(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Lines of text on a bar across the face."""
    return _covered(
        footage, strength, rng, lambda canvas, box: _draw_caption(canvas, box), (0.5, rng.uniform(0.4, 0.75))
    )


def leaving(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """The camera turns away until the face is beyond the edge, and comes back."""
    first, last = _stretch(footage, 0.4 + strength, rng)
    frames = footage.frames.copy()
    width = frames.shape[2]
    middle = float(footage.face[first:last, [0, 2]].mean())
    far = width - middle + (strength - 0.3) * (footage.face[first, 2] - footage.face[first, 0])
    for i in range(first, last):
        shift = round(float(far * np.sin(np.pi * (i - first + 0.5) / (last - first)) ** 0.5))
        frames[i] = cv2.copyMakeBorder(frames[i], 0, 0, shift, 0, cv2.BORDER_REPLICATE)[:, :width]
    return replace(footage, frames=frames, touched=(first, last))


MASKS = ((120, 170, 205), (236, 238, 240), (28, 28, 32), (205, 160, 135), (150, 40, 60))  # surgical to scarf


def mask(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A surgical mask or a scarf worn throughout, plain, pleated or patterned: from the chin up to the mouth's corners
    at 0, to the eyes at 1."""
    colour = np.clip(np.array(MASKS[rng.integers(len(MASKS))]) + rng.uniform(-18, 18, 3), 0, 255)
    cloth = _cloth(colour, ("plain", "pleats", "pattern")[rng.integers(3)], rng)
    frames = footage.frames.copy()
    for frame, box in zip(frames, footage.face, strict=True):
        _draw_mask(frame, box.astype(np.float64), cloth, 0.64 - 0.24 * strength)
    return replace(footage, frames=frames, touched=(0, len(frames)))


def _cloth(colour: NDArray[np.float64], kind: str, rng: np.random.Generator) -> Frames:
    """A square of cloth, (64, 64, 3), darker to its sides."""
    rows, columns = np.mgrid[:64, :64]
    light = 1 - 0.25 * ((columns - 32) / 32) ** 2 + 0.02 * rng.standard_normal((64, 64))
    if kind == "pleats":
        light = light - 0.12 * (rows % 16 < 3)
    if kind == "pattern":
        light = light * (1 + 0.3 * np.sign(np.sin(rows / rng.uniform(2, 5)) * np.sin(columns / rng.uniform(2, 5))))
    return np.clip(colour * light[..., None], 0, 255).astype(np.uint8)


def _draw_mask(frame: Frames, box: NDArray[np.float64], cloth: Frames, top: float) -> None:
    """The cloth over a face's oval from `top` (share of its height) down to the chin, in place."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    low, size = round(y0 + top * (y1 - y0)), (max(x1 - x0, 1), max(y1 - y0, 1))
    shape = np.zeros(frame.shape[:2], np.uint8)
    cv2.ellipse(shape, ((x0 + x1) // 2, (y0 + y1) // 2), (size[0] // 2 + 1, size[1] // 2 + 2), 0, 0, 360, 255, -1)
    shape[: max(low, 0)] = 0
    laid = cv2.warpAffine(cloth, np.array([[size[0] / 64, 0, x0], [0, size[1] / 64, y0]]), frame.shape[1::-1])
    weight = cv2.GaussianBlur(shape, (3, 3), 0)[..., None] / 255.0
    frame[:] = (frame * (1 - weight) + laid * weight).astype(np.uint8)


def _covered(
    footage: Footage, strength: float, rng: np.random.Generator,
    draw: Callable[[Frames, NDArray[np.float64]], None], where: tuple[float, float],
) -> Footage:  # fmt: skip
    """`draw` paints into a box about `where` of the face, of sqrt(share) the face's sides, in every touched frame."""
    first, last = _stretch(footage, 0.6 + strength, rng)
    frames = footage.frames.copy()
    share = 0.08 + 0.5 * strength
    still = footage.face[first]
    size = (still[2:] - still[:2]) * np.sqrt(share)
    centre = still[:2] + (still[2:] - still[:2]) * np.array(where)
    sway, speed = rng.uniform(0, 0.06, 2) * size, rng.uniform(1, 3)
    from_below = np.array([0.0, 1.5 * (still[3] - still[1])])
    for i in range(first, last):
        away = np.clip(1 - np.minimum(i - first, last - 1 - i) / ARRIVAL, 0, 1)  # it comes and goes, from below
        moved = centre + away * from_below + sway * np.sin(speed * (i - first) / FPS * 2 * np.pi + np.array([0, 1]))
        canvas = frames[i].copy()
        draw(canvas, np.concatenate([moved - size / 2, moved + size / 2]))
        frames[i] = canvas
    return replace(footage, frames=frames, touched=(first + ARRIVAL, last - ARRIVAL))


def _draw_hand(canvas: Frames, box: NDArray[np.float64], skin: NDArray[np.float64], rng: np.random.Generator) -> None:
    (x0, y0), (w, h) = box[:2], box[2:] - box[:2]
    dark, light = skin * 0.72, np.minimum(skin * 1.08, 255)
    for finger in range(4):
        x = x0 + w * (0.14 + 0.24 * finger)
        ends = [(x, y0 + 0.6 * h), (x, y0 + (0.12 if finger in (1, 2) else 0.22) * h)]
        _line(canvas, ends, dark, 0.24 * w)
        _line(canvas, ends, light, 0.19 * w)
    _ellipse(canvas, (x0 + w / 2, y0 + 0.72 * h), (0.5 * w, 0.34 * h), dark)
    _ellipse(canvas, (x0 + w / 2, y0 + 0.71 * h), (0.46 * w, 0.31 * h), skin)


def _draw_microphone(canvas: Frames, box: NDArray[np.float64], rng: np.random.Generator) -> None:
    (x0, y0), (w, h) = box[:2], box[2:] - box[:2]
    _line(canvas, [(x0 + w / 2, y0 + h / 2), (x0 + w / 2 + 0.4 * w, y0 + 3 * h)], np.array([20, 20, 24]), 0.3 * w)
    _ellipse(canvas, (x0 + w / 2, y0 + h / 2), (w / 2, h / 2), np.array([38, 38, 42]))
    _ellipse(canvas, (x0 + 0.4 * w, y0 + 0.4 * h), (w / 5, h / 5), np.array([90, 90, 96]))


def _draw_box(canvas: Frames, box: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
    x0, y0, x1, y1 = (int(v) for v in box)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), colour.tolist(), -1)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (colour * 0.6).tolist(), 3)


def _draw_caption(canvas: Frames, box: NDArray[np.float64]) -> None:
    (x0, y0), (w, h) = box[:2], box[2:] - box[:2]
    bar = (int(x0 - 0.6 * w), int(y0 + 0.25 * h)), (int(x0 + 1.6 * w), int(y0 + 0.75 * h))
    cv2.rectangle(canvas, *bar, (16, 16, 16), -1)
    size = h / 90
    cv2.putText(
        canvas, "BREAKING NEWS", (bar[0][0] + 4, int(y0 + 0.62 * h)), 0, size, (250, 250, 250), max(1, int(2 * size))
    )


def _line(canvas: Frames, ends: list[tuple[float, float]], colour: NDArray[np.float64], thick: float) -> None:
    points = [(int(x), int(y)) for x, y in ends]
    cv2.line(canvas, points[0], points[1], colour.tolist(), max(1, round(thick)), cv2.LINE_AA)


def _ellipse(
    canvas: Frames, centre: tuple[float, float], axes: tuple[float, float], colour: NDArray[np.float64]
) -> None:
    whole = tuple(int(v) for v in centre), tuple(max(1, int(v)) for v in axes)
    cv2.ellipse(canvas, *whole, 0, 0, 360, colour.tolist(), -1, cv2.LINE_AA)


# ---- stage 2: the scene changes --------------------------------------------------------------------------------------


def hard_cut(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Another video from some frame on."""
    at = _middle(footage, rng)
    return _changed(footage, np.concatenate([footage.frames[:at], _fitted(other, footage)[at:]]), (at, at + 1))


def jump_cut(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """The same scene from nearer: a cut to a close-up, sound running on."""
    at = _middle(footage, rng)
    zoom = 1.15 + 0.5 * strength
    height, width = footage.frames.shape[1:3]
    x, y = ((footage.face[at, i] + footage.face[at, i + 2]) / 2 for i in (0, 1))
    nearer = cv2.getRotationMatrix2D((float(x), float(y)), 0, zoom)
    rest = [cv2.warpAffine(f, nearer, (width, height), borderMode=cv2.BORDER_REPLICATE) for f in footage.frames[at:]]
    return _changed(footage, np.concatenate([footage.frames[:at], rest]), (at, at + 1))


def fade(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """To black or white and back, over a second."""
    at, half = _middle(footage, rng), 13
    end = 255.0 if rng.random() < 0.5 else 0.0
    frames = footage.frames.astype(np.float32)
    for i in range(max(0, at - half), min(len(frames), at + half)):
        share = min(1.0, (1 - abs(i - at) / half) * (0.9 + strength))
        frames[i] += (end - frames[i]) * share
    return _changed(footage, frames.astype(np.uint8), (max(0, at - half), min(len(frames), at + half)))


def dissolve(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Into another video within 1 s to 0.4 s."""
    at, length = _middle(footage, rng), round(25 - 15 * strength)
    share = np.clip((np.arange(len(footage.frames)) - at) / length, 0, 1)[:, None, None, None]
    mixed = footage.frames * (1 - share) + _fitted(other, footage) * share
    return _changed(footage, mixed.astype(np.uint8), (at, min(len(mixed), at + length)))


# ---- stage 3: lips and sound -----------------------------------------------------------------------------------------


def late_sound(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """The sound 6 to 14 frames too late or too early; what is missing is silence."""
    shift = round(6 + 8 * strength) * PER_FRAME * (1 if rng.random() < 0.5 else -1)
    samples = np.roll(footage.samples, shift)
    if shift > 0:
        samples[:shift] = 0
    else:
        samples[shift:] = 0
    return replace(footage, samples=samples, touched=(0, len(footage.frames)))


def other_voice(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Dubbed over: somebody else's speech."""
    samples = np.resize(other.samples, len(footage.samples)).astype(np.float32)
    return replace(footage, samples=samples, touched=(0, len(footage.frames)))


def silence(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """No sound but faint noise."""
    noise = rng.standard_normal(len(footage.samples)).astype(np.float32) * np.float32(1e-4)
    return replace(footage, samples=noise, touched=(0, len(footage.frames)))


def music(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Plucked chords instead of the voice."""
    time_s = np.arange(len(footage.samples)) / SAMPLE_RATE_HZ
    samples = np.zeros(len(time_s))
    for start_s in np.arange(0, time_s[-1], 0.5):
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        gone_s = np.maximum(time_s - start_s, 0)
        ringing = (time_s >= start_s) * np.exp(-3 * gone_s)
        samples += ringing * sum(np.sin(2 * np.pi * root * step * gone_s) for step in (1, 1.25, 1.5, 2, 3))
    return replace(footage, samples=(0.06 * samples).astype(np.float32), touched=(0, len(footage.frames)))


# ---- stage 4: incoherence --------------------------------------------------------------------------------------------


def flicker(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """The light jumps up and down by 4 to 20 % from frame to frame."""
    first, last = _stretch(footage, 1.2, rng)
    factors = np.ones(len(footage.frames))
    factors[first:last] += (
        (0.04 + 0.16 * strength) * rng.choice([-1.0, 1.0], last - first) * rng.uniform(0.6, 1, last - first)
    )
    lit = np.clip(footage.frames * factors[:, None, None, None], 0, 255)
    return _changed(footage, lit.astype(np.uint8), (first, last))


def shake(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A camera held by an unsteady hand: the whole picture moves by 1 to 4 % of its width a few times a second."""
    first, last = _stretch(footage, 1.6, rng)
    size = footage.frames.shape[2]
    reach = (0.01 + 0.03 * strength) * size
    phase = rng.uniform(0, 2 * np.pi, 4)
    frames = footage.frames.copy()
    for i in range(first, last):
        t_s = (i - first) / FPS
        x = np.sin(2 * np.pi * 3.1 * t_s + phase[0]) + 0.5 * np.sin(2 * np.pi * 5.3 * t_s + phase[1])
        y = np.sin(2 * np.pi * 2.7 * t_s + phase[2]) + 0.5 * np.sin(2 * np.pi * 4.9 * t_s + phase[3])
        move = np.array([[1, 0, reach * x], [0, 1, reach * y]])
        frames[i] = cv2.warpAffine(frames[i], move, frames.shape[2:0:-1], borderMode=cv2.BORDER_REFLECT)
    return _changed(footage, frames, (first, last))


def passer_by(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A figure walks through the background, from one edge to the other, behind the head."""
    first, last = _stretch(footage, 1.6 - 0.6 * strength, rng)
    frames = footage.frames.copy()
    height, width = frames.shape[1:3]
    colour = rng.uniform(0, 255, 3)
    wide = (0.12 + 0.2 * strength) * width
    for i in range(first, last):
        x = (i - first) / (last - first) * (width + 2 * wide) - wide
        canvas = frames[i].copy()
        _ellipse(canvas, (x, 0.3 * height), (wide / 2, 0.12 * height), colour * 0.8)
        _ellipse(canvas, (x, 0.8 * height), (wide / 1.4, 0.4 * height), colour)
        frames[i] = np.where(_head(footage.face[i], (height, width))[..., None], frames[i], canvas)
    return _changed(footage, frames, (first, last))


def splice(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """A piece of half a second is missing, and the head is somewhere else after it, sound and all."""
    at = _middle(footage, rng)
    lost = 12
    reach = (0.08 + 0.2 * strength) * float(footage.face[at, 3] - footage.face[at, 1])
    angle = rng.uniform(0, 2 * np.pi)
    move = np.array([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]])
    size = footage.frames.shape[2:0:-1]
    rest = [cv2.warpAffine(f, move, size, borderMode=cv2.BORDER_REPLICATE) for f in footage.frames[at + lost :]]
    samples = np.delete(footage.samples, np.s_[at * PER_FRAME : (at + lost) * PER_FRAME])
    face = np.delete(footage.face, np.s_[at : at + lost], axis=0)
    return Footage(np.concatenate([footage.frames[:at], rest]), samples, face, (at, at + 1))


def freeze(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """One frame for 0.3 to 1 s, sound running on."""
    first, last = _stretch(footage, 0.3 + 0.7 * strength, rng)
    frames = footage.frames.copy()
    frames[first:last] = frames[first]
    return _changed(footage, frames, (first, last))


def blur(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Out of focus throughout."""
    sigma = (0.01 + 0.03 * strength) * float(footage.face[0, 3] - footage.face[0, 1])
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in footage.frames])
    return _changed(footage, frames, (0, len(frames)))


def compression(footage: Footage, other: Footage, strength: float, rng: np.random.Generator) -> Footage:
    """Every frame through a JPEG of quality 12 to 2."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(12 - 10 * strength)]
    encoded = [cv2.imencode(".jpg", frame, quality)[1] for frame in footage.frames]
    frames = [np.asarray(cv2.imdecode(one, cv2.IMREAD_COLOR)) for one in encoded]
    return _changed(footage, np.stack(frames), (0, len(frames)))


def _changed(footage: Footage, frames: Frames, touched: tuple[int, int]) -> Footage:
    return replace(footage, frames=np.ascontiguousarray(frames), touched=touched)


def _fitted(other: Footage, footage: Footage) -> Frames:
    """The other video's frames at this one's size and number."""
    size = footage.frames.shape[2:0:-1]
    numbers = np.arange(len(footage.frames)) % len(other.frames)
    return np.stack([cv2.resize(other.frames[i], size, interpolation=cv2.INTER_AREA) for i in numbers])


def _head(face: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A generous outline of head and shoulders, (H, W)."""
    mask = np.zeros(shape, np.uint8)
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    w, h = face[2] - face[0], face[3] - face[1]
    cv2.ellipse(mask, (int(x), int(y - 0.1 * h)), (int(0.75 * w), int(0.8 * h)), 0, 0, 360, 1, -1)
    cv2.ellipse(mask, (int(x), int(y + 1.5 * h)), (int(1.3 * w), int(0.9 * h)), 0, 0, 360, 1, -1)
    return mask.astype(bool)


def _stretch(footage: Footage, seconds: float, rng: np.random.Generator) -> tuple[int, int]:
    """Some frames inside, none of the first and last ten."""
    count = min(round(seconds * FPS), len(footage.frames) - 20)
    first = int(rng.integers(10, len(footage.frames) - 10 - count + 1))
    return first, first + count


def _middle(footage: Footage, rng: np.random.Generator) -> int:
    """A frame in the middle half, so that neither side is a segment of its own in a short video."""
    return round(len(footage.frames) * rng.uniform(0.35, 0.65))


DEFECTS: dict[str, tuple[str, Plant]] = {
    "hand": ("occlusion", hand), "microphone": ("occlusion", microphone), "thing": ("occlusion", thing),
    "caption": ("occlusion", caption), "leaving": ("occlusion", leaving), "mask": ("occlusion", mask),
    "hard_cut": ("scene", hard_cut), "jump_cut": ("scene", jump_cut), "fade": ("scene", fade),
    "dissolve": ("scene", dissolve),
    "late_sound": ("sync", late_sound), "other_voice": ("sync", other_voice), "silence": ("sync", silence),
    "music": ("sync", music),
    "flicker": ("coherence", flicker), "shake": ("coherence", shake), "passer_by": ("coherence", passer_by),
    "splice": ("coherence", splice), "freeze": ("coherence", freeze), "blur": ("coherence", blur),
    "compression": ("coherence", compression),
}  # fmt: skip
