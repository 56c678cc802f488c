"""Data in time: the next draws are made in threads while the device computes on this one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from linker.train.ranks import cores

T = TypeVar("T")

MOST = 8  # draws at a time: those of the codec hold 100 MB each


class Ahead(Generic[T]):
    """Calls `draw(number)`; asked for one number, it begins the next ones too, each `stride` after the one before, as
    many as it has threads: half of this process's cores, where `threads` is 0. `waited_s`: of the last call."""

    def __init__(self, draw: Callable[[int], T], stride: int = 1, threads: int = 0) -> None:
        self.draw, self.stride, self.waited_s = draw, stride, 0.0
        self.threads = threads or max(1, min(cores() // 2, MOST))
        self._pool = ThreadPoolExecutor(self.threads, "draws")
        self._begun: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        began = time.monotonic()
        wanted = range(number, number + (self.threads + 1) * self.stride, self.stride)
        self._begun = {each: self._begun.get(each) or self._pool.submit(self.draw, each) for each in wanted}
        drawn = self._begun.pop(number).result()
        self.waited_s = time.monotonic() - began
        return drawn

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
