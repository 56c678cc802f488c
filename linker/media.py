"""The one door to ffmpeg and PyAV: everything that decodes or encodes sound and moving pictures.

Every file that comes in is hostile until it has been decoded: only local regular files are opened, only by the file
protocol, and only by demuxers of known containers, so that a playlist in disguise reaches nothing. Every file that goes
out appears whole or not at all, and the same input gives the same bytes (one encoder thread, no dates, no random ids).
"""

from __future__ import annotations

import hashlib
import stat
import struct
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition

from linker.config import FPS
from linker.errors import FULL
from linker.mux import FrameWriter, created
from linker.records import atomic

_DEMUXERS = "wav,w64,mp3,ogg,flac,mov,matroska,aac,aiff,caf,au,amr,mpegts,mpeg,avi,flv"
GUARDS = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
# These containers state their length; of the others ffmpeg only estimates it from the bit rate.
_STATING_LENGTH = frozenset({"wav", "w64", "flac", "mov", "matroska", "aiff", "caf", "au", "avi", "flv"})
_TRUNCATED_BELOW = 0.95  # of the stated length
_RIFF_UNKNOWN = 0x7FFF0000  # sizes from here on mean that the writer did not know


class Undecodable(ValueError):
    """A file that cannot be used; `kind` is the refusal's word, `str()` one plain line."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class VideoInfo:
    """The first moving picture of a file; `frames` is 0 where the container does not state it."""

    width: int
    height: int
    fps: float
    frames: int
    codec: str
    pix_fmt: str


@dataclass(frozen=True)
class AudioInfo:
    """The first sound track of a file; `language` as the container says, '' if it does not; where its clock starts."""

    sample_rate_hz: int
    channels: int
    codec: str
    language: str
    start_s: float


@dataclass(frozen=True)
class MediaInfo:
    """What a container states about itself, not yet proven by decoding; duration_s is 0 if unknown."""

    duration_s: float
    video: VideoInfo | None
    audio: AudioInfo | None
    metadata: dict[str, str]


def plain(path: Path) -> str:
    """The file's name for a message: one line, whatever it is made of."""
    return "".join(c if c.isprintable() else "?" for c in path.name)


# ---- reading ---------------------------------------------------------------------------------------------------------


def check_file(path: Path) -> int:
    """Size in bytes of a regular, non-empty file. Raises Undecodable of kind missing or empty."""
    try:
        status = path.stat()
    except OSError as error:
        raise Undecodable("missing", f"{plain(path)}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise Undecodable("missing", f"{plain(path)}: is not a regular file")
    if status.st_size == 0:
        raise Undecodable("empty", f"{plain(path)}: is empty (0 bytes)")
    return status.st_size


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """An input container under guard; whatever ffmpeg finds wrong while it is open becomes Undecodable, but for
    want of room, which is felt by what is written meanwhile."""
    check_file(path)
    try:
        with av.open(f"file:{path.resolve()}", "r", container_options=GUARDS, metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        if error.errno in FULL:
            raise
        raise Undecodable("undecodable", f"{plain(path)}: cannot be decoded ({error.strerror})") from None


def probe(path: Path) -> MediaInfo:
    """What the container states. Raises Undecodable when the file is no known container or holds nothing."""
    with opened(path) as container:
        duration_s = (container.duration or 0) / av.time_base
        info = MediaInfo(duration_s, _video_info(container), _audio_info(container), dict(container.metadata))
    if info.video is None and info.audio is None:
        raise Undecodable("undecodable", f"{plain(path)}: holds neither sound nor moving pictures")
    return info


def moving_pictures(container: InputContainer) -> list[Any]:
    """Video streams without cover art."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _video_info(container: InputContainer) -> VideoInfo | None:
    for stream in moving_pictures(container)[:1]:
        context = stream.codec_context
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        return VideoInfo(context.width, context.height, fps, stream.frames, context.name, context.pix_fmt or "")
    return None


def _audio_info(container: InputContainer) -> AudioInfo | None:
    for stream in container.streams.audio[:1]:
        language = stream.metadata.get("language", "")
        start_s = float((stream.start_time or 0) * (stream.time_base or 0))
        return AudioInfo(stream.rate or 0, stream.channels, stream.codec_context.name, language, start_s)
    return None


def audio_chunks(path: Path, max_s: float | None = None, layout: str | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """Decode the first sound track: (float32 (channels, samples) in -1..1, rate) pieces, until `max_s` if given.

    `layout` mixes down to 'mono' or 'stereo'. Raises Undecodable: no track (no_audio), broken data (undecodable), or a
    file that ends before the length it states (truncated).
    """
    with opened(path) as container:
        if not container.streams.audio:
            raise Undecodable("no_audio", f"{plain(path)}: holds no sound track")
        stream = container.streams.audio[0]
        to_float: AudioResampler | None = None
        seen_s = read_s = 0.0
        for packet in container.demux():
            read_s = max(read_s, _end_s(packet, container))
            for frame in _decoded(packet, stream):
                to_float = to_float or AudioResampler("fltp", layout or frame.layout, frame.sample_rate)
                chunk = _as_float(frame, to_float, path)
                seen_s += chunk.shape[1] / frame.sample_rate
                yield chunk, frame.sample_rate
                if max_s is not None and seen_s >= max_s:
                    return
        _check_length(path, container, seen_s, read_s)


def _decoded(packet: Packet[Any], stream: Any) -> list[Any]:
    """The frames of `stream` that a packet completes (the last packets of PyAV are empty and flush the decoders)."""
    frames: list[Any] = stream.decode(packet) if packet.stream.index == stream.index else []
    return frames


def _as_float(frame: AudioFrame, to_float: AudioResampler, path: Path) -> np.ndarray:
    frame.pts = None  # the samples are laid end to end; a broken clock must not insert or drop any
    try:
        chunk = np.concatenate([piece.to_ndarray() for piece in to_float.resample(frame)], axis=1)
    except ValueError:
        raise Undecodable("undecodable", f"{plain(path)}: its rate or channels change in the middle") from None
    if not np.isfinite(chunk).all():
        raise Undecodable("undecodable", f"{plain(path)}: holds samples that are not numbers")
    return chunk


def _end_s(packet: Any, container: InputContainer) -> float:
    """Where a packet ends, seconds from the container's start."""
    if packet.pts is None:
        return 0.0
    start_s = (container.start_time or 0) / av.time_base
    end_s: float = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start_s
    return end_s


def _check_length(path: Path, container: InputContainer, seen_s: float, read_s: float) -> None:
    """Compare the decoded sound with what its track states, and what was read with what the container states."""
    stream = container.streams.audio[0]
    if seen_s == 0:
        raise Undecodable("no_audio", f"{plain(path)}: its sound track is empty")
    if container.format.name == "wav":
        _check_riff(path)
    if stream.duration and stream.time_base and _states_length(container):
        _check_reached(path, seen_s, float(stream.duration * stream.time_base))
    _check_whole(path, container, read_s)


def _states_length(container: InputContainer) -> bool:
    return container.format.name.split(",")[0] in _STATING_LENGTH


def _check_whole(path: Path, container: InputContainer, read_s: float) -> None:
    if _states_length(container):
        _check_reached(path, read_s, (container.duration or 0) / av.time_base)


def _check_reached(path: Path, found: float, stated: float) -> None:
    if found < stated * _TRUNCATED_BELOW and stated - found > 1 / FPS:
        raise Undecodable("truncated", f"{plain(path)}: is truncated ({found / stated:.0%} of its length is there)")


def _check_riff(path: Path) -> None:
    """ffmpeg trims a WAV's stated length to the file's size, so the header is asked here."""
    left, place = path.stat().st_size, 12
    with path.open("rb") as stream:
        while place + 8 <= left:
            stream.seek(place)
            name, size = struct.unpack("<4sI", stream.read(8))
            if name == b"data":
                return _check_reached(path, left - place - 8, size if size < _RIFF_UNKNOWN else 0)
            place += 8 + size + size % 2
    return None


def resampled(chunks: Iterable[tuple[np.ndarray, int]], rate_hz: int | None) -> Iterator[tuple[np.ndarray, int]]:
    """The same pieces at `rate_hz` (None = as they are), by soxr at very high quality, streamed."""
    resampler, before_hz, channels = None, 0, 0
    for chunk, before_hz in chunks:
        channels = len(chunk)
        if rate_hz in (None, before_hz):
            yield chunk, before_hz
            continue
        resampler = resampler or soxr.ResampleStream(before_hz, rate_hz, channels, "float32", "VHQ")
        yield resampler.resample_chunk(np.ascontiguousarray(chunk.T)).T, rate_hz
    if resampler is not None and rate_hz is not None:
        yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).T, rate_hz


def read_audio(
    path: Path, sample_rate_hz: int | None = None, mono: bool = True, max_s: float | None = None
) -> tuple[np.ndarray, int]:
    """Decode a sound track: float32 (samples,) as the mean of the channels, or (channels, samples); and its rate in Hz.

    At most about `max_s` seconds are decoded. Raises Undecodable as `audio_chunks`.
    """
    chunks = audio_chunks(path, max_s)
    mixed = ((chunk.mean(axis=0, keepdims=True) if mono else chunk, rate) for chunk, rate in chunks)
    pieces, rates = zip(*resampled(mixed, sample_rate_hz), strict=True)
    samples = np.concatenate(pieces, axis=1).astype(np.float32, copy=False)
    return (samples[0] if mono else samples), rates[0]


class WavSamples:
    """A mono 16-bit WAV as `write_wav` makes it, float32 in -1..1, read as it is asked for; a context.

    Raises Undecodable when the file is no such WAV, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        try:
            self._stream = wave.open(str(path), "rb")  # noqa: SIM115
        except (wave.Error, EOFError) as error:
            raise Undecodable("undecodable", f"{plain(path)}: cannot be decoded ({error})") from None
        if (self._stream.getnchannels(), self._stream.getsampwidth()) != (1, 2) or not len(self):
            raise Undecodable("undecodable", f"{plain(path)}: is no mono 16-bit WAV with samples in it")
        _check_riff(path)

    def __len__(self) -> int:
        return self._stream.getnframes()

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        self._stream.setpos(start)
        pcm = np.frombuffer(self._stream.readframes(max(stop - start, 0)), "<i2")
        return pcm.astype(np.float32) / 32768

    def __enter__(self) -> WavSamples:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame of the first moving picture, uint8 (height, width, 3) RGB, upright, streamed. Raises Undecodable."""
    with opened(path) as container:
        streams = moving_pictures(container)
        if not streams:
            raise Undecodable("no_video", f"{plain(path)}: holds no moving pictures")
        read_s = 0.0
        for packet in container.demux(streams[0]):
            read_s = max(read_s, _end_s(packet, container))
            for frame in _decoded(packet, streams[0]):
                yield upright(frame)
        if len(container.streams) == 1:  # other tracks may well be longer than the pictures
            _check_whole(path, container, read_s)


def upright(frame: av.VideoFrame) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    return np.rot90(picture, frame.rotation // 90) if frame.rotation else picture


def frame_md5(path: Path) -> str:
    """MD5 of all decoded frames (sizes and RGB bytes), hex: equal exactly when the pictures are."""
    digest = hashlib.md5(usedforsecurity=False)
    for frame in read_frames(path):
        _digest_picture(digest, frame)
    return digest.hexdigest()


def digest_frame(digest: Any, frame: av.VideoFrame) -> None:
    """Add a decoded frame to `frame_md5`'s digest."""
    _digest_picture(digest, upright(frame))


def _digest_picture(digest: Any, picture: np.ndarray) -> None:
    digest.update(f"{picture.shape}".encode())
    digest.update(np.ascontiguousarray(picture).data)


def pcm_md5(path: Path) -> str:
    """MD5 of the decoded sound (float32, interleaved, with its rate), hex."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk, rate in audio_chunks(path):
        digest_sound(digest, chunk, rate)
    return digest.hexdigest()


def digest_sound(digest: Any, chunk: np.ndarray, rate_hz: int) -> None:
    """Add a piece of sound (channels, samples) to `pcm_md5`'s digest."""
    digest.update(f"{len(chunk)} channels, {rate_hz} Hz".encode())
    digest.update(np.ascontiguousarray(chunk.T).data)


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_wav(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    """Write float samples (samples,) or (channels, samples) in -1..1 as 16-bit PCM, whole or not at all."""
    channels = 1 if samples.ndim == 1 else len(samples)
    pcm = np.clip(np.rint(samples.T * 32768.0), -32768, 32767).astype("<i2")
    with atomic(path) as temporary, wave.open(str(temporary), "wb") as stream:
        stream.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        stream.writeframes(pcm.tobytes())


@contextmanager
def lossless_writer(path: Path, width: int, height: int, fps: int = FPS) -> Iterator[FrameWriter]:
    """A bit-exact intermediate (x264 RGB, qp 0, a key frame a second, mkv): `with ... as out: out.write(frame)`."""
    options = {"qp": "0", "preset": "ultrafast", "g": str(fps)}
    with created(path, {}) as container:
        writer = FrameWriter(container, "libx264rgb", "rgb24", (width, height), fps, options)
        yield writer
        writer.finish()
