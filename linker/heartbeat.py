"""A worker's sign of life: one small file, written again and again, by which others know where it is and that it lives.

Clocks of two machines may differ, so nobody compares times: a worker counts, and who watches sees the count stand.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from linker.errors import EnvironmentError
from linker.process import leave, start_time
from linker.records import read_json, write_json

BEAT_S = 3.0
SILENT_S = 5 * BEAT_S  # so long a count stands of who is taken for dead where no queue can be asked
STOP = "stop"  # beside the signs of life: ids of cancelled jobs
KEPT = "kept"  # there, too: a worker that has ended had kept something
DRAIN = Path(".linker", "drain")  # of the results folder: while it is there, nothing is begun
ON_REQUEST = "ended on request, with all that was made; run again to continue"
SOFT_S = 2
_JOB_IDS = ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID")

_advances = 0  # of this process: windows made, rows delivered, training states saved
_holder: tuple[Path, str] | None = None  # where the newest start of this job is named, and this one's name
AT_CHECKPOINT: list[Callable[[], None]] = []  # what this process holds and gives back when it is to be queued again
_safe = False  # whether the running task names moments at which it may be stopped
_leave: Callable[[], None] | None = None  # what waits for such a moment


@contextmanager
def safe_points() -> Iterator[None]:
    """In the block, a checkpoint waits until the task has saved and calls `leave_if_asked`."""
    global _safe
    _safe = True
    try:
        yield
    finally:
        _safe = False


def ask_to_leave(leave: Callable[[], None]) -> None:
    """Checkpoint: `leave` ends the process, at once or at the task's next safe point."""
    global _leave
    if _safe:
        _leave = leave
    else:
        leave()


def is_asked() -> bool:
    """True when a checkpoint, or the end of the run, waits for the next safe point."""
    return _leave is not None or is_draining()


def leave_if_asked() -> None:
    """A safe point, with all that matters saved: where a checkpoint waits, leave. Raises EnvironmentError where the
    run was asked to end."""
    if _leave:
        _leave()
    if is_draining():
        raise EnvironmentError(ON_REQUEST)


def is_draining() -> bool:
    """True while the run in whose results folder this process works is to begin no more."""
    return DRAIN.exists()


def end_softly() -> None:
    """In a job: SIGTERM ends this process, with safe points at the next one, otherwise after a moment; meanwhile the
    signal to checkpoint may follow it, as it does where a preemption is announced."""

    def end(number: int, _frame: object) -> None:
        global _leave
        if not _safe:
            signal.alarm(SOFT_S)
        elif not _leave:
            _leave = partial(leave, number)

    signal.signal(signal.SIGALRM, lambda _number, _frame: leave(signal.SIGTERM))
    signal.signal(signal.SIGTERM, end)


class Replaced(BaseException):
    """Others do this process's work: a second start of the same job, or whoever has its rows. It ends without answer,
    which would be taken for theirs."""


def take_over(path: Path) -> None:
    """Be the newest start of a job, which `path` names from now on."""
    global _holder
    _holder = path, uuid.uuid4().hex
    path.write_text(_holder[1])


def is_replaced() -> bool:
    """True when a newer start of this process's job lives, as after a node was lost from sight."""
    if _holder is None:
        return False
    try:
        return _holder[0].read_text() != _holder[1]
    except FileNotFoundError:
        return True  # the work is over


def advance() -> None:
    """Count one more thing that is kept. Raises Replaced where another start has taken over from this one."""
    global _advances
    if is_replaced():
        raise Replaced("another start of this job has taken over; this one keeps nothing more")
    _advances += 1


def advances() -> int:
    return _advances


def give_back() -> None:
    """Give back what this process holds, as it will be queued again."""
    for action in list(AT_CHECKPOINT):
        action()


def job_id() -> str:
    """The job this process is a worker of: '12_3' in an array, '' where nothing was submitted."""
    if not os.environ.get("SUBMITIT_EXECUTOR"):
        return ""
    found = next((os.environ[name] for name in _JOB_IDS if os.environ.get(name)), "")
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{found}_{task}" if task else found


def node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


@contextmanager
def beating(folder: Path, rows: Callable[[], list[str]] = list) -> Iterator[str]:
    """Be a worker of `folder` for the length of the block: yields its name, new for every start.

    folder/{name}.json tells {job, node, host, pid, start, beats, advances, rows}, and goes when the worker ends well.
    """
    name = f"{job_id() or 'here'}-{uuid.uuid4().hex[:8]}"
    fixed = {"job": job_id(), "node": node(), "host": socket.gethostname(), "pid": os.getpid()}
    fixed["start"] = start_time(os.getpid())
    path, stop, began = folder / f"{name}.json", threading.Event(), _advances

    def beat(beats: int) -> None:
        with suppress(OSError):  # a full disk is told by whoever writes something that matters
            write_json(path, {**fixed, "beats": beats, "advances": _advances - began, "rows": rows()})

    def beat_on() -> None:
        for beats in itertools.count(1):
            if stop.wait(BEAT_S):
                return
            beat(beats)
            if fixed["job"] and fixed["job"] in stopped(folder):
                os.kill(os.getpid(), signal.SIGTERM)

    beat(0)
    thread = threading.Thread(target=beat_on, daemon=True)
    thread.start()
    try:
        yield name
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)
        if fixed["job"] and _advances > began:
            with suppress(OSError):
                (folder / KEPT).touch()


def stop(folder: Path, jobs: list[str]) -> None:
    """Ask the workers of cancelled jobs to end: SLURM may lose the signal to one that is just starting."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).write_text("\n".join(dict.fromkeys([*stopped(folder), *jobs])))


def unstop(folder: Path, jobs: list[str]) -> None:
    """Forget what was asked of former jobs with these ids: a process's, and a new controller's, come again."""
    if kept := [job for job in stopped(folder) if job not in jobs]:
        (folder / STOP).write_text("\n".join(kept))
    else:
        (folder / STOP).unlink(missing_ok=True)


def stopped(folder: Path) -> list[str]:
    """Jobs whose workers are to end."""
    with suppress(OSError):
        return (folder / STOP).read_text().split()
    return []


def was_kept(folder: Path) -> bool:
    """True when, since the last call, a worker has ended that had kept something."""
    try:
        (folder / KEPT).unlink()
    except OSError:
        return False
    return True


def run_beating(folder: Path, task: Callable[[], None]) -> None:
    """Do a task with signs of life in folder/workers."""
    with beating(folder / "workers"):
        task()


def read_workers(folder: Path) -> dict[str, dict[str, Any]]:
    """What every worker of a folder last said, by its name."""
    found = {}
    for path in folder.glob("[!.]*.json"):
        with suppress(OSError, ValueError):
            found[path.stem] = read_json(path)
    return found


def silent_elsewhere(folder: Path) -> set[str]:
    """Workers of a folder on other machines, or in other containers, whose count stands: asked only where there are
    some, since it takes a while."""
    before = {name: sign for name, sign in read_workers(folder).items() if sign["host"] != socket.gethostname()}
    if before:
        time.sleep(SILENT_S)
    after = read_workers(folder) if before else {}
    return {name for name, sign in before.items() if after.get(name, sign)["beats"] == sign["beats"]}


def is_dead_here(worker: dict[str, Any]) -> bool:
    """True for a worker that ran on this machine and is gone; False where this machine cannot tell."""
    return worker["host"] == socket.gethostname() and start_time(worker["pid"]) != worker["start"]
