"""Where GPU work runs: in this process, in local processes, or on SLURM. The only file that imports submitit.

The id of a submitted job is stored before it is waited for: a run that was killed and started again finds its job alive
and waits for it instead of doing the work twice. An interrupt cancels the job; other ends of the waiting leave it.
"""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from linker.config import LaunchSettings
from linker.errors import EnvironmentError, LinkerError
from linker.process import start_time
from linker.records import read_json, write_json

POLL_S = 0.5  # how often the result is looked for
ALIVE_S = 15.0  # how often a job without a result is looked for in the queue
GRACE_S = 30.0  # how long a job that left the queue may take until its result is seen (network file systems)
RESTARTS = 100  # submissions again after a time limit; every one continues where the last stopped

ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")


class Work:
    """A task as a worker runs it: expected errors come back as values, a time limit submits it again."""

    def __init__(self, task: Callable[[], None]) -> None:
        self.task = task

    def __call__(self) -> LinkerError | None:
        try:
            self.task()
        except LinkerError as error:
            return error
        return None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The task continues by itself from its side files."""
        return submitit.helpers.DelayedSubmission(self)


def launch(task: partial[None], settings: LaunchSettings, folder: Path) -> None:
    """Run `task` where `settings` say and wait for it; `folder` keeps the job's id, script and output.

    Raises the task's own LinkerError, or EnvironmentError when the job was refused or died.
    """
    if settings.cluster == "debug":
        task()
        return
    job = _attached(task, settings, folder) or _submitted(task, settings, folder)
    try:
        error = _result(job, settings)
    except KeyboardInterrupt:
        job.cancel()
        print(f"cancelled job {job.job_id}", file=sys.stderr)
        raise
    (folder / "job.json").unlink(missing_ok=True)
    if error:
        raise error


def _submitted(task: partial[None], settings: LaunchSettings, folder: Path) -> submitit.Job[Any]:
    try:
        job = executor(settings, folder).submit(Work(task))
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise EnvironmentError(f"{settings.cluster}: the job was not accepted: {_last_line(str(error))}") from error
    start = start_time(int(job.job_id)) if settings.cluster == "local" else ""
    write_json(folder / "job.json", {**_identity(task, settings), "job_id": job.job_id, "start": start})
    print(f"submitted {settings.cluster} job {job.job_id}", file=sys.stderr)
    return job


def executor(settings: LaunchSettings, folder: Path) -> submitit.AutoExecutor:
    """The executor of a cluster, with one worker's resources set."""
    made = submitit.AutoExecutor(folder=folder.absolute(), cluster=settings.cluster, slurm_max_num_timeout=RESTARTS)
    made.update_parameters(
        name="lingualinker",
        timeout_min=settings.time_min,
        cpus_per_task=settings.cpus,
        gpus_per_node=settings.gpus,
        mem_gb=settings.memory_gb,
    )
    if settings.cluster == "slurm":
        chosen = {"slurm_partition": settings.partition, "slurm_account": settings.account}
        made.update_parameters(**{key: value for key, value in chosen.items() if value})
    return made


def _identity(task: partial[None], settings: LaunchSettings) -> dict[str, str]:
    """What a stored job must agree with to be this task's job."""
    told = f"{task.func.__module__}.{task.func.__name__} {sorted(task.keywords.items(), key=str)}"
    where = socket.gethostname() if settings.cluster == "local" else ""
    return {"cluster": settings.cluster, "host": where, "task": hashlib.sha256(told.encode()).hexdigest()}


def _attached(task: partial[None], settings: LaunchSettings, folder: Path) -> submitit.Job[Any] | None:
    """The living job of an earlier start of this task; one of another task is cancelled."""
    stored_at = folder / "job.json"
    if not stored_at.is_file():
        return None
    stored, wanted = read_json(stored_at), _identity(task, settings)
    kinds = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}
    job: submitit.Job[Any] = kinds[stored["cluster"]](folder.absolute(), stored["job_id"])
    alive = stored["host"] in ("", socket.gethostname()) and is_alive(
        stored["cluster"], stored["job_id"], stored["start"]
    )
    if {key: stored[key] for key in wanted} == wanted and (alive or job.paths.result_pickle.exists()):
        print(f"attached to {settings.cluster} job {job.job_id}", file=sys.stderr)
        return job
    if alive:
        job.cancel()
    return None


def is_alive(cluster: str, job_id: str, start: str) -> bool:
    """True while the job is queued or running; the queue is asked, as accounting may be absent or late."""
    if cluster == "local":
        return start != "" and start_time(int(job_id)) == start
    asked = subprocess.run(["squeue", "-h", "-j", job_id, "-o", "%T"], capture_output=True, text=True, check=False)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return True  # the controller does not answer: believe nothing about the job
    return bool(asked.stdout.strip())


def _result(job: submitit.Job[Any], settings: LaunchSettings) -> LinkerError | None:
    """Wait for the worker's answer. Raises EnvironmentError when it died without one."""
    start = start_time(int(job.job_id)) if settings.cluster == "local" else ""
    asked_at, gone_at = time.monotonic(), 0.0
    while not job.paths.result_pickle.exists():
        time.sleep(POLL_S)
        now = time.monotonic()
        if now - asked_at >= (1.0 if settings.cluster == "local" else ALIVE_S):
            asked_at = now
            gone_at = 0.0 if is_alive(settings.cluster, job.job_id, start) else gone_at or now
        if gone_at and now - gone_at > (2.0 if settings.cluster == "local" else GRACE_S):
            raise EnvironmentError(f"job {job.job_id} ended without a result: {_last_words(job)}")
    try:
        return _answer(job.result())
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        raise EnvironmentError(f"job {job.job_id} failed: {_last_line(str(error))}; see {job.paths.stderr}") from error


def _answer(value: Any) -> LinkerError | None:
    """A worker's answer is the error of `Work`, or None."""
    if value is None or isinstance(value, LinkerError):
        return value
    raise TypeError(f"a worker answered {type(value).__name__}")


def _last_words(job: submitit.Job[Any]) -> str:
    try:
        return f"{_last_line(job.paths.stderr.read_text(errors='replace'))}; see {job.paths.stderr}"
    except OSError:
        return f"it left no output in {job.paths.folder}"


def _last_line(text: str) -> str:
    """What went wrong: the last line of a traceback that names an error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return ([*lines, *errors] or ["no output"])[-1][:300]
