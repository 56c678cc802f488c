"""Data in time: the next draw is made in a thread while the device computes on this one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls `draw(number)`; asked for one number, it begins the one `stride` after it. `waited_s`: of the last call."""

    def __init__(self, draw: Callable[[int], T], stride: int = 1) -> None:
        self.draw, self.stride, self.waited_s = draw, stride, 0.0
        self._thread = ThreadPoolExecutor(1, "draws")
        self._begun: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        began = time.monotonic()
        drawn = (self._begun.pop(number, None) or self._thread.submit(self.draw, number)).result()
        self._begun = {number + self.stride: self._thread.submit(self.draw, number + self.stride)}
        self.waited_s = time.monotonic() - began
        return drawn

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)
