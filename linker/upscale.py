"""upscale_video: the stabilised crop at the size it has in the deliverable."""

from __future__ import annotations

from pathlib import Path

from linker.compose import place, resize
from linker.config import FPS, FinishSettings, UpscaleSettings
from linker.media import lossless_writer, read_frames
from linker.records import read_json


def upscale_video(stable: Path, crop: Path, upscaled: Path, settings: UpscaleSettings, finish: FinishSettings) -> None:
    """Frames of `stable` (square, RGB) resampled to the crop's own size in the portrait's pixels, lossless.

    The size is what `compose.place` says, so that the deliverable's longest side stays within `max_side_px`.
    """
    side = place(read_json(crop), finish).crop_px
    with lossless_writer(upscaled, side, side, FPS) as writer:
        for frame in read_frames(stable):
            writer.write(resize(frame, side))
