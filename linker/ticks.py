"""Footage by an even clock: whatever the file's own rate, 25 pictures a second and the sound that belongs to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.media import Undecodable, moving_pictures, opened, plain, read_audio, upright


@dataclass(frozen=True)
class Tick:
    """`frame` uint8 (H, W, 3) RGB, upright; `source` the number of the file's own frame that is seen."""

    frame: np.ndarray
    source: int


@dataclass(frozen=True)
class Clocks:
    """When tracks start, seconds; `tracks` of sound."""

    video_s: float
    audio_s: float
    tracks: int


def ticks(path: Path, longest_px: int | None = None, fps: int = FPS) -> Iterator[Tick]:
    """Frame n is the last one of the file that starts before (n + 1/2) / fps, counted from its first; streamed.

    `longest_px` shrinks larger pictures. Raises Undecodable for what cannot be read.
    """
    shown: Tick | None = None
    count, until_s = 0, 0.0
    for number, (frame, start_s, end_s) in enumerate(_timed(path)):
        while shown is not None and (count + 0.5) / fps <= start_s:
            yield shown
            count += 1
        shown, until_s = Tick(_picture(frame, longest_px), number), end_s
    while shown is not None and (count + 0.5) / fps <= until_s:
        yield shown
        count += 1


def _timed(path: Path) -> Iterator[tuple[Any, float, float]]:
    """Decoded frames with when they start and end, seconds from the first; frames without a time follow the last."""
    with opened(path) as container:
        streams = moving_pictures(container)
        if not streams:
            raise Undecodable("no_video", f"{plain(path)}: holds no moving pictures")
        stream = streams[0]
        stream.thread_type = "AUTO"
        step_s = 1 / float(stream.average_rate or stream.guessed_rate or FPS)
        first_s, end_s = None, 0.0
        for frame in container.decode(stream):
            at_s = frame.time if frame.time is not None else (first_s or 0.0) + end_s
            first_s = at_s if first_s is None else first_s
            start_s = max(at_s - first_s, 0.0)
            end_s = start_s + step_s
            yield frame, start_s, end_s
    if first_s is None:
        raise Undecodable("undecodable", f"{plain(path)}: not one picture could be decoded")


def _picture(frame: av.VideoFrame, longest_px: int | None) -> np.ndarray:
    longest = max(frame.width, frame.height)
    if longest_px is not None and longest > longest_px:
        scale = longest_px / longest
        frame = frame.reformat(round(frame.width * scale), round(frame.height * scale), "rgb24", interpolation="AREA")
    return np.ascontiguousarray(upright(frame))


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
