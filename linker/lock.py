"""One run at a time on a results folder. A lock whose owner is dead is taken over; a living owner's is respected.

On its own host the owner's process tells whether it lives; elsewhere the lock's date does, which the owner renews.
Dates are compared with each other, as the file system of the results gives them, never with a clock.
A lock appears with its content at once. A dead one is moved aside and looked at there: two may have judged it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from linker.errors import EnvironmentError
from linker.process import start_time
from linker.records import temporary_name

LOCK = Path(".linker", "lock.json")
RENEW_S = 30.0
STALE_S = 300.0  # so long after it was renewed, a lock of another host is a dead run's
WRITTEN_S = 1.0  # so long an empty lock may stay: without hard links it is written after it was made


@contextmanager
def held(results: Path) -> Iterator[None]:
    """Own the folder for the length of the block. Raises EnvironmentError when a living run owns it."""
    path, stop = results / LOCK, threading.Event()
    path.parent.mkdir(parents=True, exist_ok=True)
    own = _take(path, results)
    thread = threading.Thread(target=_renew, args=(path, own, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):
            if path.read_text() == own:
                path.unlink()


def _take(path: Path, results: Path) -> str:
    """The lock, as it was written."""
    own = json.dumps({"pid": os.getpid(), "start": start_time(os.getpid()), "host": socket.gethostname()})
    while True:
        try:
            _place(own, path)
            return own
        except FileExistsError:
            with suppress(FileNotFoundError):  # whoever had it has just ended
                found = _content(path)
                _refuse_living(found, path, results)
                _clear_dead(found, path, results)


def _place(content: str, path: Path) -> None:
    """Make a lock that has its content from the first. Raises FileExistsError where there is one."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("x") as stream:
                stream.write(content)
    finally:
        temporary.unlink(missing_ok=True)


def _content(path: Path) -> str:
    """What a lock says; an empty one is given the time to be written."""
    if not path.stat().st_size:
        time.sleep(WRITTEN_S)
    return path.read_text(errors="replace")


def _renew(path: Path, own: str, stop: threading.Event) -> None:
    """Keep the lock young. A run that slept for too long, and lost it, ends at once: its jobs are its successor's."""
    while not stop.wait(RENEW_S):
        with suppress(OSError):
            if path.read_text() == own:
                os.utime(path)
            elif not stop.is_set():
                print(f"error: {path}: another run has taken over from this one", file=sys.stderr, flush=True)
                os._exit(EnvironmentError.exit_code)


def _refuse_living(found: str, path: Path, results: Path) -> None:
    """Raises EnvironmentError for the lock of a living run."""
    try:
        owner = json.loads(found)
    except ValueError:
        return  # its host lost its power while it was written
    if owner["host"] == socket.gethostname():
        if start_time(owner["pid"]) == owner["start"]:
            do = "wait for it, or end it with Ctrl-C there"
            raise EnvironmentError(f"{results}: in use by process {owner['pid']}; {do}")
        return
    told, age_s = f"{results}: in use by process {owner['pid']} on {owner['host']}", _age_s(path)
    if age_s < STALE_S:
        raise EnvironmentError(f"{told}; if that run is dead, run again {STALE_S / 60:.0f} minutes after it died")
    print(f"{told}, which gave no sign of life for {age_s / 60:.0f} minutes: taken over", file=sys.stderr, flush=True)


def _age_s(path: Path) -> float:
    """How much older than a new file a file is; 0 for one that is gone."""
    with suppress(FileNotFoundError), tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock.") as new:
        return os.fstat(new.fileno()).st_mtime - path.stat().st_mtime
    return 0.0


def _clear_dead(found: str, path: Path, results: Path) -> None:
    """Remove the dead run's lock, and Snakemake's, which died with it. What another has put there since it was `found`
    is put back."""
    aside = temporary_name(path)
    os.rename(path, aside)
    try:
        if (moved := aside.read_text(errors="replace")) == found:
            shutil.rmtree(results / ".snakemake" / "locks", ignore_errors=True)
        else:
            with suppress(FileExistsError):
                _place(moved, path)
    finally:
        aside.unlink()
