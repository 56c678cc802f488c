"""What is true of a finished file: all that the quality checks look at, from one decoding of it, start to end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from linker.boxes import is_faststart
from linker.config import FPS, SAMPLE_RATE_HZ
from linker.loudness import Loudness, measure_loudness
from linker.media import Undecodable, audio_chunks, digest_frame, digest_sound, opened, resampled

SMALL_PX, FACE_PX, MOUTH_PX = 96, 48, 32
FACE_SHIFT_PX = 6  # of FACE_PX: how far a head may have moved
MOUTH_SHIFT = 0.2  # of the mouth's box: how far a head may have carried it
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709
DARK_LUMA = 32  # of 16..235
LISTEN_S = 30.0  # the piece of sound that is laid over its source at once
Box = tuple[int, int, int, int]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Places:
    """Where to look in the frames: the frame without motion, uint8 (H,W,3), and the boxes of head and mouth."""

    still: np.ndarray
    head: Box
    mouth: Box


@dataclass(frozen=True)
class Curves:
    """By picture, float32 (F,): time shown (s); mean luma; share of dark pixels; change since the picture before, of
    all and in the head; likeness of the face to the portrait's (correlation, 1 = the same); how far the mouth is from
    the portrait's in its place (levels of luma), and how far where it fits best near by, without the head's motion."""

    time_s: np.ndarray
    luma: np.ndarray
    dark: np.ndarray
    change: np.ndarray
    head_change: np.ndarray
    face: np.ndarray
    mouth: np.ndarray
    mouth_own: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """The picture track. `error` is what decoding ended with, '' when it ended well."""

    codec: str
    pix_fmt: str
    size: tuple[int, int]
    fps: float
    square_pixels: bool
    colours: tuple[int, ...]  # matrix, primaries, transfer, range, as ISO/IEC 23091-2 numbers (range: 1 = video)
    start_s: float
    error: str
    curves: Curves
    mouth_contrast: float  # standard deviation of luma in the portrait's mouth
    background: float  # variance over time away from the head, levels squared, as the mean over pixels
    frame_md5: str


@dataclass(frozen=True)
class Sound:
    """The sound track; `samples` float32 at 16 kHz, the channels' mean; `clipped` = share at full scale."""

    codec: str
    language: str
    channels: int
    length_s: float
    samples: np.ndarray
    clipped: float
    loudness: Loudness
    pcm_md5: str


@dataclass(frozen=True)
class Measured:
    """One finished file. `error` names what could not even be opened; `subtitles` are the tracks' languages."""

    pictures: Pictures | None
    sound: Sound | None
    faststart: bool
    start_s: float
    subtitles: list[str] = field(default_factory=list)
    error: str = ""


def measure(video: Path, places: Places) -> Measured:
    """Decode `video` whole. What is broken in it is told by the facts, never raised."""
    try:
        with opened(video) as container:
            start_s = (container.start_time or 0) / av.time_base
            subtitles = [stream.metadata.get("language", "und") for stream in container.streams.subtitles]
        return Measured(_pictures(video, places), sound_of(video), is_faststart(video), start_s, subtitles)
    except Undecodable as fault:
        return Measured(None, None, False, 0.0, error=str(fault))


def _pictures(video: Path, places: Places) -> Pictures | None:
    rows: list[tuple[float, ...]] = []
    digest, error = hashlib.md5(usedforsecurity=False), ""
    with opened(video) as container:
        if not container.streams.video:
            return None
        stream = container.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        look = Look(places, (stream.codec_context.width, stream.codec_context.height))
        try:
            for frame in container.decode(stream):
                rows.append((float(frame.time or 0), *look(_luma(frame))))
                digest_frame(digest, frame)
        except (av.error.FFmpegError, ValueError) as fault:
            error = f"picture {len(rows)}: {fault}"
        told = _told(stream)
    columns = np.array(rows, np.float32).reshape(-1, 8).T
    return Pictures(
        **told, error=error, curves=Curves(*columns), mouth_contrast=look.mouth_contrast,
        background=look.background(), frame_md5=digest.hexdigest(),
    )  # fmt: skip


def _told(stream: Any) -> dict[str, Any]:
    """What the track states of itself."""
    context = stream.codec_context
    colours = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
    return {
        "codec": context.name.removeprefix("lib").replace("dav1d", "av1"),
        "pix_fmt": context.pix_fmt or "",
        "size": (context.width, context.height),
        "fps": float(stream.average_rate or 0),
        "square_pixels": stream.sample_aspect_ratio in (None, 0, 1),
        "colours": tuple(int(colour) for colour in colours),
        "start_s": float((stream.start_time or 0) * stream.time_base),
    }


def _luma(frame: Any) -> np.ndarray:
    """The frame's luma, uint8 (H,W), without a conversion where the frame holds it as such."""
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return np.asarray(frame.to_ndarray(format="gray"))
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


class Look:
    """Looks at pictures one after the other and gives each one's figures, in the order of `Curves` without its time."""

    def __init__(self, places: Places, size: tuple[int, int]) -> None:
        self._places, self._fits = places, places.still.shape[1::-1] == size
        still = luma_of(places.still)
        self._face, self._mouth = _cut(still, places.head, FACE_PX), _cut(still, places.mouth, MOUTH_PX)
        self._about, self._about_px = _about(places.mouth, places.still.shape[:2])
        self.mouth_contrast = float(self._mouth.std())
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._away = _away(places.head, places.still.shape[:2])
        self._sums, self._count = np.zeros((2, SMALL_PX, SMALL_PX)), 0

    def __call__(self, luma: np.ndarray) -> tuple[float, ...]:
        small = cv2.resize(luma, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)
        fits = self._fits and luma.shape == self._places.still.shape[:2]  # else: nothing is where it should be
        face = _cut(luma, self._places.head, FACE_PX) if fits else np.zeros_like(self._face)
        mouth = _cut(luma, self._places.mouth, MOUTH_PX) if fits else self._mouth
        before = self._before or (small, face)
        self._before = small, face
        self._sums += small, np.square(small, dtype=np.float64)
        self._count += 1
        return (
            float(small.mean()),
            float((small < DARK_LUMA).mean()),
            float(cv2.absdiff(small, before[0]).mean()),
            float(np.abs(face - before[1]).mean()),
            _likeness(face, self._face),
            float(np.abs(mouth - self._mouth).mean()),
            self._own(luma) if fits else 0.0,
        )

    def _own(self, luma: np.ndarray) -> float:
        """How far the mouth is from the portrait's where it fits best."""
        x0, y0, x1, y1 = self._about
        near = cv2.resize(luma[y0:y1, x0:x1], self._about_px, interpolation=cv2.INTER_AREA).astype(np.float32)
        _, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(near, self._mouth, cv2.TM_SQDIFF))
        return float(np.abs(near[y : y + MOUTH_PX, x : x + MOUTH_PX] - self._mouth).mean())

    def background(self) -> float:
        """Variance over time of what lies away from the head; 0 where the head fills the frame."""
        if not self._count or not self._away.any():
            return 0.0
        mean, square = self._sums / self._count
        return float((square - mean**2)[self._away].mean())


def _away(head: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Bool (SMALL_PX, SMALL_PX): outside the head's box, widened by a quarter of itself on every side."""
    away = np.ones((SMALL_PX, SMALL_PX), bool)
    reach = (head[3] - head[1]) / 4
    x0, x1 = (np.clip(edge * SMALL_PX / shape[1], 0, SMALL_PX) for edge in (head[0] - reach, head[2] + reach))
    y0, y1 = (np.clip(edge * SMALL_PX / shape[0], 0, SMALL_PX) for edge in (head[1] - reach, head[3] + reach))
    away[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
    return away


def _about(mouth: Box, shape: tuple[int, ...]) -> tuple[Box, tuple[int, int]]:
    """The mouth's box with what lies MOUTH_SHIFT about it, and its width and height where the mouth's are MOUTH_PX."""
    across, down = mouth[2] - mouth[0], mouth[3] - mouth[1]
    x0, y0 = max(mouth[0] - round(MOUTH_SHIFT * across), 0), max(mouth[1] - round(MOUTH_SHIFT * down), 0)
    x1, y1 = mouth[2] + round(MOUTH_SHIFT * across), mouth[3] + round(MOUTH_SHIFT * down)
    box = x0, y0, min(x1, shape[1]), min(y1, shape[0])
    width, height = (box[2] - x0) / across * MOUTH_PX, (box[3] - y0) / down * MOUTH_PX
    return box, (max(round(width), MOUTH_PX), max(round(height), MOUTH_PX))


def luma_of(still: np.ndarray) -> np.ndarray:
    """Luma of BT.709 in video range, float32, of uint8 RGB."""
    return still.astype(np.float32) @ _LUMA * np.float32(219 / 255) + 16


def _cut(luma: np.ndarray, box: Box, side: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    return cv2.resize(luma[y0:y1, x0:x1], (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


def _likeness(face: np.ndarray, still: np.ndarray) -> float:
    """The best correlation of the portrait's face with a picture's, moved a little; 0 for a flat one."""
    if face.std() < 1:
        return 0.0
    part = still[FACE_SHIFT_PX:-FACE_SHIFT_PX, FACE_SHIFT_PX:-FACE_SHIFT_PX]
    return float(np.nan_to_num(cv2.matchTemplate(face, part, cv2.TM_CCOEFF_NORMED), posinf=0, neginf=0).max())


def sound_of(path: Path, layout: str | None = None) -> Sound | None:
    """The first sound track of any file, decoded whole, its samples mixed down to `layout` first where one is given;
    None where there is none. Raises Undecodable."""
    with opened(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        codec, language, channels = stream.codec_context.name, stream.metadata.get("language", "und"), stream.channels
    tally = _Tally()
    pieces = [piece[0] for piece, _ in resampled(tally.passed(audio_chunks(path, layout=layout)), SAMPLE_RATE_HZ)]
    samples = np.concatenate(pieces).astype(np.float32, copy=False)
    clipped = tally.full_scale / max(tally.samples * tally.channels, 1)
    length_s = tally.samples / tally.rate_hz
    return Sound(
        codec, language, channels, length_s, samples, clipped, measure_loudness(path), tally.digest.hexdigest()
    )


class _Tally:
    """Counts what passes by, and makes it mono."""

    def __init__(self) -> None:
        self.samples = self.full_scale = self.channels = 0
        self.rate_hz = 1
        self.digest = hashlib.md5(usedforsecurity=False)

    def passed(self, chunks: Iterator[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
        for chunk, rate_hz in chunks:
            self.samples, self.channels, self.rate_hz = self.samples + chunk.shape[1], len(chunk), rate_hz
            self.full_scale += int((np.abs(chunk) >= 0.999).sum())
            digest_sound(self.digest, chunk, rate_hz)
            yield chunk.mean(axis=0, keepdims=True), rate_hz


def offset_s(heard: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """(seconds by which `heard` comes late, correlation there), float32 at 16 kHz: the worst of pieces at the start, in
    the middle and at the end. Every lag up to a second is tried."""
    length = min(len(heard), len(source))
    piece = min(length, round(LISTEN_S * SAMPLE_RATE_HZ))
    starts = sorted({0, (length - piece) // 2, length - piece})
    found = [_lag(heard[start : start + piece], source[start : start + piece]) for start in starts]
    lag, likeness = max(found, key=lambda pair: (abs(pair[0]), -pair[1]))
    return lag / SAMPLE_RATE_HZ, min(pair[1] for pair in found) if lag == 0 else likeness


def _lag(heard: np.ndarray, source: np.ndarray) -> tuple[int, float]:
    """(samples late, correlation); (0, 1) where both are silent."""
    energy = float(np.sqrt(np.square(heard, dtype=np.float64).sum() * np.square(source, dtype=np.float64).sum()))
    if energy < 1e-6:
        return 0, 1.0
    size = 1 << (2 * len(heard) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(source, size)), size)
    reach = min(SAMPLE_RATE_HZ, len(heard) - 1)
    near = np.concatenate([product[size - reach :], product[: reach + 1]]) if reach else product[:1]
    best = int(near.argmax())
    return best - reach, float(near[best]) / energy


def envelope(samples: np.ndarray, times_s: np.ndarray, fps: float = FPS) -> np.ndarray:
    """Level of the sound, float32 (F,) RMS of each picture's time, from float32 samples at 16 kHz."""
    edges = np.clip(np.rint(np.append(times_s, times_s[-1:] + 1 / fps) * SAMPLE_RATE_HZ), 0, len(samples)).astype(int)
    sums = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    counts = np.maximum(np.diff(edges), 1)
    return np.sqrt(np.maximum(sums[edges[1:]] - sums[edges[:-1]], 0) / counts).astype(np.float32)
