"""Small copies of finished videos, for a page that must hold its videos itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from linker.boxes import append_xmp
from linker.encode import Target, encode
from linker.media import Undecodable, plain, probe, read_frames
from linker.provenance import read_marks
from linker.records import atomic

SIDE_PX, CRF, SOUND_KBPS = 288, 30, 48  # about 10 kB a second


def write_preview(video: Path, preview: Path, frames: int) -> None:
    """Write the first `frames` pictures of a video and their sound as H.264 and AAC in MP4, sides of at most SIDE_PX,
    with the marks of the original but for its signature. Raises Undecodable; ValueError when pictures are missing."""
    info = probe(video)
    if info.video is None:
        raise Undecodable("no_video", f"{plain(video)}: holds no moving pictures")
    size = _small(info.video.width, info.video.height)
    marks = read_marks(video)
    tags = {name: value for name, value in info.metadata.items() if name in ("title", "comment", "AIGC")}
    with atomic(preview) as temporary:
        target = Target(
            temporary, size, crf=CRF, fps=round(info.video.fps), audio_kbps=SOUND_KBPS, metadata=tags,
            language=info.audio.language if info.audio else "und",
        )  # fmt: skip
        encode(_resized(islice(read_frames(video), frames), size), [target], video if info.audio else None, frames)
        if marks.xmp:
            append_xmp(temporary, marks.xmp)


def _small(width: int, height: int) -> tuple[int, int]:
    """The size of a copy: never larger than the original, even sides."""
    share = min(1.0, SIDE_PX / max(width, height))
    return max(2, 2 * round(width * share / 2)), max(2, 2 * round(height * share / 2))


def _resized(frames: Iterator[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
