"""stabilize_background: away from the moving head, a clip shows the real portrait's own pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from linker import compose
from linker.config import FPS, BackgroundSettings
from linker.errors import LinkerError
from linker.media import lossless_writer, read_frames
from linker.records import write_json
from linker.steadiness import Watch, compared

SLOW_S = 8.0  # colour is matched to what the last and next seconds have in common, never to a frame


def stabilize_background(
    generated: Path, face: Path, masks: Path, stable: Path, steadiness: Path, settings: BackgroundSettings
) -> None:
    """Lay the generated head over the portrait's crop, frame by frame; both videos are square, 25 fps, lossless.

    Colour is matched to the portrait on a ring around the head, slowly. `steadiness` (JSON) tells the background's
    variance and drift of colour and the head's motion before and after. Raises LinkerError on an empty video.
    """
    regions = compose.read_masks(masks)
    still = _still(face, generated)
    side = still.shape[0]
    core = compose.head_weight(regions["head"], side, settings.margin, settings.feather)
    reach = compose.reach(regions["head"], regions["alpha"], side, settings.margin + settings.follow)
    before, after = Watch(regions["head"]), Watch(regions["head"])
    with lossless_writer(stable, side, side, FPS) as writer:
        for frame, weight in compose.follow(_matched(generated, still, core, before), still, core, reach):
            steady = compose.blend(frame, still, weight)
            after.see(steady)
            writer.write(steady)
    write_json(steadiness, compared(before, after, FPS))


def _still(face: Path, generated: Path) -> np.ndarray:
    """The portrait's crop at the video's size, uint8 (S,S,3)."""
    first = next(read_frames(generated), None)
    if first is None or first.shape[0] != first.shape[1]:
        found = "no frames" if first is None else f"frames of {first.shape[1]} x {first.shape[0]}"
        raise LinkerError(f"{generated}: found {found}, needed square frames; generate the clip again")
    with Image.open(face) as picture:
        return compose.resize(np.array(picture.convert("RGB")), first.shape[0])


def _matched(generated: Path, still: np.ndarray, core: np.ndarray, watch: Watch) -> Iterator[np.ndarray]:
    """The generated frames, which `watch` sees as they came, without their drift of colour. Reads the video twice:
    measure, then mend."""
    band = compose.ring(core)
    if not band.any():  # the head fills the crop: nothing around it to compare
        yield from watch.seen(read_frames(generated))
        return
    measured = np.stack([compose.ring_colour(frame, band) for frame in watch.seen(read_frames(generated))])
    corrections = compose.match_colour(measured, compose.ring_colour(still, band), SLOW_S * FPS)
    for frame, correction in zip(read_frames(generated), corrections, strict=True):
        yield compose.correct(frame, correction)
