"""Drawing and speaking in several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2

from linker.errors import EnvironmentError
from linker.process import die_with_parent

T = TypeVar("T")


def side_by_side(
    make: Callable[..., T], *columns: Iterable[Any], place: Path, processes: int, chunk: int = 1
) -> Iterator[T]:
    """`map` in so many processes, `chunk` calls at a time. Raises EnvironmentError when one of them is killed; it names
    `place`, where what is made goes."""
    if processes == 1:
        yield from map(make, *columns)
        return
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), begin) as pool:
            yield from pool.map(make, *columns, chunksize=chunk)
    except BrokenProcessPool:
        why = f"one of {processes} processes was killed, mostly because memory was short"
        raise EnvironmentError(f"{place}: {why}; run again, with fewer --cores") from None


def begin() -> None:
    """In a process that draws beside others: one thread, and no life after its parent's."""
    die_with_parent(signal.SIGTERM)
    cv2.setNumThreads(1)
