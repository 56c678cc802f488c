"""The finished crop in its place: alone, or melted into the whole portrait; and then in the frame that was ordered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linker import compose
from linker.canvas import Canvas, make_canvas
from linker.config import FinishSettings, LimitSettings
from linker.errors import LinkerError
from linker.formats import source_frame
from linker.measure import Box, Places
from linker.media import read_frames
from linker.pictures import read_picture

PASTE_MARGIN = 0.02  # of the crop's side: what around the head comes from the generated video, too
ACCEPTED = LimitSettings(max_image_mb=10_000, max_image_megapixels=1000, min_image_px=16)  # crop_face has checked it


@dataclass(frozen=True)
class Scenery:
    """All of a deliverable that does not move: `still` uint8 (h,w,3) is its picture, `canvas` what surrounds that."""

    placement: compose.Placement
    still: np.ndarray
    canvas: Canvas
    masks: Path
    settings: FinishSettings


def set_scene(portrait: Path, crop: dict[str, Any], masks: Path, settings: FinishSettings) -> Scenery:
    """Lay out a deliverable. Raises LinkerError when the portrait is not the one whose face was cropped."""
    placement = compose.place(crop, settings)
    picture = read_picture(portrait, ACCEPTED)
    found, needed = [picture.shape[1], picture.shape[0]], list(crop["source_size_px"])
    if found != needed:
        raise LinkerError(f"{portrait}: is {found} pixels, was {needed} when its face was cropped; run crop_face again")
    still = compose.draw_still(picture, placement)
    return Scenery(placement, still, make_canvas(still, placement, settings), masks, settings)


def shown_frames(upscaled: Path, scene: Scenery, source_count: int, count: int) -> Iterator[np.ndarray]:
    """`count` frames of the deliverable, uint8 (height,width,3), at its own rate."""
    fps, index = scene.settings.fps, 0
    for number, picture in enumerate(_pictures(upscaled, scene)):
        if number == source_count:
            raise LinkerError(f"{upscaled}: holds more than {source_count} frames; run upscale_video again")
        frame = None
        while index < count and source_frame(index, fps, source_count) == number:
            frame = scene.canvas.lay(picture) if frame is None else frame
            yield frame
            index += 1


def _pictures(upscaled: Path, scene: Scenery) -> Iterator[np.ndarray]:
    """Each of the model's frames as the deliverable's picture: the crop alone, or melted into the whole portrait."""
    placement, crops = scene.placement, _sized(upscaled, scene.placement.crop_px)
    if scene.settings.layout == "crop":
        yield from crops
        return
    rows, columns, crop_rows, crop_columns = placement.shown
    still = compose.crop_of(scene.still, placement)
    regions, feather = compose.read_masks(scene.masks), scene.settings.paste_feather
    core = compose.head_weight(regions["head"], placement.crop_px, PASTE_MARGIN, feather)
    edge = compose.edge_weight(placement, feather)
    for frame, weight in compose.follow(crops, still, core, np.ones_like(core)):
        picture = scene.still.copy()
        part = compose.blend(frame, still, weight * edge)
        picture[rows, columns] = part[crop_rows, crop_columns]
        yield picture


def _sized(upscaled: Path, side: int) -> Iterator[np.ndarray]:
    for frame in read_frames(upscaled):
        if frame.shape != (side, side, 3):
            found = f"{frame.shape[1]} x {frame.shape[0]}"
            raise LinkerError(f"{upscaled}: frames are {found}, needed {side} x {side}; run upscale_video again")
        yield frame


def places(scene: Scenery) -> Places:
    """Where head and mouth are in the deliverable's frames."""
    with np.load(scene.masks) as masks:
        mouth = masks["mouth"].astype(np.float32)
    still = scene.canvas.lay(scene.still)
    head = compose.read_masks(scene.masks)["head"]
    return Places(still, _box(head, scene, still.shape), _box(mouth, scene, still.shape))


def _box(mask: np.ndarray, scene: Scenery, shape: tuple[int, ...]) -> Box:
    """The rectangle around a mask of the crop, in the deliverable's pixels, at least 2 x 2 and within the frame."""
    rows, columns = np.nonzero(mask > 0.5)
    if not len(rows):
        rows = columns = np.array([0, mask.shape[0] - 1])
    scale, placement = scene.placement.crop_px / mask.shape[0], scene.placement
    left = placement.crop_x + (shape[1] - placement.width) // 2
    top = placement.crop_y + (shape[0] - placement.height) // 2
    x0, x1 = (int(np.clip(left + edge * scale, 0, shape[1])) for edge in (columns.min(), columns.max() + 1))
    y0, y1 = (int(np.clip(top + edge * scale, 0, shape[0])) for edge in (rows.min(), rows.max() + 1))
    x0, y0 = min(x0, shape[1] - 2), min(y0, shape[0] - 2)
    return x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)
