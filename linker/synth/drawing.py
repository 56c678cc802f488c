"""Painter's tools shared by all portraits: anti-aliased shapes, smooth curves, noise, strands and brush strokes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

Image = NDArray[np.floating]  # (H, W, 3) RGB or (H, W), 0..1
Points = NDArray[np.floating]  # (n, 2) x, y
Array = NDArray[np.floating]
SHIFT = 5  # fractional bits of cv2's polygon coordinates: 1/32 px


def vec(values: npt.ArrayLike) -> Array:
    """Numbers as a float32 array."""
    return np.asarray(values, np.float32)


def spline(points: Points, per_segment: int = 8, closed: bool = True) -> Points:
    """Centripetal-like Catmull-Rom curve through `points` (n, 2): smooth outlines from few control points."""
    p = np.asarray(points, np.float32)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, per_segment, endpoint=False, dtype=np.float32)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


def fixed(points: Points) -> NDArray[np.int32]:
    """Pixel coordinates as cv2's fixed point numbers (pixel centres at whole numbers + 0.5)."""
    return np.rint((np.asarray(points) - 0.5) * (1 << SHIFT)).astype(np.int32)


def polygon(shape: tuple[int, int], points: Points) -> Image:
    """Anti-aliased mask (H, W) 0..1 of a filled polygon given in pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [fixed(points)], 255, cv2.LINE_AA, SHIFT)
    return mask.astype(np.float32) / 255


def line(shape: tuple[int, int], points: Points, width: float, closed: bool = False) -> Image:
    """Anti-aliased mask of a polyline of `width` pixels; thinner than a pixel becomes fainter."""
    mask = np.zeros(shape, np.uint8)
    cv2.polylines(mask, [fixed(points)], closed, 255, max(1, round(width)), cv2.LINE_AA, SHIFT)
    return mask.astype(np.float32) / 255 * min(1.0, width)


def blur(image: Image, sigma: float) -> Image:
    """Gaussian blur; wide ones run on a shrunken picture, which looks the same and costs little."""
    if sigma < 0.3:
        return image
    step = int(sigma // 4)
    if step < 2:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    h, w = image.shape[:2]
    small = cv2.resize(image, (max(2, w // step), max(2, h // step)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def over(image: Image, colour: Image | tuple[float, ...], mask: Image) -> Image:
    """`colour` (a colour or a picture) laid over `image` where `mask` (H, W) is 1."""
    m = mask[..., None]
    return image + (np.asarray(colour, np.float32) - image) * m


def noise(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, octaves: int = 1) -> Image:
    """Smooth noise (H, W), about -1..1, features of `cell_px` and, with octaves, finer ones."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cells = [max(2, int(np.ceil(n / cell_px * 2**octave))) + 2 for n in shape]
        grid = rng.uniform(-1, 1, cells).astype(np.float32)
        total += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC) / 1.7**octave
    return total


def strands(rng: np.random.Generator, across: Image, along: Image, fineness: float) -> Image:
    """Hair-like streaks -1..1: varies fast over `across`, slowly over `along` (both (H, W), about unit range)."""
    grid = rng.uniform(-1, 1, (512, 16)).astype(np.float32)
    total = np.zeros_like(across)
    for octave, weight in ((1.0, 0.6), (2.7, 0.4)):
        total += weight * cv2.remap(
            grid, along * 5 * octave, across * fineness * octave, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
    return total


def extended(image: Image, alpha: Image, sigma: float) -> Image:
    """The picture with the colours of its visible part carried on beyond the edge of `alpha`."""
    solid = vec(alpha > 0.5)
    weight = blur(solid, sigma) + 1e-4 * blur(solid, sigma * 8) + 1e-9
    carried = blur(image * solid[..., None], sigma) + 1e-4 * blur(image * solid[..., None], sigma * 8)
    return np.ascontiguousarray(over(carried / weight[..., None], image, solid), np.float32)


def brush(rng: np.random.Generator, image: Image, size_px: float, strokes: int) -> Image:
    """The picture repainted with `strokes` short brush strokes along its contours, coarse ones first."""
    h, w = image.shape[:2]
    grey = cv2.GaussianBlur(image.mean(2), (0, 0), size_px * 0.6)
    angle = np.degrees(np.arctan2(cv2.Sobel(grey, cv2.CV_32F, 0, 1), cv2.Sobel(grey, cv2.CV_32F, 1, 0))) + 90
    angle = angle + 25 * noise(rng, (h, w), size_px * 5)
    canvas = cv2.GaussianBlur(image, (0, 0), size_px * 0.2)
    detail = cv2.GaussianBlur(np.abs(image - blur(image, size_px * 0.5)).mean(2), (0, 0), size_px * 0.25)
    for scale, share in ((1.0, 0.25), (0.6, 0.35), (0.33, 0.4)):
        count = int(strokes * share)
        xs, ys = rng.integers(0, w, count), rng.integers(0, h, count)
        calm = detail[ys, xs] < 0.035 / scale**1.5  # coarse strokes stay off fine detail
        xs, ys, count = xs[calm], ys[calm], int(calm.sum())
        tone = rng.normal(0, 0.035, count)
        lengths = size_px * scale * rng.uniform(0.7, 1.3, count)
        for x, y, t, length in zip(xs.tolist(), ys.tolist(), tone.tolist(), lengths.tolist(), strict=True):
            colour = [float(v) * (1 + t) for v in image[y, x]]
            axes = (int(length * 16), int(length * 5))
            cv2.ellipse(canvas, (x * 16, y * 16), axes, float(angle[y, x]), 0, 360, colour, -1, cv2.LINE_8, 4)
    return cv2.GaussianBlur(canvas, (0, 0), 0.6)


def smoothstep(low: float, high: float, value: Image) -> Image:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def ellipse(cx: float, cy: float, rx: float, ry: float, count: int = 32) -> Points:
    """Points of an ellipse's outline (count, 2)."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1).astype(np.float32)


def mirrored(right: Points) -> Points:
    """A closed symmetric outline from its right half, listed from the top to the bottom."""
    left = right[::-1] * vec([-1, 1])
    return np.concatenate([right, left[np.abs(left[:, 0]) > 1e-6]]).astype(np.float32)
