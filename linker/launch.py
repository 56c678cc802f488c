"""How GPU work becomes jobs, local or SLURM's: the only file that imports submitit. crew.py waits for the jobs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from linker import heartbeat, slurm
from linker.config import LaunchSettings
from linker.errors import EnvironmentError, LinkerError, as_expected
from linker.faults import WorkerBroken
from linker.leases import STARTS
from linker.process import start_time, visible_gpus

BACKOFF_S = (1, 2, 4, 8, 16, 32, 60, 60, 120, 120, 180)  # between tries to submit
WITHOUT_END = 10**9  # submitit's own limit of requeues; ours is progress
ERROR = re.compile(r"error: |[\w.]*(Error|Exception|Interrupt|Exit)\b")
Answer = LinkerError | WorkerBroken | None


ANSWER_S = 30  # how long a process waits with its error for the first one's, whose answer counts


@dataclass(frozen=True)
class Spread:
    """The processes of one job: on how many nodes, and how many on each."""

    nodes: int = 1
    tasks: int = 1

    @staticmethod
    def over_gpus(settings: LaunchSettings) -> Spread:
        """One process a GPU: of all the nodes that the settings order on SLURM, or of this machine."""
        if settings.cluster != "slurm":
            return Spread(1, max(settings.gpus * settings.workers, 1))
        named = settings.gres.rpartition(":")[2]
        return Spread(settings.nodes, max(int(named) if named.isdigit() else settings.gpus, 1))


ALONE = Spread()


class Vain(BaseException):
    """This job was started again and again, and kept nothing of what it made."""


class Work:
    """A task as a worker runs it: expected errors come back as values, a time limit has it queued again."""

    def __init__(self, task: Callable[[], None], devices: str | None) -> None:
        self.task, self.devices, self.idle = task, devices, 0

    def __call__(self) -> Answer:
        env = submitit.JobEnvironment()
        rank = _join(env) if env.num_tasks > 1 else 0
        heartbeat.end_softly()
        at_once = signal.getsignal(signal.SIGUSR2)  # submitit's: checkpoint, queue again, leave
        if env.name() == "slurm" and not rank and not shutil.which("scontrol"):
            at_once = _leave_unqueued
        if callable(at_once):
            signal.signal(signal.SIGUSR2, lambda number, frame: heartbeat.ask_to_leave(partial(at_once, number, frame)))
        heartbeat.take_over(
            Path(os.environ["SUBMITIT_FOLDER"], f"{heartbeat.job_id()}{f'.{rank}' if rank else ''}.start")
        )
        if self.devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.devices
        try:
            self.task()
        except Vain:
            return EnvironmentError(
                f"{STARTS} starts kept nothing; is launch.time_min too short for one window or save?"
            )
        except WorkerBroken as broken:
            return broken
        except heartbeat.Replaced as replaced:
            sys.exit(str(replaced))
        except Exception as error:
            if rank:
                _end_job(env)
            if (expected := as_expected(error)) and not rank:
                return expected
            raise
        finally:
            if heartbeat.is_replaced():
                os._exit(1)  # the answer is the newer start's to give
        return None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The task continues by itself from its side files: without end while something new is kept in each start.

        From here on SIGTERM is ignored, by scontrol too, which inherits that: SLURM sends it to all of a job that it
        queues again, and may end scontrol before the answer has come, which then seems to have failed.
        """
        self.idle = 0 if heartbeat.advances() else self.idle + 1
        heartbeat.give_back()
        if self.idle >= STARTS:
            raise Vain
        signal.alarm(0)  # an earlier SIGTERM's, which would end this in the middle, too
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return submitit.helpers.DelayedSubmission(self)


def _join(env: Any) -> int:
    """Tell torch and accelerate of the other processes of this job; this one's number."""
    submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    here = "127.0.0.1" if env.name() == "local" else os.environ["MASTER_ADDR"]
    os.environ["MASTER_ADDR"] = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", here)  # which asks no name service
    return int(env.global_rank)


def _end_job(env: Any) -> None:
    """The other processes would wait for this one, which failed; on SLURM its exit code ends them."""
    time.sleep(ANSWER_S)
    if env.name() == "local":
        os.kill(os.getppid(), signal.SIGINT)


def _leave_unqueued(_number: int, _frame: object) -> None:
    """The end of a job that cannot have itself queued again: the run that waits submits another, if it lives."""
    heartbeat.give_back()
    what = "scontrol is not found where this job runs, so it cannot be queued again"
    sys.exit(f"error: {what}; in a container, bind what slurm/README.md names")


class Job:
    """A submitted job or one task of an array, as it was stored."""

    def __init__(self, cluster: str, folder: Path, job_id: str, start: str) -> None:
        kinds = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}
        self.cluster, self.job_id, self.start = cluster, job_id, start
        self.handle: submitit.Job[Any] = kinds[cluster](folder.absolute(), job_id)

    def has_answered(self) -> bool:
        return self.handle.paths.result_pickle.exists()

    def answer(self) -> Answer:
        """What the worker returned. Raises EnvironmentError for a bug in it."""
        try:
            value = self.handle.result()
        except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
            told = _last_line(str(error))
            raise EnvironmentError(f"job {self.job_id} failed: {told}; see {self.handle.paths.stderr}") from error
        if value is None or isinstance(value, LinkerError | WorkerBroken):
            return value
        raise TypeError(f"a worker answered {type(value).__name__}")

    def succeeded(self) -> bool:
        try:
            return self.answer() is None
        except EnvironmentError:
            return False

    def last_words(self) -> str:
        """Of the process that says most clearly what went wrong."""
        folder = self.handle.paths.folder
        texts = [path.read_text(errors="replace") for path in sorted(folder.glob(f"{self.job_id}_*_log.err"))]
        if not texts:
            return f"it left no output in {folder}"
        return f"{_last_line(chr(10).join(reversed(texts)))}; see {self.handle.paths.stderr}"


def executor(settings: LaunchSettings, folder: Path, name: str, spread: Spread = ALONE) -> submitit.AutoExecutor:
    """The executor of a cluster, with the resources of one worker, or of a job of several processes, set."""
    python = {"slurm_python": settings.python} if settings.python else {}
    made = submitit.AutoExecutor(
        folder=folder.absolute(), cluster=settings.cluster, slurm_max_num_timeout=WITHOUT_END, **python
    )
    made.update_parameters(name=name, cpus_per_task=settings.cpus, mem_gb=settings.memory_gb * spread.tasks)
    made.update_parameters(nodes=spread.nodes, tasks_per_node=spread.tasks)
    if settings.cluster == "local":
        made.update_parameters(timeout_min=WITHOUT_END)
        return made
    more = {} if settings.gres or not settings.gpus else {"gpus_per_node": settings.gpus}
    chosen = {key: getattr(settings, key) for key in ("partition", "account", "qos", "gres", "constraint", "exclude")}
    made.update_parameters(
        timeout_min=settings.time_min,
        slurm_signal_delay_s=min(90, 15 * settings.time_min),
        slurm_wckey="",
        slurm_setup=settings.prologue,
        slurm_additional_parameters={"requeue": True},
        slurm_srun_args=["--kill-on-bad-exit=1"],
        **more,
        **{f"slurm_{key}": value for key, value in chosen.items() if value},
    )
    return made


def submit(
    task: Callable[[], None], settings: LaunchSettings, folder: Path, name: str, count: int, spread: Spread = ALONE
) -> list[Job]:
    """Submit `count` workers, on SLURM as one array. Raises EnvironmentError when that is refused for good.

    A refusal may hide an acceptance (a timeout of the answer), so what bears the name is cancelled before the next try;
    while that is not taken, nothing is submitted.
    """
    clear = True
    for delay_s in (*BACKOFF_S, 0):
        try:
            if not clear:
                raise RuntimeError("scancel has no answer")
            return _submitted(task, settings, folder, name, count, spread)
        except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, RuntimeError, OSError) as error:
            told = _last_line(str(error))
            if settings.cluster != "slurm":
                raise EnvironmentError(f"the worker was not started: {told}; see above") from error
            if (wrong := slurm.PERMANENT.search(told)) or not delay_s:
                slurm.cancel(f"--name={name}")
                what = "correct slurm/settings.yaml" if wrong else "run again when the controller answers"
                raise EnvironmentError(f"slurm: the job was not accepted: {told}; {what}") from error
            print(f"slurm does not accept the job: {told}; trying again in {delay_s} s", file=sys.stderr, flush=True)
            time.sleep(delay_s)
            clear = slurm.cancel(f"--name={name}")
    raise AssertionError("the last try returned or raised")


def _submitted(
    task: Callable[[], None], settings: LaunchSettings, folder: Path, name: str, count: int, spread: Spread
) -> list[Job]:
    made, local = executor(settings, folder, name, spread), settings.cluster == "local"
    if local:
        shares = _shares(settings, count) if spread.tasks == 1 else [",".join(visible_gpus()[: spread.tasks])]
        handles = [made.submit(Work(task, devices)) for devices in shares]
    else:
        with _outside_jobs(), made.batch():
            handles = [made.submit(Work(task, None)) for _ in range(count)]
    ids = [handle.job_id for handle in handles]
    return [Job(settings.cluster, folder, one, start_time(int(one)) if local else "") for one in ids]


def _shares(settings: LaunchSettings, count: int) -> list[str]:
    """The GPUs of each local worker, as CUDA_VISIBLE_DEVICES takes them."""
    gpus = visible_gpus()
    return [",".join(gpus[index * settings.gpus : (index + 1) * settings.gpus]) for index in range(count)]


@contextmanager
def _outside_jobs() -> Iterator[None]:
    """Inside a job, what is submitted must not inherit that job's limits; the cluster's address stays."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    conf = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if conf:
            os.environ["SLURM_CONF"] = conf
        yield


def _last_line(text: str) -> str:
    """What went wrong: the last line of a traceback that names an error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return ([*lines, *errors] or ["no output"])[-1][:300]
