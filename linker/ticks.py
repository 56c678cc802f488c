"""Footage by an even clock: whatever the file's own rate, 25 pictures a second and the sound that belongs to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.encparams import VideoEncParams, VideoEncParamsType

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.media import Undecodable, moving_pictures, opened, plain, read_audio

MOST_GAP_S, MOST_BACK_S = 60.0, 1.0  # between two pictures; a clock that leaps further is broken
MOST_OBLONG = 4.0  # times that a pixel is wider than high, or higher than wide
LIKE = 0.02  # by which the shape of a picture may change with its size


@dataclass(frozen=True)
class Tick:
    """`frame` uint8 (H, W, 3) RGB, upright; `source` the number of the file's own frame that is seen; `scale` pixels
    of `frame` a pixel of the file's, made square; `qp` H.264's quantiser of that frame, 0 (lossless) to 51, NaN of
    other codecs."""

    frame: np.ndarray
    source: int
    scale: float = 1.0
    qp: float = math.nan


@dataclass(frozen=True)
class Clocks:
    """When tracks start, seconds; `tracks` of sound."""

    video_s: float
    audio_s: float
    tracks: int


def ticks(path: Path, longest_px: int | None = None, fps: int = FPS, most_s: float = math.inf) -> Iterator[Tick]:
    """Frame n is the last one of the file that starts before (n + 1/2) / fps, counted from its first; streamed.

    Pixels are made square, as players show them; `longest_px` shrinks larger pictures; where the size changes midway,
    the first one's is kept. Raises Undecodable for what cannot be read, whose clock leaps, or that lasts longer than
    `most_s` whatever its container states.
    """
    shown: Tick | None = None
    size = shape = square = (0, 0)
    count, until_s = 0, 0.0
    for number, (frame, start_s, end_s, shown_wider) in enumerate(_timed(path)):
        if start_s > most_s:
            raise Undecodable("too_long", f"{plain(path)}: over {most_s:.0f} s, at most {most_s:g}; split it")
        while shown is not None and (count + 0.5) / fps <= start_s:
            yield shown
            count += 1
        if shown is None:
            shape = (frame.width, frame.height)
            square = (round(frame.width * shown_wider), frame.height)
            size = _shrunk(square, longest_px)
        _check_shape(path, shape, frame)
        shown, until_s = Tick(_picture(frame, size), number, size[0] / square[0], _quantiser(frame)), end_s
    while shown is not None and (count + 0.5) / fps <= until_s:
        yield shown
        count += 1


def _timed(path: Path) -> Iterator[tuple[Any, float, float, float]]:
    """Decoded frames with when they start and end, seconds from the first, and how much wider than high a pixel is;
    frames without a time follow the last."""
    with opened(path) as container:
        streams = moving_pictures(container)
        if not streams:
            raise Undecodable("no_video", f"{plain(path)}: holds no moving pictures")
        stream = streams[0]
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"export_side_data": "venc_params"}
        wider = float(stream.sample_aspect_ratio or 1)
        if not 1 / MOST_OBLONG <= wider <= MOST_OBLONG:
            raise Undecodable("oblong", f"{plain(path)}: its pixels are {wider:.3g} times as wide as high")
        step_s = 1 / float(stream.average_rate or stream.guessed_rate or FPS)
        first_s, end_s = None, 0.0
        for frame in container.decode(stream):
            at_s = frame.time if frame.time is not None else (first_s or 0.0) + end_s
            first_s = at_s if first_s is None else first_s
            before_s, start_s = end_s, max(at_s - first_s, 0.0)
            if not -MOST_BACK_S <= start_s - before_s <= MOST_GAP_S:
                raise Undecodable("clock", f"{plain(path)}: its clock leaps from {before_s:.1f} s to {start_s:.1f} s")
            end_s = start_s + step_s
            yield frame, start_s, end_s, wider
    if first_s is None:
        raise Undecodable("undecodable", f"{plain(path)}: not one picture could be decoded")


def _shrunk(shape: tuple[int, int], longest_px: int | None) -> tuple[int, int]:
    scale = min(1.0, (longest_px or math.inf) / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _check_shape(path: Path, shape: tuple[int, int], frame: av.VideoFrame) -> None:
    if abs(frame.width * shape[1] / (frame.height * shape[0]) - 1) > LIKE:
        found = f"from {shape[0]} x {shape[1]} to {frame.width} x {frame.height}"
        raise Undecodable("reshaped", f"{plain(path)}: its picture changes {found}")


def _quantiser(frame: av.VideoFrame) -> float:
    told = (side for side in frame.side_data if isinstance(side, VideoEncParams))
    return next((float(side.qp) for side in told if side.codec_type == VideoEncParamsType.H264), math.nan)


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    rotation = frame.rotation
    if (frame.width, frame.height) != size:
        frame = frame.reformat(*size, "rgb24", interpolation="AREA")
    picture = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(picture, rotation // 90))


def read_clocks(path: Path) -> Clocks:
    """Start times of the first moving picture and the first sound track."""
    with opened(path) as container:
        video, audio = moving_pictures(container), container.streams.audio
        return Clocks(_start_s(video[0]) if video else 0.0, _start_s(audio[0]) if audio else 0.0, len(audio))


def _start_s(stream: Any) -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0


def read_sound(path: Path, frames: int, fps: int = FPS) -> np.ndarray:
    """The first sound track beside `frames` pictures: float32 (n,) mono at 16 kHz, sample 0 at the first picture.

    Raises Undecodable: no_audio, undecodable or truncated.
    """
    clocks = read_clocks(path)
    samples, _ = read_audio(path, SAMPLE_RATE_HZ)
    late = round((clocks.audio_s - clocks.video_s) * SAMPLE_RATE_HZ)
    placed = np.concatenate([np.zeros(max(late, 0), np.float32), samples[max(-late, 0) :]])
    wanted = frames * SAMPLE_RATE_HZ // fps
    return np.pad(placed[:wanted], (0, max(0, wanted - len(placed))))
