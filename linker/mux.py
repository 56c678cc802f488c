"""The encoders behind encode.py: pictures, sound and words into one container, byte for byte the same every time."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer, OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from linker.errors import EnvironmentError
from linker.formats import SOUNDS
from linker.iso639 import three_letters
from linker.records import atomic

_STYLE = re.compile(r"</?(?:i|b|u|s|font|ruby|rt)(?:\s[^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)  # SubRip's marks
_RGB = 0  # as a matrix (ISO/IEC 23091-2); PyAV has no name for it
Cue = tuple[float, float, str]  # start and end in seconds, text
_SUBTITLE_HEADER = (  # encoders of text want a style, whatever the player makes of it
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    "SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    "BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,"
    "&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\n\n[Events]\nFormat: Layer, Start, End, Style, Name, "
    "MarginL, MarginR, MarginV, Effect, Text\n"
)


@contextmanager
def created(path: Path, options: dict[str, str]) -> Iterator[OutputContainer]:
    """An output container that appears at `path` whole or not at all, without dates and random ids."""
    with atomic(path) as part, av.open(f"file:{part.resolve()}", "w", container_options=options) as container:
        container.flags |= av.container.Flags.bitexact.value
        yield container


class FrameWriter:
    """Writes frames into an open container, one after the other; `count` of them so far.

    Raises EnvironmentError when the bundled ffmpeg has no such encoder.
    """

    def __init__(
        self,
        container: OutputContainer,
        codec: str,
        pix_fmt: str,
        size: tuple[int, int],
        fps: int,
        options: dict[str, str],
        tag: str = "",
    ) -> None:
        if pix_fmt.startswith("yuv42") and (size[0] % 2 or size[1] % 2):
            raise ValueError(f"H.264 {pix_fmt} needs even sides, found {size[0]}x{size[1]}")
        self.count = 0
        self._container = container
        try:
            self._stream = cast(av.VideoStream, container.add_stream(codec, rate=fps, options=options))
        except ValueError:  # PyAV's UnknownCodecError
            raise EnvironmentError(
                f"no encoder {codec} in PyAV {av.__version__}; install the PyAV wheel, or choose another finish.codec"
            ) from None
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = pix_fmt
        if tag:
            self._stream.codec_context.codec_tag = tag
        self._configure(fps)

    @property
    def _is_yuv(self) -> bool:
        return str(self._stream.pix_fmt).startswith("yuv")

    def _configure(self, fps: int) -> None:
        context = self._stream.codec_context
        context.time_base = Fraction(1, fps)
        context.thread_count = 1  # x264's bytes depend on the number of threads
        context.flags |= CodecFlags.bitexact.value
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        context.colorspace = Colorspace.ITU709 if self._is_yuv else _RGB
        context.color_range = ColorRange.MPEG if self._is_yuv else ColorRange.JPEG

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 (height, width, 3) RGB. Raises ValueError for another shape or type."""
        needed = (self._stream.height, self._stream.width, 3)
        if frame.shape != needed or frame.dtype != np.uint8:
            raise ValueError(f"frame {self.count} is {frame.dtype} {frame.shape}, needed uint8 {needed}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        if self._is_yuv:
            picture = _as_bt709(picture, str(self._stream.pix_fmt))
        picture.pts, picture.time_base = self.count, self._stream.codec_context.time_base
        self._container.mux(self._stream.encode(picture))
        self.count += 1

    def finish(self) -> None:
        """Flush the encoder. Raises ValueError when no frame came."""
        if self.count == 0:
            raise ValueError("a video needs at least one frame")
        self._container.mux(self._stream.encode())


def _as_bt709(picture: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """YUV by the matrix the file is tagged with, so that players show the colours that went in."""
    return picture.reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        interpolation=Interpolation.BICUBIC,
    )


class SoundWriter:
    """Feeds pieces of sound, float32 (channels, samples), into an open container, in step with the pictures."""

    def __init__(
        self,
        container: OutputContainer,
        pieces: Iterator[np.ndarray],
        layout: str,
        rate_hz: int,
        language: str,
        kbps: int,
        codec: str = "aac",
    ) -> None:
        self._container, self._pieces, self._layout, self._rate_hz = container, pieces, layout, rate_hz
        self._waiting = np.zeros((1 if layout == "mono" else 2, 0), np.float32)
        self._written = 0
        self._stream = cast(
            av.AudioStream,
            container.add_stream(
                SOUNDS[codec].encoder, rate=rate_hz, options=dict(SOUNDS[codec].options), layout=layout
            ),
        )
        if codec != "pcm":
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


class SoundCopier:
    """Moves the packets of a file's first sound track into an open container, in step with the pictures."""

    def __init__(self, container: OutputContainer, source: InputContainer, language: str) -> None:
        self._container, track = container, source.streams.audio[0]
        self._stream = container.add_stream_from_template(track)
        self._stream.metadata["language"] = three_letters(language)
        self._packets = (packet for packet in source.demux(track) if packet.pts is not None)
        self._reached_s = Fraction(0)

    def write_until(self, end_s: Fraction) -> None:
        """Copy packets until one begins at or after `end_s`."""
        while self._reached_s < end_s and (packet := next(self._packets, None)) is not None:
            self._reached_s = Fraction((packet.pts or 0) + (packet.duration or 0)) * packet.time_base
            packet.stream = self._stream
            self._container.mux(packet)

    def finish(self) -> None:
        """Everything has been written already."""


def write_subtitles(container: OutputContainer, cues: list[Cue], language: str) -> None:
    """A track of subtitles: MP4 and QuickTime timed text, which knows no marks of style within its words, or SubRip in
    Matroska, which does. To be called before any frame."""
    timed_text = container.format.name in ("mp4", "mov")
    stream = cast(av.subtitles.stream.SubtitleStream, container.add_stream("mov_text" if timed_text else "subrip"))
    stream.codec_context.subtitle_header = _SUBTITLE_HEADER.encode()
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.metadata["language"] = three_letters(language)
    container.start_encoding()
    for start_s, end_s, text in cues:
        words = (_STYLE.sub("", text).strip() if timed_text else text).encode()
        packet = av.Packet(struct.pack(">H", len(words)) + words if timed_text else words)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = round(start_s * 1000)
        packet.duration = round((end_s - start_s) * 1000)
        container.mux(packet)
