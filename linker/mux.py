"""The encoders behind media.py: frames and sound into one container, byte for byte the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from linker.iso639 import three_letters
from linker.records import atomic

# AAC ends on a whole packet of 1024 samples: at lower rates than these that is longer than a video frame.
_AAC_RATES_HZ = (32000, 44100, 48000, 64000, 88200, 96000)


def aac_rate(rate_hz: int) -> int:
    """The rate itself where AAC has it and its packets are short enough, otherwise 48 kHz."""
    return rate_hz if rate_hz in _AAC_RATES_HZ else 48_000


@contextmanager
def created(path: Path, options: dict[str, str]) -> Iterator[OutputContainer]:
    """An output container that appears at `path` whole or not at all, without dates and random ids."""
    with atomic(path) as part, av.open(f"file:{part.resolve()}", "w", container_options=options) as container:
        container.flags |= av.container.Flags.bitexact.value
        yield container


class FrameWriter:
    """Writes frames into an open container, one after the other; `count` of them so far."""

    def __init__(
        self,
        container: OutputContainer,
        codec: str,
        pix_fmt: str,
        size: tuple[int, int],
        fps: int,
        options: dict[str, str],
    ) -> None:
        if pix_fmt == "yuv420p" and (size[0] % 2 or size[1] % 2):
            raise ValueError(f"H.264 {pix_fmt} needs even sides, found {size[0]}x{size[1]}")
        self.count = 0
        self._container = container
        self._stream = cast(av.VideoStream, container.add_stream(codec, rate=fps, options=options))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = pix_fmt
        self._configure(fps)

    def _configure(self, fps: int) -> None:
        context = self._stream.codec_context
        context.time_base = Fraction(1, fps)
        context.thread_count = 1  # x264's bytes depend on the number of threads
        context.flags |= CodecFlags.bitexact.value
        if self._stream.pix_fmt == "yuv420p":
            context.colorspace = Colorspace.ITU709
            context.color_primaries = ColorPrimaries.BT709
            context.color_trc = ColorTrc.BT709
            context.color_range = ColorRange.MPEG

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 (height, width, 3) RGB. Raises ValueError for another shape or type."""
        needed = (self._stream.height, self._stream.width, 3)
        if frame.shape != needed or frame.dtype != np.uint8:
            raise ValueError(f"frame {self.count} is {frame.dtype} {frame.shape}, needed uint8 {needed}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if self._stream.pix_fmt == "yuv420p":
            picture = _as_bt709(picture)
        picture.pts, picture.time_base = self.count, self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.count += 1

    def finish(self) -> None:
        """Flush what the encoder still holds. Raises ValueError when no frame came."""
        if self.count == 0:
            raise ValueError("a video needs at least one frame")
        self._container.mux(self._stream.encode())


def _as_bt709(picture: av.VideoFrame) -> av.VideoFrame:
    """YUV 4:2:0 by the matrix the file is tagged with, so that players show the colours that went in."""
    return picture.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=Interpolation.BICUBIC,
    )


class SoundWriter:
    """Feeds pieces of sound, float32 (channels, samples), into an open container as AAC, in step with the pictures."""

    def __init__(
        self,
        container: OutputContainer,
        pieces: Iterator[np.ndarray],
        layout: str,
        rate_hz: int,
        language: str,
        kbps: int,
    ) -> None:
        self._container, self._pieces, self._layout, self._rate_hz = container, pieces, layout, rate_hz
        self._waiting = np.zeros((1 if layout == "mono" else 2, 0), np.float32)
        self._written = 0
        self._stream = container.add_stream("aac", rate=rate_hz, layout=layout)
        self._stream.bit_rate = kbps * 1000
        self._stream.metadata["language"] = three_letters(language)
        self._stream.codec_context.flags |= CodecFlags.bitexact.value

    def write_until(self, end_s: Fraction) -> None:
        """Append sound up to `end_s`: what comes after it waits, what is missing is silence."""
        needed = round(end_s * self._rate_hz) - self._written
        chunk = self._take(needed)
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base, frame.pts = self._rate_hz, Fraction(1, self._rate_hz), self._written
        self._container.mux(self._stream.encode(frame))
        self._written += needed

    def _take(self, needed: int) -> np.ndarray:
        parts, held = [self._waiting], self._waiting.shape[1]
        while held < needed and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            held += piece.shape[1]
        joined = np.concatenate(parts, axis=1)
        joined = np.pad(joined, ((0, 0), (0, max(0, needed - held))))
        self._waiting = joined[:, needed:]
        return np.ascontiguousarray(joined[:, :needed], dtype=np.float32)

    def finish(self) -> None:
        """Flush what the encoder still holds."""
        self._container.mux(self._stream.encode(None))
