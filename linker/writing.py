"""Decoding and encoding beside denoising: one thread turns finished windows into frames and frames into files.

It works through the windows in the order in which they are made, so what it writes does not depend on time; a few may
wait, no more, so that memory does not grow.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

import numpy as np

from linker.clip import Clip
from linker.config import FPS
from linker.engine import Engine
from linker.media import lossless_writer
from linker.mux import FrameWriter

WAITING = 4  # windows that may wait to be decoded and written
PICTURES = 2  # those that may wait decoded: each is 10 MB, and how many wait should not be what decides the peak


class Film:
    """The lossless video of a clip while it is written; appears whole or not at all."""

    def __init__(self, clip: Clip) -> None:
        self._open, side = ExitStack(), clip.portrait.side_px
        self._writer: FrameWriter = self._open.enter_context(lossless_writer(clip.video, side, side, FPS))

    def write(self, frames_THW3: np.ndarray) -> None:
        """Append frames."""
        for frame in frames_THW3:
            self._writer.write(frame)

    def close(self) -> None:
        """Finish the file."""
        self._open.close()

    def drop(self) -> None:
        """Leave no file."""
        try:
            raise InterruptedError("the clip is not finished")
        except InterruptedError:
            self._open.__exit__(*sys.exc_info())


class Writing:
    """A context in which windows are written while others are made."""

    def __init__(self, engine: Engine) -> None:
        self._pool, self._stream = ThreadPoolExecutor(1, "writing"), engine.own_stream()
        self._waiting: deque[Future[None]] = deque()
        self._films: dict[Clip, Film] = {}
        self._errors: dict[Clip, Exception] = {}

    def add(self, clip: Clip, window: int) -> None:
        """Write a stored window behind those before it; waits while too many do. Raises what went wrong with an earlier
        one. A GPU decodes it beside the next one's denoising; a processor's cores are all taken by one, so only the
        encoding is left to the thread."""
        if clip in self._errors:
            raise self._errors[clip]
        if clip.engine.device.type == "cuda":
            self._submit(clip, lambda: self._film(clip).write(clip.pictures(window)), WAITING)
        else:
            frames = clip.pictures(window)
            self._submit(clip, lambda: self._film(clip).write(frames), PICTURES)

    def close(self, clip: Clip) -> Future[None]:
        """Finish the clip's file behind its last window; the answer comes, or what went wrong."""
        return self._pool.submit(self._finish, clip)

    def drop(self, clip: Clip) -> None:
        """Forget what was written of a clip."""
        self._pool.submit(self._forget, clip).result()

    def _finish(self, clip: Clip) -> None:
        if clip in self._errors:
            self._forget(clip)
            raise self._errors.pop(clip)
        self._films.pop(clip).close()

    def _forget(self, clip: Clip) -> None:
        if film := self._films.pop(clip, None):
            film.drop()

    def _film(self, clip: Clip) -> Film:
        if clip not in self._films:
            self._films[clip] = Film(clip)
        return self._films[clip]

    def _submit(self, clip: Clip, action: Callable[[], None], most: int) -> None:
        while len(self._waiting) >= most:
            wait([self._waiting.popleft()])
        self._waiting.append(self._pool.submit(self._run, clip, action))

    def _run(self, clip: Clip, action: Callable[[], None]) -> None:
        if clip in self._errors:
            return
        try:
            with self._stream:
                action()
        except Exception as error:  # told where the clip is asked for next
            self._errors[clip] = error

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for film in self._films.values():
            film.drop()
