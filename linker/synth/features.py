"""The parts drawn anew for every frame: eyes with lids, lips with teeth and tongue, glasses. And their contours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from linker.synth.drawing import SHIFT, Array, Points, vec
from linker.synth.geometry import UPPER_SHARE, Frame, gap_of, project
from linker.synth.motion import Motion
from linker.synth.traits import Traits

S = np.linspace(-1, 1, 21, dtype=np.float32)  # along a lip or lid, from the picture's left to its right
Canvas = NDArray[np.uint8]


@dataclass(frozen=True)
class Mouth:
    """Contours (T, 21, 2) from corner to corner, and teeth and tongue, all in the same units."""

    outer_up: Array
    inner_up: Array
    inner_low: Array
    outer_low: Array


@dataclass(frozen=True)
class Eye:
    """Lids (T, 21, 2), the crease above, iris centre (T, 1, 2)."""

    top: Array
    low: Array
    crease: Array
    iris: Array


def curve(x: Array, y: Array) -> Array:
    """(T, 21) coordinates as (T, 21, 2)."""
    return np.stack(np.broadcast_arrays(x, y), -1).astype(np.float32)


def column(values: Array) -> Array:
    """(T,) as (T, 1)."""
    return np.asarray(values, np.float32)[:, None]


def mouth(t: Traits, m: Motion) -> Mouth:
    """Lips in head coordinates: spread or rounded by `width`, parted by `open`."""
    width, opening, gap = column(m.width), column(m.open), column(gap_of(m))
    spread, purse = np.maximum(width, 0), np.maximum(-width, 0)
    half = t.mouth_w * (1 + 0.20 * spread - 0.42 * purse) * (1 - 0.16 * opening)
    up, low = t.mouth_y - UPPER_SHARE * gap, t.mouth_y + (1 - UPPER_SHARE) * gap
    corner = t.mouth_y + 0.40 * gap - 0.014 * spread - t.smile * (1 - 0.6 * purse)
    round_ = vec(1 - np.abs(S) ** 2.2) ** (1.15 - 0.55 * np.maximum(np.minimum(2 * opening, 1), purse))
    bow = 0.004 * np.cos(S * 7) * (1 - S**2) * (1 - np.minimum(opening * 4, 1))
    inner_up = corner + (up - corner) * round_ + bow
    inner_low = corner + (low - corner) * round_ + bow
    thick = 1 - 0.22 * spread - 0.12 * opening + 0.30 * purse
    top = (1 - np.abs(S) ** 2.4) ** 0.75 * (
        1 - 0.30 * np.exp(-((S / 0.13) ** 2)) + 0.10 * np.exp(-(((np.abs(S) - 0.24) / 0.14) ** 2))
    )
    bottom = (1 - np.abs(S) ** 2.6) ** 0.8
    x = S * half
    return Mouth(
        curve(x * 1.03, inner_up - t.lip_up * thick * top - 0.001),
        curve(x, inner_up),
        curve(x, inner_low),
        curve(x * 1.03, inner_low + t.lip_down * thick * bottom + 0.001),
    )


def eye(t: Traits, m: Motion, side: int) -> Eye:
    """One eye in head coordinates; side -1 is the picture's left."""
    blink, down, wide = column(m.blink), column(m.gaze_y), column(np.maximum(m.brow, 0))
    half = t.eye_w / 2
    x = side * t.eye_x + S * half
    tilt = -t.eye_tilt * 0.25 * S * side * half
    skew = 1 - 0.10 * S * side
    top = -0.60 * t.eye_h * (1 + 0.10 * wide - 0.12 * down) * np.maximum(1 - np.abs(S) ** 2.3, 0) ** 0.72 * skew
    low = 0.40 * t.eye_h * np.maximum(1 - np.abs(S) ** 2.0, 0) ** 0.95
    closed = 0.26 * t.eye_h * (1 - S**2)
    y = t.eye_y + tilt
    lid_top, lid_low = top + (closed - top) * blink, low + (closed - low) * blink
    crease = top - 0.30 * t.eye_h * (1 - 0.5 * S**2) * (1 + 0.2 * wide) + 0.18 * t.eye_h * blink
    iris_x = side * t.eye_x + column(m.gaze_x) * 0.20 * t.eye_w
    iris_y = t.eye_y - 0.06 * t.eye_h + down * 0.20 * t.eye_h + 0.12 * t.eye_h * blink
    return Eye(curve(x, y + lid_top), curve(x, y + lid_low), curve(x * 1, y + crease), curve(iris_x, iris_y))


def posed(shape: Mouth | Eye, m: Motion, frame: Frame) -> dict[str, Array]:
    """The contours of a shape as frame pixels."""
    return {name: project(points, m, frame) for name, points in vars(shape).items()}


class Patch:
    """A part of a frame, enlarged for drawing fine shapes and laid back anti-aliased."""

    def __init__(self, canvas: Canvas, points: Points, margin: float, px: float) -> None:
        size, self.up = len(canvas), 2 if px > 90 else 3
        low = np.clip(np.floor(points.min(0) - margin).astype(int), 0, size - 4)
        high = np.clip(np.ceil(points.max(0) + margin).astype(int), low + 4, size)
        self.x, self.y = int(low[0]), int(low[1])
        self.view = canvas[self.y : int(high[1]), self.x : int(high[0])]
        height, width = self.view.shape[:2]
        self.image: Canvas = cv2.resize(self.view, (width * self.up, height * self.up), interpolation=cv2.INTER_LINEAR)
        self.drawn: Canvas = np.zeros(self.image.shape[:2], np.uint8)

    def fixed(self, points: Points) -> NDArray[np.int32]:
        """Frame pixels as fixed point coordinates of the patch."""
        p = (np.asarray(points, np.float32) - (self.x, self.y)) * self.up - 0.5
        return np.rint(p * (1 << SHIFT)).astype(np.int32)

    def mask(self, points: Points, soft: float = 0) -> Canvas:
        """Mask 0..255 of a polygon, its edge softened by `soft` frame pixels."""
        mask = np.zeros(self.drawn.shape, np.uint8)
        cv2.fillPoly(mask, [self.fixed(points)], 255, cv2.LINE_AA, SHIFT)
        return soften(mask, soft * self.up)

    def stroke(self, points: Points, width: float, soft: float = 0) -> Canvas:
        """Mask of an open line `width` frame pixels wide."""
        mask = np.zeros(self.drawn.shape, np.uint8)
        cv2.polylines(mask, [self.fixed(points)], False, 255, max(1, round(width * self.up)), cv2.LINE_AA, SHIFT)
        return soften(mask, soft * self.up)

    def lay(self, colour: Array | Canvas, mask: Canvas, strength: float = 1.0) -> None:
        """Lay a colour (3,) 0..1, or an image, over the patch through a mask."""
        where = bounds(mask)
        if not mask[where].size:  # too small to cover one pixel
            return
        image, alpha = self.image[where], mask[where].astype(np.float32) * np.float32(strength / 255)
        paint = solid(colour, image.shape) if np.ndim(colour) == 1 else np.asarray(colour[where], np.uint8)
        image[:] = cv2.blendLinear(image, paint, 1 - alpha, alpha)
        cv2.max(self.drawn[where], mask[where], dst=self.drawn[where])

    def put_back(self, strength: float = 1.0) -> None:
        """Shrink the patch onto the frame where something was drawn, mixed in by `strength`."""
        size = self.view.shape[1::-1]
        alpha = cv2.resize(np.minimum(self.drawn, 85) * 3, size, interpolation=cv2.INTER_AREA)
        small = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        if strength < 1:
            small = cv2.addWeighted(small, strength, self.view, 1 - strength, 0)
        cv2.copyTo(small, (alpha > 0).astype(np.uint8), self.view)


def soften(mask: Canvas, sigma: float) -> Canvas:
    """Blur a patch's mask in place by `sigma` of its pixels."""
    if sigma <= 0.15:
        return mask
    where = bounds(mask, int(3 * sigma) + 1)
    mask[where] = cv2.GaussianBlur(mask[where], (0, 0), sigma)
    return mask


def bounds(mask: Canvas, margin: int = 0) -> tuple[slice, slice]:
    """Where a mask is not empty, as slices of rows and columns: work there only."""
    x, y, w, h = cv2.boundingRect(mask)
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def solid(colour: npt.ArrayLike, shape: tuple[int, ...]) -> Canvas:
    """An image of one colour (3,) 0..1."""
    return np.broadcast_to(np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8), shape).copy()


def ring(top: Points, low: Points) -> Points:
    """The closed outline between an upper and a lower curve."""
    return np.concatenate([top, low[::-1]])


@dataclass(frozen=True)
class Inside:
    """Colours 0..1 (3,) of the inner mouth."""

    cave: Array
    teeth: Array
    tongue: Array


@dataclass(frozen=True)
class Palette:
    """Colours 0..1 (3,) of the drawn parts, already lit."""

    white: Array
    ring: Array
    iris: Array
    lash: Array
    crease: Array
    lip_up: Array
    lip_low: Array
    lip_line: Array
    gloss: Array
    inside: Inside


def palette(t: Traits, eye_light: Array, mouth_light: Array) -> Palette:
    """Colours of eyes and mouth in this portrait's light (each (3,), about 0.4..1.1)."""

    def lit(colour: tuple[float, ...] | Array, light: Array, floor: float = 0.25) -> Array:
        return np.clip(vec(colour) * (floor + (1 - floor) * light), 0, 1)

    if t.style == "sculpture":
        stone = vec(t.material)
        eyes, lips = lit(stone, eye_light), lit(stone, mouth_light)
        return Palette(
            eyes * 0.98,
            eyes * 0.62,
            eyes * 0.80,
            eyes * 0.45,
            eyes * 0.55,
            lips * 0.84,
            lips * 0.97,
            lips * 0.34,
            lips * 1.25,
            Inside(lips * 0.18, lips * 0.92, lips * 0.5),
        )
    skin, lip, iris = vec(t.skin), vec(t.lip), vec(t.iris)
    lash = vec([0.10, 0.07, 0.06]) if t.feminine > 0.5 or t.style == "cartoon" else skin * 0.28
    return Palette(
        lit((0.95, 0.94, 0.92), eye_light, 0.45),
        iris * 0.32,
        lit(iris * 1.05, eye_light, 0.5),
        lash,
        skin * vec([0.52, 0.38, 0.36]) * (0.4 + 0.6 * eye_light),
        lit(lip * 0.86, mouth_light),
        lit(lip * 1.05, mouth_light),
        lip * vec([0.36, 0.25, 0.26]),
        np.clip(lip * 0.55 + 0.42, 0, 1),
        Inside(
            vec([0.17, 0.045, 0.05]),
            lit((0.95, 0.93, 0.88), mouth_light, 0.4),
            lit((0.72, 0.33, 0.34), mouth_light, 0.3),
        ),
    )


def draw_eye(canvas: Canvas, t: Traits, p: Palette, e: dict[str, Array], blink: float, px: float) -> None:
    """One eye of one frame: ball, iris, shadow of the lid, lashes and crease; `px` = face height in pixels."""
    top, low = e["top"], e["low"]
    patch = Patch(canvas, np.concatenate([top, low, e["crease"]]), 0.035 * px, px)
    flat, soft = t.style == "cartoon", 0.0 if t.style == "cartoon" else 0.0035 * px
    patch.lay(p.crease, patch.stroke(e["crease"][2:-2], 0.007 * px, soft), (0.75 if flat else 0.6) * (1 - 0.55 * blink))
    if blink < 0.97:
        hole = patch.mask(ring(top, low))
        ball = eyeball(patch, t, p, e, px)
        patch.lay(ball, hole)
        lower = patch.stroke(low[3:-1], 0.005 * px, soft)
        patch.lay(p.crease, lower, 0.6)
    lash = 0.010 + 0.006 * t.makeup + (0.006 if flat else 0) - (0.005 if t.style == "sculpture" else 0)
    patch.lay(p.lash, patch.stroke(top, lash * px, soft * 0.5), 0.95 if t.style != "sculpture" else 0.7)
    patch.put_back()


def eyeball(patch: Patch, t: Traits, p: Palette, e: dict[str, Array], px: float) -> Canvas:
    """The eye without its lids as an image the size of the patch."""
    ball = solid(p.white, patch.image.shape)
    centre, radius = e["iris"][0], t.iris_r * px

    def disc(colour: Array, dx: float, dy: float, r: float) -> None:
        at = patch.fixed(vec([[centre[0] + dx * radius, centre[1] + dy * radius]]))[0]
        cv2.circle(
            ball,
            at.tolist(),
            round(r * radius * patch.up * (1 << SHIFT)),
            np.rint(np.clip(colour, 0, 1) * 255).tolist(),
            -1,
            cv2.LINE_AA,
            SHIFT,
        )

    side = 1 if t.light_x > 0 else -1
    if t.style == "sculpture":
        disc(p.ring, 0, 0, 1.0)
        disc(p.white * 0.92, 0.04, 0.06, 0.88)
        disc(p.ring * 0.6, 0, 0, 0.42)
    else:
        disc(p.ring, 0, 0, 1.0)
        disc(p.iris * 0.8, 0, 0.03, 0.88)
        disc(p.iris * 1.3, 0, 0.25, 0.58)
        disc(vec([0.03, 0.02, 0.02]), 0, 0, 0.46)
    if t.style != "cartoon":
        ball = cv2.GaussianBlur(ball, (0, 0), 0.004 * px * patch.up)
    shade = patch.stroke(e["top"], 0.035 * px, 0.012 * px if t.style != "cartoon" else 0)
    ball = cv2.multiply(ball, cv2.merge([255 - shade // 3] * 3), scale=1 / 255)
    if t.style != "sculpture":
        disc(vec([1, 1, 1]), 0.34 * side, -0.36, 0.25)
        disc(vec([0.8, 0.8, 0.8]) * 0.6 + p.iris * 0.4, -0.36 * side, 0.40, 0.13)
    return ball


def draw_mouth(
    canvas: Canvas, t: Traits, p: Palette, mo: dict[str, Array], gap_px: float, teeth: float, px: float
) -> None:
    """The mouth of one frame: inside with teeth and tongue, then the lips over it."""
    up, low = mo["inner_up"], mo["inner_low"]
    patch = Patch(canvas, np.concatenate([mo["outer_up"], mo["outer_low"]]), 0.03 * px, px)
    flat = t.style == "cartoon"
    soft = 0.0 if flat else 0.006 * px
    if gap_px > 0.15:
        draw_inside(patch, p.inside, up, low, gap_px, teeth, px, flat)
    patch.lay(p.lip_up, patch.mask(ring(mo["outer_up"], up), soft), 0.9)
    patch.lay(p.lip_low, patch.mask(ring(low, mo["outer_low"]), soft), 0.9)
    middle = (low + mo["outer_low"]) / 2
    shine = patch.stroke(middle[6:-6], 0.014 * px, 0.001 * px if flat else 0.008 * px)
    patch.lay(p.gloss, shine, 0.45 if flat else 0.4 + 0.2 * t.makeup)
    under = patch.stroke(mo["outer_low"][3:-3], 0.008 * px, soft)
    patch.lay(p.lip_line, under, 0.22)
    lines = min(1.0, 0.55 + 0.4 * (gap_px < 0.5))
    for lip in (up, low) if gap_px > 0.5 else (up,):
        patch.lay(p.lip_line, patch.stroke(lip, 0.008 * px, soft * 0.5), lines)
    patch.put_back()


def draw_inside(
    patch: Patch, p: Inside, up: Points, low: Points, gap_px: float, teeth: float, px: float, flat: bool
) -> None:
    """Dark cave, upper row of teeth, tongue, all clipped by the lips' inner contours."""
    hole = patch.mask(ring(up, low))
    patch.lay(p.cave, hole)
    middle, half = (up[10] + low[10]) / 2, (up[-1] - up[0]) / 2
    tongue_at = low[10] + (low[10] - middle) * 0.25
    t = np.linspace(0, 2 * np.pi, 28, dtype=np.float32)[:, None]
    tongue = tongue_at + np.cos(t) * half * 0.62 + np.sin(t) * (low[10] - up[10]) * 0.42
    patch.lay(p.tongue, cv2.bitwise_and(hole, patch.mask(tongue, 0 if flat else 0.008 * px)), 0.95)
    down = (low - up) / max(gap_px, 1e-3)
    row = min(0.055 * px * (0.35 + 0.65 * teeth), 0.55 * gap_px)
    edge = up + (low[10] - up[10]) / max(gap_px, 1e-3) * row * (1 - 0.25 * S[:, None] ** 2)
    white = cv2.bitwise_and(hole, patch.mask(ring(up - down, edge), 0 if flat else 0.002 * px))
    patch.lay(p.teeth, white, min(1.0, teeth * 2.5))
    if not flat:
        shade = cv2.bitwise_and(hole, patch.stroke(up, 0.02 * px, 0.010 * px))
        patch.lay(p.cave, shade, 0.55)
        for k in (4, 6, 8, 10, 12, 14, 16):
            tooth = cv2.bitwise_and(white, patch.stroke(np.stack([up[k], edge[k]]), 0.004 * px, 0.002 * px))
            patch.lay(p.cave, tooth, 0.22 * min(1.0, teeth * 2))


GLASS = {"round": (0.098, 0.092, 2.0), "square": (0.108, 0.078, 3.6), "thin": (0.102, 0.066, 2.6)}


def glasses(t: Traits, frames: int) -> Array:
    """Rims (T, 2, 40, 2), in head coordinates."""
    rx, ry, power = GLASS[t.glasses]
    a = np.linspace(0, 2 * np.pi, 40, dtype=np.float32)
    c, s = np.cos(a), np.sin(a)
    x = np.sign(c) * np.abs(c) ** (2 / power) * rx * max(1, t.eye_w / 0.17)
    y = np.sign(s) * np.abs(s) ** (2 / power) * ry * max(1, t.eye_w / 0.17) + t.eye_y + 0.012
    rims = np.stack([np.stack([side * (t.eye_x + 0.003) + x * side, y], -1) for side in (-1, 1)])
    return np.broadcast_to(rims, (frames, *rims.shape))


def draw_glasses(canvas: Canvas, t: Traits, rims: Array, arms: Array, px: float) -> None:
    """Rims, bridge and arms of one frame, in frame pixels: rims (2, 40, 2), arms (2, 2, 2)."""
    patch = Patch(canvas, np.concatenate([rims.reshape(-1, 2), arms.reshape(-1, 2)]), 4, px)
    dark = vec(t.cloth_two) * 0.25 if t.glasses != "thin" else vec([0.62, 0.55, 0.42])
    if t.style == "sculpture":
        dark = vec(t.material) * 0.4
    width = (0.010 if t.glasses == "thin" else 0.015) * px
    for rim in rims:
        patch.lay(vec([1, 1, 1]), patch.mask(rim), 0.07)
        patch.lay(dark, patch.stroke(np.concatenate([rim, rim[:2]]), width))
    inner = np.stack([rims[0, 37], (rims[0, 36] + rims[1, 36]) / 2 - (0, 0.012 * px), rims[1, 37]])
    for bar in (inner, arms[0], arms[1]):
        patch.lay(dark, patch.stroke(bar, width))
    patch.put_back()
