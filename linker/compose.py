"""Where the generated crop lies in the deliverable and how it melts into the real portrait: geometry, weights, colour.

Two pictures meet in `stabilize_background` (generated crop over the portrait's crop) and in `mux_audio` (finished crop
over the whole portrait). Both blend with a weight that is 1 on the head, 0 away from it, and that follows the head
where it leaves its place: a border runs only where both pictures agree, so neither a seam nor a ghost edge shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from linker.config import FinishSettings

FOLLOW_PX = 96  # side of the small pictures in which a moved head is looked for
MOVED_LEVELS = (8.0, 24.0)  # difference (of 255) of the smoothed pictures: under = the same, over = something moved
FADE = 0.85  # what is left a frame later of the weight of a place that the head has left
RING_PX = 64  # side of the small pictures in which colour is compared
GAIN_LIMITS = (0.85, 1.15)
OFFSET_LIMIT = 32.0  # levels of 255


@dataclass(frozen=True)
class Placement:
    """Where things lie in the deliverable. All in its pixels but `source_box`, which is in the portrait's (floats)."""

    width: int
    height: int
    source_box: tuple[float, float, float, float]
    crop_x: int
    crop_y: int
    crop_px: int

    @property
    def shown(self) -> tuple[slice, slice, slice, slice]:
        """Rows and columns of the canvas that the crop covers, and the rows and columns of the crop that show there."""
        top, left = max(self.crop_y, 0), max(self.crop_x, 0)
        bottom, right = min(self.crop_y + self.crop_px, self.height), min(self.crop_x + self.crop_px, self.width)
        return (
            slice(top, bottom),
            slice(left, right),
            slice(top - self.crop_y, bottom - self.crop_y),
            slice(left - self.crop_x, right - self.crop_x),
        )


def place(crop: dict[str, Any], settings: FinishSettings) -> Placement:
    """Placement of a crop (content of crop.json) in the deliverable's picture, without padding.

    The scale is chosen so that the crop falls on whole pixels; the picture gives up under three pixels at its borders
    for that, and for even sides.
    """
    x0, y0, x1, y1 = crop["box_px"]
    side = x1 - x0
    source_width, source_height = (side, side) if settings.layout == "crop" else crop["source_size_px"]
    crop_px = even(side * scale_of((source_width, source_height), settings))
    if settings.layout == "crop":
        return Placement(crop_px, crop_px, (float(x0), float(y0), float(x1), float(y1)), 0, 0, crop_px)
    scale = crop_px / side
    crop_x, crop_y = int(np.floor(x0 * scale)), int(np.floor(y0 * scale))
    left, top = x0 - crop_x / scale, y0 - crop_y / scale
    width, height = even((source_width - left) * scale), even((source_height - top) * scale)
    box = (left, top, left + width / scale, top + height / scale)
    return Placement(width, height, box, crop_x, crop_y, crop_px)


def scale_of(source_size: tuple[int, int], settings: FinishSettings) -> float:
    """Pixels of the deliverable a pixel of the source: by target or by factor, padding included in the limit."""
    longest = max(padded_size(source_size, settings.aspect))
    if settings.side_px:
        return min(settings.side_px, settings.max_side_px) / longest
    return min(settings.factor, settings.max_side_px / longest)


def padded_size(size: tuple[float, float], aspect: str) -> tuple[float, float]:
    """The smallest frame of an aspect ("16x9") that a picture of this size fits into whole."""
    if aspect == "as_is":
        return size
    across, down = map(int, aspect.split("x"))
    width = max(size[0], size[1] * across / down)
    return width, width * down / across


def draw_still(portrait: np.ndarray, placement: Placement) -> np.ndarray:
    """The still picture that the crop is pasted onto: uint8 (height,width,3) from the whole portrait uint8 (h,w,3).

    A crop that reaches beyond the portrait continues its border.
    """
    height, width = portrait.shape[:2]
    x0, y0, x1, y1 = placement.source_box
    beyond = [max(0, int(np.ceil(edge))) for edge in (-y0, y1 - height, -x0, x1 - width)]
    top, bottom, before, after = beyond
    portrait = cv2.copyMakeBorder(portrait, top, bottom, before, after, cv2.BORDER_REPLICATE)
    box = (x0 + beyond[2], y0 + beyond[0], x1 + beyond[2], y1 + beyond[0])
    size = (placement.width, placement.height)
    return np.array(Image.fromarray(portrait).resize(size, Image.Resampling.LANCZOS, box=box))


def crop_of(canvas: np.ndarray, placement: Placement) -> np.ndarray:
    """The still crop uint8 (crop_px,crop_px,3) out of the canvas, its border repeated beyond the picture."""
    side, (rows, columns, crop_rows, crop_columns) = placement.crop_px, placement.shown
    around = [(crop_rows.start, side - crop_rows.stop), (crop_columns.start, side - crop_columns.stop), (0, 0)]
    return np.pad(canvas[rows, columns], around, mode="edge")


def resize(picture: np.ndarray, side: int) -> np.ndarray:
    """A square uint8 or float picture at another size: Lanczos up, area average down."""
    if picture.shape[0] == side:
        return picture
    smaller = side < picture.shape[0]
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LANCZOS4)


def read_masks(path: Path) -> dict[str, np.ndarray]:
    """masks.npz as float32 (512,512): `head` (the three regions together) and `alpha` (the whole subject)."""
    with np.load(path) as masks:
        head = sum(masks[region].astype(np.float32) for region in ("head", "mouth", "eyes"))
        return {"head": np.clip(head, 0, 1), "alpha": masks["alpha"].astype(np.float32)}


def head_weight(head: np.ndarray, side: int, margin: float, feather: float) -> np.ndarray:
    """Blend weight float32 (side,side) in 0..1: 1 on the head dilated by `margin`, 0 from `feather` further out.

    Both in crop sides. The ramp is laid outside the dilated head: nothing of the head itself becomes translucent.
    """
    ramp = 1 - smoothstep(_away(head), margin, margin + max(feather, 1e-3))
    return cv2.resize(ramp, (side, side), interpolation=cv2.INTER_LINEAR)


def reach(head: np.ndarray, alpha: np.ndarray, side: int, distance: float) -> np.ndarray:
    """Where a blend may follow a moved head, float32 (side,side): near the head, and all over the subject."""
    near = 1 - smoothstep(_away(head), distance * 0.8, distance + 1e-3)
    return cv2.resize(np.maximum(near, cv2.resize(alpha, near.shape)), (side, side), interpolation=cv2.INTER_LINEAR)


def edge_weight(placement: Placement, feather: float) -> np.ndarray:
    """Weight float32 (crop_px,crop_px) that falls to 0 at the crop's sides, save those beyond the picture's border."""
    side = placement.crop_px
    ramp = smoothstep((np.arange(side) + 0.5) / side, 0, max(feather, 1e-3))
    still = np.ones(side, np.float32)
    left = ramp if placement.crop_x > 2 else still
    right = ramp[::-1] if placement.crop_x + side < placement.width - 2 else still
    top = ramp if placement.crop_y > 2 else still
    bottom = ramp[::-1] if placement.crop_y + side < placement.height - 2 else still
    return ((top * bottom)[:, None] * (left * right)[None, :]).astype(np.float32)


def follow(
    frames: Iterable[np.ndarray], still: np.ndarray, core: np.ndarray, reach: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each frame uint8 (S,S,3) with its weight float32 (S,S): `core`, and within `reach` wherever the frame departs
    from the `still` picture. A place gains its weight at once and loses it slowly, so that weights never flicker."""
    side = still.shape[0]
    small_still = _smoothed(still)
    small_reach = cv2.resize(reach, (FOLLOW_PX, FOLLOW_PX), interpolation=cv2.INTER_AREA)
    kept = np.zeros((FOLLOW_PX, FOLLOW_PX), np.float32)
    for frame in frames:
        difference = np.abs(_smoothed(frame) - small_still).max(axis=2)
        kept = np.maximum(smoothstep(difference, *MOVED_LEVELS) * small_reach, kept * FADE)
        wide = cv2.GaussianBlur(cv2.dilate(kept, np.ones((7, 7), np.uint8)), (0, 0), 2.0)
        moved = cv2.resize(wide, (side, side), interpolation=cv2.INTER_LINEAR)
        yield frame, np.maximum(core, moved)


def blend(over: np.ndarray, under: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """over * weight + under * (1 - weight), uint8 (H,W,3)."""
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    return cv2.blendLinear(np.ascontiguousarray(over), np.ascontiguousarray(under), weight, 1 - weight)


def ring(core: np.ndarray) -> np.ndarray:
    """Bool (64,64): the band just around the head, where generated and real pixels show the same things."""
    small = cv2.resize(core, (RING_PX, RING_PX), interpolation=cv2.INTER_AREA)
    outside = cv2.dilate((small > 0.02).astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool)
    return outside & (small < 0.02)


def ring_colour(picture: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Median and spread of each channel on the ring, float32 (2,3), of a picture uint8 (S,S,3)."""
    pixels = cv2.resize(picture, (RING_PX, RING_PX), interpolation=cv2.INTER_AREA)[band].astype(np.float32)
    low, middle, high = np.percentile(pixels, (20, 50, 80), axis=0)
    return np.stack([middle, high - low]).astype(np.float32)


def match_colour(measured: np.ndarray, wanted: np.ndarray, slow_frames: float) -> np.ndarray:
    """Gain and offset (F,2,3) that bring `measured` (F,2,3) to `wanted` (2,3), from means over about `slow_frames`:
    slow enough that the correction itself never flickers. Nearly flat rings give no gain, only an offset."""
    steady = _slow_mean(measured, slow_frames)
    gain = np.clip((wanted[1] + 8) / (steady[:, 1] + 8), *GAIN_LIMITS)
    offset = np.clip(wanted[0] - gain * steady[:, 0], -OFFSET_LIMIT, OFFSET_LIMIT)
    return np.stack([gain, offset], axis=1)


def correct(frame: np.ndarray, gain_offset: np.ndarray) -> np.ndarray:
    """A frame uint8 (H,W,3) under a gain and an offset (2,3) for each channel."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = np.clip(levels * gain_offset[0] + gain_offset[1] + 0.5, 0, 255).astype(np.uint8)
    return cv2.LUT(frame, table.reshape(1, 256, 3))


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high`, a smooth rise between; float32."""
    t = np.clip((value - low) / (high - low), 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


def _away(head: np.ndarray) -> np.ndarray:
    """Distance from the head, in crop sides, float32 (256,256); far away everywhere where there is no head."""
    inside = cv2.resize(head, (256, 256), interpolation=cv2.INTER_AREA) > 0.5
    if not inside.any():
        return np.full((256, 256), 2.0, np.float32)
    return cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / 256


def even(length: float) -> int:
    """The largest even number up to `length`, at least 2."""
    return max(2, int(length + 1e-6) // 2 * 2)


def _smoothed(picture: np.ndarray) -> np.ndarray:
    small = cv2.resize(picture, (FOLLOW_PX, FOLLOW_PX), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), 1.5).astype(np.float32)


def _slow_mean(measured: np.ndarray, slow_frames: float) -> np.ndarray:
    """Gaussian mean over time, the ends reflected; a clip shorter than `slow_frames` gets about one constant."""
    flat = measured.reshape(len(measured), -1).astype(np.float32)
    if len(flat) <= slow_frames:
        return np.broadcast_to(flat.mean(axis=0), flat.shape).reshape(measured.shape)
    smooth = cv2.GaussianBlur(flat, (1, 0), sigmaX=1e-3, sigmaY=slow_frames / 2, borderType=cv2.BORDER_REFLECT)
    return smooth.reshape(measured.shape)
