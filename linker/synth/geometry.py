"""Where every point of a drawn head goes: outline, depth, jaw and brow displacement, pose, and the inverse as maps.

Head coordinates: unit = one face height (hairline to chin), x to the right, y down, the face's middle at (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from linker.synth.drawing import Array, Points, mirrored, smoothstep, spline, vec
from linker.synth.motion import Motion
from linker.synth.traits import Traits

GAP = 0.16  # gap between the lips of a wide open mouth, face heights
UPPER_SHARE = 0.08  # of the gap is made by the upper lip, the rest by the jaw
PIVOT_Y, PIVOT_Z = 0.55, -0.15  # the head turns about the top of the neck
SETTLED = 16  # iterations after which a point of the skin lies where it is, to a hundredth of a pixel
GRID = 44  # nodes a side of the displacement grid
MARGIN = 0.1  # textures reach beyond the frame by this share of it
SCALE = 1.5  # texture pixels per frame pixel


@dataclass(frozen=True)
class Frame:
    """How head coordinates lie in a picture of `size` pixels: p * face_px + centre."""

    size: int
    face_px: float
    cx: float
    cy: float

    def px(self, points: Points) -> Points:
        """Head coordinates -> frame pixels."""
        return np.asarray(points, np.float32) * self.face_px + vec([self.cx, self.cy])

    @property
    def texture(self) -> Frame:
        """The frame of textures: larger by MARGIN all around and finer by SCALE."""
        side = round(self.size * (1 + 2 * MARGIN) * SCALE)
        shift = self.size * MARGIN
        return Frame(side, self.face_px * SCALE, (self.cx + shift) * SCALE, (self.cy + shift) * SCALE)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.size, self.size)

    def grid(self) -> tuple[Array, Array]:
        """Head coordinates x, y (size, size) of every pixel's centre."""
        axis = np.arange(self.size, dtype=np.float32) + 0.5
        x, y = np.meshgrid((axis - self.cx) / self.face_px, (axis - self.cy) / self.face_px)
        return x, y


def outline(t: Traits, grow: float = 0.0) -> Points:
    """The head's bare outline, crown to chin, widened by `grow`."""
    right = [
        (0, -0.70),
        (0.17, -0.675),
        (0.30, -0.57),
        (t.temple_w, -0.36),
        (t.cheek_w, -0.08),
        (t.cheek_w * 0.95, 0.10),
        (t.jaw_w + 0.03, 0.27),
        (t.jaw_w * 0.75, 0.39),
        (t.chin_w, 0.475),
        (0, 0.5),
    ]
    points = vec(right)
    points = points * (1 + grow / 0.4)
    return spline(mirrored(points), 6)


def depth(x: Array, y: Array) -> Array:
    """How far the face stands out, for parallax: a smooth dome and the nose."""
    dome = 0.40 * np.exp(-((x / 0.47) ** 2) - ((y + 0.02) / 0.8) ** 2)
    return dome + 0.07 * np.exp(-((x / 0.09) ** 2) - ((y - 0.10) / 0.13) ** 2)


def turn(x: Array, y: Array, z: Array, m: Motion) -> tuple[Array, Array]:
    """Pose of points: rotate about the neck, shift. Arrays (T, ...), motion curves (T,); below the chin it fades."""
    wide = [
        np.asarray(c).reshape(-1, *[1] * (x.ndim - 1))
        for c in (np.radians(m.yaw_deg), np.radians(m.pitch_deg), np.radians(m.roll_deg), m.x, m.y)
    ]
    yaw, pitch, roll, shift_x, shift_y = wide
    v, depth_ = y - PIVOT_Y, z - PIVOT_Z
    u = x * np.cos(yaw) + depth_ * np.sin(yaw)
    depth_ = depth_ * np.cos(yaw) - x * np.sin(yaw)
    v = v * np.cos(pitch) + depth_ * np.sin(pitch) * 0.8
    u, v = u * np.cos(roll) - v * np.sin(roll), u * np.sin(roll) + v * np.cos(roll)
    hold = 1 - 0.75 * smoothstep(0.58, 1.05, y)
    return x + (u + shift_x - x) * hold, y + (v + PIVOT_Y + shift_y - y) * hold


def gap_of(m: Motion) -> Array:
    """Height of the gap between the lips, face heights (T,)."""
    return GAP * np.asarray(m.open, np.float32)


def unturn(qx: Array, qy: Array, flat_depth: float | None, m: Motion) -> tuple[Array, Array]:
    """The inverse of `turn` on a grid, by fixed point iteration; `flat_depth` stands for the depth field."""
    x, y = qx, qy
    for _ in range(7):
        z = depth(x, y) if flat_depth is None else np.full_like(x, flat_depth)
        fx, fy = turn(x, y, z, m)
        x, y = x + (qx - fx), y + (qy - fy)
    return x, y


def unexpress(x: Array, y: Array, t: Traits, m: Motion) -> tuple[Array, Array]:
    """Where the skin now at (x, y) lies in the resting face: undo jaw, mouth width and brows."""
    gap, width, brow = (np.asarray(c).reshape(-1, 1, 1) for c in (gap_of(m), m.width, m.brow))
    jaw = gap * (1 - UPPER_SHARE)
    fall = np.exp(-np.square(np.square(x / 0.27))) * np.exp(-((np.maximum(y - 0.75, 0) / 0.2) ** 2))
    down = jaw * fall * smoothstep(0, 1, (y - t.mouth_y + 0.03) / (jaw + 0.13))
    side = np.exp(-(((np.abs(x) - t.mouth_w) / 0.11) ** 2) - ((y - t.mouth_y - gap / 2) / 0.11) ** 2)
    across = 0.028 * width * side * np.tanh(x / 0.05)
    lift = 0.035 * brow * np.exp(-(((np.abs(x) - t.eye_x) / 0.14) ** 2) - ((y - t.brow_y) / 0.065) ** 2)
    return x - across, y - down + lift


def expressed(points: Points, t: Traits, m: Motion) -> Array:
    """The inverse of `unexpress`: where skin that rests at `points` (n, 2) is, (T, n, 2), by fixed point iteration."""
    q = np.broadcast_to(points, (len(m), 1, *points.shape))
    p = q
    for _ in range(SETTLED):
        p = p + (q - np.stack(unexpress(p[..., 0], p[..., 1], t, m), -1))
    return p[:, 0]


def skin_points(eye_x: float, eye_y: float, mouth_x: float, mouth_y: float, mouth_w: float) -> Points:
    """Points (n, 2) spread over a resting face, forehead to chin; NaN where lips or eyes are, or a narrow jaw may not
    be."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.3, 0.3, 7), np.linspace(-0.34, 0.46, 9)))
    eyes = (np.abs(np.abs(x) - eye_x) < 0.10) & (np.abs(y - eye_y) < 0.06)
    lips = (np.abs(x - mouth_x) < mouth_w + 0.02) & (np.abs(y - mouth_y) < 0.06)
    beside = (np.abs(x) > 0.2) & (y > 0.25) | (np.abs(x) > 0.1) & (y > 0.4)
    return np.where((eyes | lips | beside)[:, None], np.nan, np.stack([x, y], -1)).astype(np.float32)


def maps(frame: Frame, t: Traits, m: Motion, flat_depth: float | None) -> Array:
    """For every frame a (GRID, GRID, 2) grid of texture pixels to look up, to be enlarged to the frame's size."""
    axis = (np.arange(GRID, dtype=np.float32) + 0.5) * frame.size / GRID
    qx, qy = np.meshgrid((axis - frame.cx) / frame.face_px, (axis - frame.cy) / frame.face_px)
    qx, qy = (np.broadcast_to(q, (len(m), GRID, GRID)) for q in (qx, qy))
    x, y = unturn(qx, qy, flat_depth, m)
    if flat_depth is None:
        x, y = unexpress(x, y, t, m)
    return frame.texture.px(np.stack([x, y], -1)) - vec(0.5)


def enlarge(grid: Array, size: int) -> Array:
    """A (GRID, GRID, 2) map as (size, size, 2)."""
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def project(points: Points, m: Motion, frame: Frame, lift: float = 0.0, flat: float | None = None) -> Array:
    """Pose points (T, n, 2) of the moved face; -> frame pixels (T, n, 2). `lift` = height above the skin."""
    p = np.asarray(points, np.float32)
    z = depth(p[..., 0], p[..., 1]) + lift if flat is None else np.full(p.shape[:-1], flat, np.float32)
    x, y = turn(p[..., 0], p[..., 1], z, m)
    return frame.px(np.stack([x, y], -1))
