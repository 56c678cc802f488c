"""A step as a process: its words go into its log, and it does not outlive the workflow that started it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from linker.config import LaunchSettings

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt: bytes


@contextmanager
def attended(log: Path | None) -> Iterator[TextIO]:
    """With a log: all output, native libraries' too, goes there, and the parent's death ends this process.

    Yields the stream that leads outside, for the one line that people must see.
    """
    signal.signal(signal.SIGTERM, leave)
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


def leave(number: int, _frame: object = None) -> None:
    """An end by signal still runs the `finally` blocks that delete half-written files."""
    sys.exit(128 + number)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for what is needed next, until `return_freed_memory`: left to itself it hands large
    blocks back and fetches them again many times a step, and every page of them is cleared anew."""
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        set_option(M_MMAP_THRESHOLD, 32 << 20)
        set_option(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Give what is freed back to the system, so that a long recording takes no more than a short one."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def visible_gpus() -> list[str]:
    """GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, told without loading what uses them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if device.strip() not in ("", "-1")]
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*"))
    return sorted((number for number in numbers if number.isdigit()), key=int)


def resolved(settings: LaunchSettings) -> LaunchSettings:
    """What `auto`, a missing sbatch and the GPUs of this machine make of the launch settings."""
    cluster, gpus = settings.cluster, visible_gpus()
    if cluster == "auto" or (cluster == "slurm" and not shutil.which("sbatch")):
        cluster = "local" if gpus else "debug"
    if cluster == "slurm":
        return settings
    each, is_elsewhere = min(settings.gpus or 1, len(gpus)), settings.cluster == "slurm"
    wanted = 0 if is_elsewhere else settings.workers  # an array's size says nothing about this machine
    places = len(gpus) // each if each else wanted or 1
    workers = min(wanted or places, places)
    return settings.model_copy(update={"cluster": cluster, "gpus": each, "workers": workers})


def start_time(pid: int) -> str:
    """The clock tick at which a process began: a pid is used again, a pid and its start are not. '' when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
