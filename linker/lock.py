"""One run at a time on a results folder. A lock whose owner is dead is taken over; a living owner's is respected."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linker.errors import EnvironmentError
from linker.process import start_time

LOCK = Path(".linker", "lock.json")


@contextmanager
def held(results: Path) -> Iterator[None]:
    """Own the folder for the length of the block. Raises EnvironmentError when a living run owns it."""
    path = results / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    _take(path, results)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path, results: Path) -> None:
    own = {"pid": os.getpid(), "start": start_time(os.getpid()), "host": socket.gethostname()}
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _refuse_living(path, results)
            _clear_dead(path, results)
            continue
        with os.fdopen(handle, "w") as stream:
            stream.write(json.dumps(own))
        return


def _refuse_living(path: Path, results: Path) -> None:
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return  # gone, or its owner died while writing it
    if owner["host"] != socket.gethostname():
        raise EnvironmentError(
            f"{results}: in use by process {owner['pid']} on {owner['host']}; if that run is dead, delete {path}"
        )
    if start_time(owner["pid"]) == owner["start"]:
        raise EnvironmentError(f"{results}: in use by process {owner['pid']}; wait for it, or end it with Ctrl-C there")


def _clear_dead(path: Path, results: Path) -> None:
    """The dead run's lock, and Snakemake's, which died with it."""
    shutil.rmtree(results / ".snakemake" / "locks", ignore_errors=True)
    path.unlink(missing_ok=True)
