"""upscale_video: the stabilised crop at the size it has in the deliverable."""

from __future__ import annotations

from pathlib import Path

from linker.compose import place, resize
from linker.config import FPS, FinishSettings, UpscaleSettings
from linker.enlarge import Enlarge, Steady, TiledNetwork, load_network
from linker.media import lossless_writer, read_frames
from linker.records import read_json


def upscale_video(stable: Path, crop: Path, upscaled: Path, settings: UpscaleSettings, finish: FinishSettings) -> None:
    """Frames of `stable` (square, RGB) at the crop's size in the deliverable, lossless: by the user's network, or by
    Lanczos up and area average down.

    The size is what `compose.place` says of `finish`. Raises EnvironmentError for weights that cannot be used.
    """
    side = place(read_json(crop), finish).crop_px
    enlarge = _enlarger(settings, side)
    with lossless_writer(upscaled, side, side, FPS) as writer:
        for frame in read_frames(stable):
            writer.write(enlarge(frame))


def _enlarger(settings: UpscaleSettings, side: int) -> Enlarge:
    if not settings.weights:
        return lambda frame: resize(frame, side)
    return Steady(TiledNetwork(load_network(Path(settings.weights)), settings.tile_px), side, settings.hold_levels)
