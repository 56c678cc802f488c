"""Sets a still picture in motion by its landmarks: real skin, light and paint for training, with known truth.

The face's own coordinates are those of drawn heads (unit = face height, x along the eyes), so the same `Motion` and
the same depth serve both. A still has no pixels of its far side and no second gaze: turns are held back by HELD, and
the eyes look where they look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from linker.synth import features
from linker.synth.drawing import Array, smoothstep, vec
from linker.synth.geometry import SETTLED, UPPER_SHARE, depth, enlarge, gap_of, skin_points, turn
from linker.synth.motion import Motion
from linker.synth.regions import Outlines, region_boxes, region_masks

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
HELD = 0.6  # share of yaw and pitch that a still shows
MESH_H = 0.88  # a mesh's height, forehead to chin, in face heights
TURN_NODES, SKIN_NODES = 44, 96  # grid nodes a side for the pose and for the finer moves of the skin
CHUNK = 16
CHIN, TOP, NOSE = 152, 10, 1
INNER_UP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # mediapipe's face mesh, picture left to right
INNER_LOW = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
OUTER_UP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOW = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIDS = {
    "left": ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    "right": ((362, 398, 384, 385, 386, 387, 388, 466, 263), (362, 382, 381, 380, 374, 373, 390, 249, 263)),
}
BROWS = {"left": (70, 63, 105, 66, 107), "right": (336, 296, 334, 293, 300)}
UNDER_BROWS = {"left": (53, 52, 65), "right": (283, 282, 295)}
LASH = 0.010  # lashes and liner about a lid, face heights: not skin to stretch
OVAL = (
    10,
    338,
    297,
    332,
    284,
    251,
    389,
    356,
    454,
    323,
    361,
    288,
    397,
    365,
    379,
    378,
    400,
    377,
    152,
    148,
    176,
    149,
    150,
    136,
    172,
    58,
    132,
    93,
    234,
    127,
    162,
    21,
    54,
    103,
    67,
    109,
)


@dataclass(frozen=True)
class Local:
    """Face coordinates in a frame: rotation by `angle`, unit `face_px`, origin at the face's middle."""

    size: int
    face_px: float
    cx: float
    cy: float
    angle: float

    @property
    def axes(self) -> Array:
        """Rows: the face's x and y directions in the frame."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return vec([[c, s], [-s, c]])

    def px(self, points: Array) -> Array:
        """Face coordinates -> frame pixels."""
        return points @ (self.axes * self.face_px) + vec([self.cx, self.cy])

    def local(self, points: Array) -> Array:
        """Frame pixels -> face coordinates."""
        return (points - vec([self.cx, self.cy])) @ (self.axes.T / self.face_px)

    def grid(self, nodes: int) -> Array:
        """Face coordinates (nodes, nodes, 2) of evenly spread points of the frame."""
        axis = (np.arange(nodes, dtype=np.float32) + 0.5) * self.size / nodes
        return self.local(np.stack(np.meshgrid(axis, axis), -1))


@dataclass(frozen=True)
class StillPortrait:
    """A square picture (H, H, 3) RGB with its face mesh (468 or more, 2) in its pixels, rendered at `size_px`."""

    image: Picture
    landmarks: Array
    size_px: int

    def __post_init__(self) -> None:
        height, width = self.image.shape[:2]
        if height != width or len(self.landmarks) < 468:
            raise ValueError(f"found {width} x {height} and {len(self.landmarks)} landmarks, needed a square and 468")

    @cached_property
    def source(self) -> Picture:
        """The picture at no more than twice the frame's size, so that looking it up does not alias."""
        side = min(len(self.image), 2 * self.size_px)
        return cv2.resize(self.image, (side, side), interpolation=cv2.INTER_AREA)

    @cached_property
    def frame(self) -> Local:
        """Where the face lies in the frame."""
        p = vec(self.landmarks)[:, :2] * (self.size_px / len(self.image))
        eyes = p[[362, 263]].mean(0) - p[[33, 133]].mean(0)
        up = p[TOP] - p[CHIN]
        middle = p[CHIN] + up * (0.5 / MESH_H)
        angle = float(np.arctan2(eyes[1], eyes[0]))
        return Local(self.size_px, float(np.hypot(*up) / MESH_H), float(middle[0]), float(middle[1]), angle)

    @cached_property
    def points(self) -> Array:
        """The mesh in face coordinates."""
        return self.frame.local(vec(self.landmarks)[:, :2] * (self.size_px / len(self.image)))

    def render(self, motion: Motion) -> NDArray[np.uint8]:
        """Frames (T, size_px, size_px, 3) RGB."""
        return np.concatenate([self._render(motion[i : i + CHUNK]) for i in range(0, len(motion), CHUNK)])

    def _render(self, m: Motion) -> NDArray[np.uint8]:
        maps, shapes, size = self._maps(m), self._shapes(m), self.size_px
        video = np.empty((len(m), size, size, 3), np.uint8)
        for i in range(len(m)):
            x, y = cv2.convertMaps(enlarge(maps[i], size), None, cv2.CV_16SC2)
            video[i] = cv2.remap(self.source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            self._paint(video[i], {name: shape[i] for name, shape in shapes.items()}, m, i)
        return video

    def _maps(self, m: Motion) -> Array:
        """Source pixels to look up (T, SKIN_NODES, SKIN_NODES, 2)."""
        still = np.stack([enlarge(g, SKIN_NODES) for g in self._unturned(m)])
        q = self._unexpressed(still, m)
        scale = len(self.source) / self.size_px
        return self.frame.px(q) * np.float32(scale) - np.float32(0.5)

    def _turned(self, p: Array, m: Motion) -> Array:
        """Pose of points (T, ..., 2), fading towards the picture's border and away from the head."""
        held = m.with_curves(yaw_deg=m.yaw_deg * HELD, pitch_deg=m.pitch_deg * HELD)
        x, y = turn(p[..., 0], p[..., 1], depth(p[..., 0], p[..., 1]), held)
        return p + (np.stack([x, y], -1) - p) * self._fade(p)[..., None]

    def _fade(self, p: Array) -> Array:
        px = self.frame.px(p)
        border = np.minimum(px, self.size_px - px).min(-1) / (0.14 * self.size_px)
        radius = np.hypot(p[..., 0] / 0.9, (p[..., 1] + 0.1) / 1.0)
        return smoothstep(0.2, 1, border) * (1 - smoothstep(0.7, 1.6, radius))

    def _unturned(self, m: Motion) -> Array:
        """Inverse of the pose on a grid (T, TURN_NODES, TURN_NODES, 2), by fixed point iteration."""
        q = np.broadcast_to(self.frame.grid(TURN_NODES), (len(m), TURN_NODES, TURN_NODES, 2))
        p = q
        for _ in range(6):
            p = p + (q - self._turned(p, m))
        return p

    @cached_property
    def _mouth(self) -> tuple[float, float, float, float]:
        """Middle x, line y, half width, and resting gap of the mouth."""
        p = self.points
        middle = (p[13] + p[14]) / 2
        return float(middle[0]), float(middle[1]), float((p[308] - p[78])[0] / 2), float(max(0, (p[14] - p[13])[1]))

    def _profile(self, x: Array) -> Array:
        """How far the lower lip follows the jaw: 1 at the middle, 0 at the corners."""
        cx, _, half, _ = self._mouth
        return np.sqrt(np.maximum(1 - np.square((x - cx) / (half * 1.02)), 0))

    def _unexpressed(self, q: Array, m: Motion) -> Array:
        """Where the skin now at `q` lies in the still: undo jaw, width, brows and lids."""
        x, y = q[..., 0], q[..., 1]
        gap, width, brow, blink = (np.asarray(c).reshape(-1, 1, 1) for c in (gap_of(m), m.width, m.brow, m.blink))
        cx, line, half, _ = self._mouth
        jaw, side = gap * (1 - UPPER_SHARE), np.abs(x - cx) / half
        corner = np.exp(-np.square((side - 1) / 0.75) - np.square((y - line - gap / 2) / 0.11))
        lift = sum(np.exp(-np.square((x - c[0]) / 0.13) - np.square((y - c[1]) / 0.06)) for c in self._brow_centres)
        down = self._jaw_down(x, y, jaw)
        lids = sum(self._lid_down(x, y, blink, name) for name in LIDS)
        return np.stack(
            [x - spread(width, half) * corner * np.tanh((x - cx) / 0.05), y - down + 0.03 * brow * lift - lids], -1
        )

    def _jaw_down(self, x: Array, y: Array, jaw: Array) -> Array:
        """Backward displacement of the jaw: none above the upper lip, all of it from the lower lip to the chin."""
        cx = self._mouth[0]
        fall = np.exp(-np.square(np.square((x - cx) / 0.30))) * np.exp(-np.square(np.maximum(y - 0.6, 0) / 0.16))
        up, low = self._lip_line(INNER_UP, x), self._lip_line(INNER_LOW, x)
        inside = self._profile(x)
        below = np.exp(-np.square(np.maximum(y - low - jaw, 0) / 0.13))
        amount = jaw * (fall + (inside - fall) * below * (inside > 0))
        soft = 0.012 + 0.16 * np.square(1 - inside)
        return amount * smoothstep(0, 1, (y - up) / np.maximum(low - up + amount + soft, 1e-3))

    def _lip_line(self, indices: tuple[int, ...], x: Array) -> Array:
        """Height of an inner lip contour at `x`."""
        p = self.points[list(indices)]
        return np.interp(x, p[:, 0], p[:, 1]).astype(np.float32)

    @cached_property
    def _brow_centres(self) -> list[Array]:
        return [self.points[list(BROWS[name])].mean(0) for name in BROWS]

    def _lid_down(self, x: Array, y: Array, blink: Array, name: str) -> Array:
        """Backward displacement of an upper lid: the skin above the eye is stretched down over it."""
        top, low = (self.points[list(row)] for row in LIDS[name])
        up, down = np.interp(x, top[:, 0], top[:, 1]), np.interp(x, low[:, 0], low[:, 1])
        ends = np.minimum(x - top[:, 0].min(), top[:, 0].max() - x)
        close = blink * smoothstep(-0.012, 0.006, ends)
        strip = self._lid_strip(name)
        drop = (np.maximum(down - up, 0) + LASH) * close
        share = (y - up + strip) / (strip + drop)
        return np.where((share > 0) & (share <= 1), share * (drop + LASH * close), 0).astype(np.float32)

    def _lid_strip(self, name: str) -> float:
        """Height of the bare skin between lid and brow that a closing lid is stretched from."""
        top, brow = self.points[list(LIDS[name][0])], self.points[list(UNDER_BROWS[name])]
        return float(np.clip(0.8 * (top[2:-2, 1].mean() - brow[:, 1].mean()), 0.024, 0.055))

    def _shapes(self, m: Motion) -> dict[str, Array]:
        """Moved contours (T, n, 2) in frame pixels."""
        shapes = {
            name: self._moved(indices, m)
            for name, indices in (
                ("up", INNER_UP),
                ("low", INNER_LOW),
                ("outer_up", OUTER_UP),
                ("outer_low", OUTER_LOW),
                ("oval", OVAL),
            )
        }
        shapes |= {name: self._lid(name, m) for name in LIDS}
        return {name: self.frame.px(self._turned(points, m)) for name, points in shapes.items()}

    def _moved(self, indices: tuple[int, ...], m: Motion) -> Array:
        """Mesh points after jaw and width, in face coordinates; rows of eleven are refined to 21."""
        p = self.points[list(indices)]
        if len(p) == 11:
            p = np.stack([np.interp(np.linspace(0, 10, 21), np.arange(11), p[:, k]) for k in (0, 1)], -1).astype(
                np.float32
            )
        x, y = np.broadcast_to(p[:, 0], (len(m), len(p))), np.broadcast_to(p[:, 1], (len(m), len(p)))
        cx, line, half, _ = self._mouth
        gap, width = gap_of(m)[:, None], np.asarray(m.width)[:, None]
        low, fall = self._lip_line(INNER_LOW, x), np.exp(-np.square(np.square((x - cx) / 0.30)))
        follow = {OVAL: fall * (y > low), INNER_LOW: self._profile(x), OUTER_LOW: self._profile(x)}.get(indices, 0 * x)
        corner = np.exp(-np.square((np.abs(x - cx) / half - 1) / 0.75) - np.square((y - line) / 0.11))
        return np.stack(
            [x + spread(width, half) * corner * np.tanh((x - cx) / 0.05), y + gap * (1 - UPPER_SHARE) * follow], -1
        )

    def _lid(self, name: str, m: Motion) -> Array:
        """Edge of the upper lid (T, 9, 2) in face coordinates."""
        top, low = (self.points[list(row)] for row in LIDS[name])
        down = np.maximum(np.interp(top[:, 0], low[:, 0], low[:, 1]) - top[:, 1], 0)
        return np.stack(np.broadcast_arrays(top[:, 0], top[:, 1] + np.asarray(m.blink)[:, None] * down), -1).astype(
            np.float32
        )

    @cached_property
    def _colours(self) -> features.Inside:
        """Inner mouth in the picture's own light; without colour where the picture has none."""
        lips = self._sample(self.points[list(OUTER_UP)])
        light = float(np.clip(lips.mean() * 1.5 + 0.25, 0.3, 1))
        grey = float(lips.max() - lips.min()) < 0.06
        tints = [vec(c) * light for c in ((0.16, 0.05, 0.05), (0.92, 0.89, 0.83), (0.62, 0.30, 0.31))]
        cave, teeth, tongue = (np.full(3, c.mean(), np.float32) if grey else c for c in tints)
        return features.Inside(cave, teeth, tongue)

    def _sample(self, points: Array) -> Array:
        """Mean colour 0..1 (3,) of the still at some points."""
        at = self.frame.px(points) * (len(self.source) / self.size_px)
        x, y = np.clip(at.astype(int), 0, len(self.source) - 1).T
        return self.source[y, x].mean(0) / np.float32(255)

    def _paint(self, frame: Picture, shapes: dict[str, Array], m: Motion, i: int) -> None:
        """Inner mouth between the lips, and lashes on the edge of a lowered lid."""
        px, gap = self.frame.face_px, float(gap_of(m)[i])
        if gap > 0.004:
            up, low = shapes["up"], shapes["low"]
            patch = features.Patch(frame, np.concatenate([up, low]), 0.04 * px, px)
            height = float(np.linalg.norm(low[10] - up[10]))
            features.draw_inside(patch, self._colours, up, low, height, float(m.teeth[i]), px, False)
            patch.put_back(min(1.0, gap / 0.02))
        for name in LIDS:
            if m.blink[i] > 0.05:
                lash = self._sample(self.points[list(LIDS[name][0])]) * 0.45
                patch = features.Patch(frame, shapes[name], 0.03 * px, px)
                patch.lay(
                    lash, patch.stroke(shapes[name], 0.011 * px, 0.004 * px), 0.85 * min(1.0, float(m.blink[i]) * 2)
                )
                patch.put_back()

    def outlines(self, m: Motion) -> Outlines:
        """Regions (T, n, 2) in frame pixels: head with hair, mouth, both eyes with brows."""
        shapes = self._shapes(m)
        lips = np.concatenate([shapes["outer_up"], shapes["outer_low"][:, ::-1]], 1)
        middle, centre = lips.mean(1, keepdims=True), shapes["oval"].mean(1, keepdims=True)
        out = {
            "mouth": middle + (lips - middle) * vec([1.22, 1.35]),
            "head": centre + (shapes["oval"] - centre) * vec([1.18, 1.22]),
        }
        t = np.linspace(0, 2 * np.pi, 28, endpoint=False, dtype=np.float32)
        for name in LIDS:
            p = self.points[list(LIDS[name][0] + LIDS[name][1] + BROWS[name])]
            half = (p.max(0) - p.min(0)) / 2 * vec([1.45, 1.4])
            ring = (p.max(0) + p.min(0)) / 2 + half * np.stack([np.cos(t), np.sin(t)], -1)
            out[name] = self.frame.px(self._turned(np.broadcast_to(ring, (len(m), *ring.shape)), m))
        return out

    def mouth_opening_px(self, motion: Motion) -> Array:
        """Distance between the inner lips at the middle (T,), frame pixels."""
        shapes = self._shapes(motion)
        return np.linalg.norm(shapes["low"][:, 10] - shapes["up"][:, 10], axis=-1)

    def tracked(self, motion: Motion) -> Array:
        """Lips (4 x 21), lids (4 x 21) and skin (63): (T, 231, 2), frame pixels, as a drawn portrait has them."""
        shapes = self._shapes(motion)
        lids = list[Array]()
        for name in LIDS:
            low = self.points[list(LIDS[name][1])]
            low = self.frame.px(self._turned(np.broadcast_to(low, (len(motion), *low.shape)), motion))
            lids += [resampled(shapes[name], 21), resampled(low, 21)]
        eyes = self.points[[i for rows in LIDS.values() for row in rows for i in row]]
        cx, line, half, _ = self._mouth
        skin = self._expressed(
            skin_points(float(np.abs(eyes[:, 0]).mean()), float(eyes[:, 1].mean()), cx, line, half), motion
        )
        lips = [shapes[name] for name in ("outer_up", "up", "low", "outer_low")]
        return np.concatenate([*lips, *lids, self.frame.px(self._turned(skin, motion))], 1)

    def _expressed(self, points: Array, m: Motion) -> Array:
        """The inverse of `_unexpressed`: where skin that rests at `points` (n, 2) is, (T, n, 2)."""
        q = np.broadcast_to(points, (len(m), 1, *points.shape))
        p = q
        for _ in range(SETTLED):
            p = p + (q - self._unexpressed(p, m))
        return p[:, 0]

    def masks(self, motion: Motion, size_px: int = 32) -> Array:
        """Head, mouth and eyes of every frame: (T, 3, size_px, size_px), 0..1, disjoint."""
        return region_masks(self.outlines(motion), self.size_px, size_px)

    def regions(self, motion: Motion) -> Array:
        """Boxes (T, 3, 4) x0, y0, x1, y1 in frame pixels of head, mouth and both eyes."""
        return region_boxes(self.outlines(motion))


def resampled(rows: Array, count: int) -> Array:
    """Rows of points (T, n, 2) as `count` points each, along the same lines."""
    at = np.linspace(0, rows.shape[1] - 1, count)
    low = np.minimum(at.astype(int), rows.shape[1] - 2)
    share = (at - low)[:, None]
    return ((1 - share) * rows[:, low] + share * rows[:, low + 1]).astype(np.float32)


def spread(width: Array, half: float) -> Array:
    """How far a mouth's corner moves outwards, in the unit of its half width."""
    return half * (0.2 * np.maximum(width, 0) + 0.36 * np.minimum(width, 0))
