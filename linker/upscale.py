"""upscale_video: the stabilised crop at the size it has in the deliverable."""

from __future__ import annotations

from pathlib import Path

from linker.compose import place, resize
from linker.config import FPS, FinishSettings, UpscaleSettings
from linker.enlarge import Enlarge, Steady, TiledNetwork, load_network
from linker.errors import EnvironmentError
from linker.faults import is_out_of_memory
from linker.media import lossless_writer, read_frames
from linker.records import read_json


def upscale_video(stable: Path, crop: Path, upscaled: Path, settings: UpscaleSettings, finish: FinishSettings) -> None:
    """Frames of `stable` (square, RGB) at the crop's size in the deliverable, lossless: by the user's network, or by
    Lanczos up and area average down.

    The size is what `compose.place` says of `finish`. Raises EnvironmentError for weights that cannot be used, and for
    too little memory.
    """
    side = place(read_json(crop), finish).crop_px
    try:
        enlarge = _enlarger(settings, side)
        with lossless_writer(upscaled, side, side, FPS) as writer:
            for frame in read_frames(stable):
                writer.write(enlarge(frame))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        todo = f"lower upscale.tile_px (now {settings.tile_px}), or run again when less of the memory is in use"
        raise EnvironmentError(f"upscale.weights {settings.weights}: out of memory; {todo}") from error


def _enlarger(settings: UpscaleSettings, side: int) -> Enlarge:
    if not settings.weights:
        return lambda frame: resize(frame, side)
    return Steady(TiledNetwork(load_network(Path(settings.weights)), settings.tile_px), side, settings.hold_levels)
