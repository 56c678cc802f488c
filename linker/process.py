"""A step as a process: its words go into its log, and it does not outlive the workflow that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

PR_SET_PDEATHSIG = 1


@contextmanager
def attended(log: Path | None) -> Iterator[TextIO]:
    """With a log: all output, native libraries' too, goes there, and the parent's death ends this process.

    Yields the stream that leads outside, for the one line that people must see.
    """
    signal.signal(signal.SIGTERM, _leave)
    if log is None:
        yield sys.stderr
        return
    die_with_parent(signal.SIGTERM)
    log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.dup(2), "w") as outside, log.open("w") as stream:
        saved = os.dup(1), os.dup(2)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield outside
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def die_with_parent(number: int) -> None:
    """Ask Linux to send this process `number` when its parent ends, so that a killed run leaves no orphans writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _leave(number: int, _frame: object) -> None:
    """An end by signal still runs the `finally` blocks that delete half-written files."""
    sys.exit(128 + number)


def start_time(pid: int) -> str:
    """The clock tick at which a process began: a pid is used again, a pid and its start are not. '' when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
