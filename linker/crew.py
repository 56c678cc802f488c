"""The workers of one piece of work, from the run that waits for them: submitted, watched, replaced, cancelled.

The queue is asked before anything is believed of a job: SLURM queues the jobs of a lost node again, accounting may be
absent, and a worker may die where nobody notices but by its silence. Ids are stored before they are waited for: a run
that was killed and started again finds its jobs alive and does no work twice. An interrupt cancels them; other ends of
the waiting leave them.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import sys
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from linker import heartbeat, launch, slurm
from linker.config import LaunchSettings
from linker.errors import EnvironmentError, LinkerError
from linker.faults import WorkerBroken
from linker.launch import ALONE, Job, Spread
from linker.leases import STARTS
from linker.process import start_time
from linker.records import read_json, write_json
from linker.rows import Queue
from linker.shift import OneJob, ShardShift, Shift

POLL_S = 0.5  # how often results are looked for
ASK_S = 4.0  # how often the queue is asked and signs of life are read
SILENT = 10  # so many readings without a sign of life: the worker is taken for dead
BEGINNING = 150  # so many readings of a running job before its first one: Python may load slowly, but not for ever
USUAL = ("", "None", "Priority", "Resources", "BeginTime")  # why jobs wait that will begin by themselves
AGAIN = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")  # states of jobs that do not run
HALTED = ("SUSPENDED", "STOPPED")  # states in which a living worker gives no sign of life
GRACE_S = 4.0  # how long a job that left the queue may take until its result is seen (network file systems)
CLEAR_S = 60.0  # how long a job may stay in the queue after its answer: Python's end, the site's epilogue


class Crew:
    """The jobs of one shift."""

    def __init__(
        self, task: partial[None], settings: LaunchSettings, folder: Path, shift: Shift, spread: Spread = ALONE
    ) -> None:
        self.task, self.settings, self.folder, self.shift, self.spread = task, settings, folder, shift, spread
        self.size = max(settings.workers, 1)
        self.jobs: list[Job] = []
        self.error: LinkerError | None = None
        self.vain, self.last_words = 0, ""
        self._left, self._asked_at = shift.left(), -ASK_S
        self._over: list[Job] = []  # jobs that have answered
        self._coming = ""  # name of jobs that are being submitted
        self._gone: dict[str, float] = {}  # jobs that left the queue, since when
        self._waits = ""  # the reason that was last told
        self._signs: dict[str, tuple[int, int, int]] = {}  # each worker's last beat, readings it stood, advances

    def work(self) -> None:
        """Keep workers on the shift until nothing is left of it. Raises the first LinkerError of a worker, and
        EnvironmentError when starts are in vain."""
        try:
            self.attach()
            while self.jobs or self.shift.left():
                self.look()
                if not self.jobs and (self.error or (self.shift.left() and self.shift.is_stopped())):
                    break
                self.replenish()
                time.sleep(POLL_S)
            self._clear_queue()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.cancel()
            raise
        (self.folder / "job.json").unlink(missing_ok=True)
        if self.error:
            raise self.error
        if self.shift.left():
            what = f"{self.shift.left()} {self.shift.unit} left"
            raise EnvironmentError(f"ended on request with {what}; run again to continue")
        for pattern in ("*.pkl", "*.start", "*submission*.sh"):  # what workers said stays
            for path in self.folder.glob(pattern):
                path.unlink()

    # Submitting.

    def replenish(self) -> None:
        """Submit as many workers as there is work for that nobody has, and places."""
        missing = self._missing()
        if missing <= 0 or self.error or self.shift.is_stopped():
            return
        if self.vain >= STARTS and not self.jobs:
            raise EnvironmentError(f"{STARTS} starts made no progress; the last one: {self.last_words}")
        if self.vain >= STARTS:
            return
        self.vain += 1
        name = f"lingualinker-{self.folder.name}-{uuid.uuid4().hex[:8]}"
        self._store(name)
        new = launch.submit(self.task, self.settings, self.folder, name, missing, self.spread)
        self.jobs += new
        self._store()
        heartbeat.unstop(self.shift.folder / "workers", [job.job_id for job in new])  # an id is used again
        self._free_strangers()  # what was told to be refused may have begun rows before it was cancelled
        print(f"submitted {self.settings.cluster} job {_ids(new)}", file=sys.stderr, flush=True)

    def _missing(self) -> int:
        """How many workers more could begin something: one may take several rows, and those that hold none yet will."""
        places = self.size - len(self.jobs)
        if places <= 0 or not self.shift.left():
            return 0
        busy = {worker.rpartition("-")[0] for worker in self.shift.holders()}  # first: who takes a row now counts once
        free = self.shift.claimable()
        if free:
            free -= sum(job.job_id not in busy for job in self.jobs)
        return min(places, max(free, 0 if self.jobs else 1))

    def _store(self, coming: str = "") -> None:
        """Write down which jobs there are, and the name of those that are about to be submitted."""
        self._coming = coming
        jobs = [{"job_id": job.job_id, "start": job.start} for job in self.jobs]
        write_json(self.folder / "job.json", {**self._identity(), "coming": coming, "jobs": jobs})

    def _identity(self) -> dict[str, str]:
        """What stored jobs must agree with to be this work's."""
        told = f"{self.task.func} {self.task.args} {sorted(self.task.keywords.items(), key=str)}"
        told = re.sub(r" at 0x[0-9a-f]+", "", told)
        where = socket.gethostname() if self.settings.cluster == "local" else ""
        return {"cluster": self.settings.cluster, "host": where, "task": hashlib.sha256(told.encode()).hexdigest()}

    def attach(self) -> None:
        """Take over the living jobs of an earlier start of this work; those of other work are cancelled. Raises
        EnvironmentError when SLURM does not take that."""
        path, wanted = self.folder / "job.json", self._identity()
        stored = read_json(path) if path.is_file() else {}
        if stored and {key: stored[key] for key in wanted} == wanted:
            self._take_over(stored)
        elif stored:
            call_off(self.folder, self.shift)
        self._free_strangers()

    def _take_over(self, stored: dict[str, Any]) -> None:
        jobs, self._coming = _stored_jobs(stored, self.folder), stored["coming"]
        self.jobs = [job for job in jobs if not job.has_answered()]  # from here on an interrupt cancels them
        _cancel_coming(stored, self.folder)
        self._coming, alive = "", self._alive(self.jobs)
        self.jobs = [job for job in self.jobs if job.job_id in alive and not job.has_answered()]
        self._over = [job for job in jobs if job.has_answered()]
        for job in self._over:
            if job.succeeded():  # an old failure is no news: the work is tried again
                self.shift.answered()
        if self.jobs:
            print(f"attached to {self.settings.cluster} job {_ids(self.jobs)}", file=sys.stderr, flush=True)

    def _free_strangers(self) -> None:
        """Whatever is held by workers of no living job may be taken."""
        own = tuple(f"{job.job_id}-" for job in self.jobs)
        for worker in self.shift.holders():
            if not worker.startswith(own):
                self.shift.free(worker, "its worker died", counted=False)

    # Watching.

    def look(self) -> None:
        """Take in what has happened: answers, jobs that are gone, workers that are silent, rows that are known."""
        for job in [job for job in self.jobs if job.has_answered()]:
            self._answered(job)
        now = time.monotonic()
        if now - self._asked_at >= ASK_S:
            self._asked_at = now
            signs = heartbeat.read_workers(self.shift.folder / "workers")
            alive = self._alive(self.jobs)  # later: a worker that has begun since its job was seen waiting is alive
            self._bury(alive, now)
            self._listen(alive, signs)
            self._dismiss(alive)
        if heartbeat.was_kept(self.shift.folder / "workers"):
            self.vain = 0
        self.shift.tell()
        left = self.shift.left()
        if left < self._left:
            self.vain = 0
        self._left = left

    def _alive(self, jobs: list[Job]) -> dict[str, slurm.Told]:
        """What the queue says of the jobs that live; where it says nothing, all are believed to live."""
        if self.settings.cluster == "local":
            here = slurm.Told("RUNNING", socket.gethostname())
            return {job.job_id: here for job in jobs if job.start and start_time(int(job.job_id)) == job.start}
        found = slurm.queued([job.job_id for job in jobs])
        return {job.job_id: slurm.Told("UNKNOWN") for job in jobs} if found is None else found

    def _answered(self, job: Job) -> None:
        self._over.append(job)
        self._remove(job, "its worker ended", counted=False)
        try:
            answer = job.answer()
        except EnvironmentError as bug:
            answer = bug
        if isinstance(answer, WorkerBroken):
            self.last_words = f"job {job.job_id}: {answer}"
            print(f"{self.last_words}; another worker takes over", file=sys.stderr, flush=True)
        elif answer:
            self.error = self.error or answer
            if self.spread != ALONE:
                _cancel([job])  # its other processes may be waiting for the one that answered
        else:
            self.shift.answered()

    def _bury(self, alive: dict[str, slurm.Told], now: float) -> None:
        """Give up jobs that have left the queue without an answer, once file systems had time to show one."""
        self._gone = {job.job_id: self._gone.get(job.job_id, now) for job in self.jobs if job.job_id not in alive}
        gone = [job for job in self.jobs if now - self._gone.get(job.job_id, now) >= GRACE_S and not job.has_answered()]
        endings = slurm.endings([job.job_id for job in gone]) if self.settings.cluster == "slurm" else {}
        for job in gone:
            told = endings.get(job.job_id, slurm.Told("FAILED"))
            self.last_words = f"job {job.job_id} ended without a result: {told}: {job.last_words()}"
            print(self.last_words, file=sys.stderr, flush=True)
            self._remove(job, f"its worker died: {told}", counted=told.state not in slurm.NOT_THE_ROWS_FAULT)
            if told.state == "CANCELLED":
                what = f"job {job.job_id} was cancelled from outside ({told}); run again to continue"
                self.error = self.error or EnvironmentError(what)

    def _listen(self, alive: dict[str, slurm.Told], signs: dict[str, dict[str, Any]]) -> None:
        """Judge the workers' signs of life: whose job is queued again lost its rows, and so does who is silent."""
        jobs = {job.job_id: job for job in self.jobs}
        for worker, sign in signs.items():
            job, told = jobs.get(sign["job"]), alive.get(sign["job"])
            if job is None or told is None:
                continue
            if told.state in AGAIN:
                self.shift.free(worker, f"its job is queued again ({told})", counted=False)
                continue
            beats, stood, advances = self._signs.get(worker, (-1, 0, 0))
            stood = stood + 1 if beats == sign["beats"] and told.state not in HALTED else 0
            self._signs[worker] = (sign["beats"], stood, sign["advances"])
            if sign["advances"] > advances:
                self.vain = 0
            if stood >= SILENT:
                self._silenced(job, worker, SILENT)
        begun = {sign["job"] for sign in signs.values()}
        for job in [job for job in self.jobs if job.job_id not in begun]:
            self._expect(job, alive.get(job.job_id, slurm.Told("UNKNOWN")))

    def _expect(self, job: Job, told: slurm.Told) -> None:
        """A job without a sign of life: tell why it waits, once, and do not let it begin for ever."""
        if told.state in AGAIN and told.reason not in (*USUAL, self._waits):
            self._waits = told.reason
            print(f"job {job.job_id} waits: {told.reason}", file=sys.stderr, flush=True)
        _, stood, _ = self._signs.get(job.job_id, (-1, 0, 0))
        stood = stood + 1 if told.state == "RUNNING" else 0
        self._signs[job.job_id] = (-1, stood, 0)
        if stood >= BEGINNING:
            self._silenced(job, job.job_id, BEGINNING)

    def _silenced(self, job: Job, worker: str, readings: int) -> None:
        """A worker that gives no sign of life is ended, and others get its rows: a lost node is not their fault."""
        self.last_words = f"job {job.job_id}: no sign of life for {readings * ASK_S:.0f} s"
        if not _cancel([job]):
            return print(f"{self.last_words}; it cannot be cancelled yet", file=sys.stderr, flush=True)
        print(f"{self.last_words}; another worker takes over", file=sys.stderr, flush=True)
        self.shift.free(worker, "its worker gave no sign of life", counted=False)
        self._remove(job, "its worker gave no sign of life", counted=False)

    def _dismiss(self, alive: dict[str, slurm.Told]) -> None:
        """When nothing is left, or no more is to be begun, jobs that wait for their turn are cancelled."""
        waiting = [job for job in self.jobs if job.job_id in alive and alive[job.job_id].state in AGAIN]
        over = self.shift.is_stopped() or not self.shift.left()
        if not waiting or not over or not _cancel(waiting):
            return
        heartbeat.stop(self.shift.folder / "workers", [job.job_id for job in waiting])  # it may just have started
        print(f"cancelled {self.settings.cluster} job {_ids(waiting)}, which waited", file=sys.stderr, flush=True)
        for job in waiting:
            self._remove(job, "it is no longer needed", counted=False)

    def _remove(self, job: Job, why: str, counted: bool) -> None:
        """The job is over; what its workers held may be taken."""
        self.jobs.remove(job)
        self._store()
        for worker in self.shift.holders():
            if worker.startswith(f"{job.job_id}-"):
                self.shift.free(worker, why, counted)

    # Cancelling.

    def _clear_queue(self) -> None:
        """Wait until what has answered has left the queue, too, and say so where it does not.

        A job of a lost node is queued again although its old process lived on and did the work: that is cancelled.
        """
        end = time.monotonic() + CLEAR_S
        while alive := self._alive(self._over):
            if time.monotonic() > end:
                told = ", ".join(f"{job_id} ({said})" for job_id, said in alive.items())
                told = f"still in the queue {CLEAR_S:.0f} s after its answer: {told}"
                return print(told, file=sys.stderr, flush=True)
            _cancel([job for job in self._over if job.job_id in alive and alive[job.job_id].state in AGAIN])
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """Cancel what was submitted, once, and say so."""
        by_name = self._coming and self.settings.cluster == "slurm"  # may have been accepted
        if not self.jobs and not by_name:
            return
        taken = not by_name or slurm.cancel(f"--name={self._coming}")
        if self.jobs:
            taken = _cancel(self.jobs) and taken
            heartbeat.stop(self.shift.folder / "workers", [job.job_id for job in self.jobs])
        if taken:
            (self.folder / "job.json").unlink(missing_ok=True)
        how = "cancelled" if taken else "could not cancel (does the controller answer?)"
        print(f"{how} {self.settings.cluster} job {_ids(self.jobs) or self._coming}", file=sys.stderr, flush=True)


def call_off(folder: Path, shift: Shift) -> None:
    """Cancel what an earlier start submitted, wherever, and free what its workers held. Raises EnvironmentError while
    SLURM does not take that; then nothing may be begun that those jobs might be doing, too."""
    stored = read_json(folder / "job.json")
    _cancel_coming(stored, folder)
    jobs = [job for job in _stored_jobs(stored, folder) if not job.has_answered()]
    if stored["cluster"] == "slurm":
        found = slurm.queued([job.job_id for job in jobs])
        jobs = jobs if found is None else [job for job in jobs if job.job_id in found]
    if not _cancel(jobs):
        raise _still_there(f"job {_ids(jobs)}", folder)
    heartbeat.stop(shift.folder / "workers", [job.job_id for job in jobs])  # on other hosts, too
    (folder / "job.json").unlink()
    if jobs:
        print(f"cancelled {stored['cluster']} job {_ids(jobs)} of an earlier start", file=sys.stderr, flush=True)
    for worker in shift.holders():
        shift.free(worker, "its worker was cancelled", counted=False)


def _stored_jobs(stored: dict[str, Any], folder: Path) -> list[Job]:
    return [Job(stored["cluster"], folder, job["job_id"], job["start"]) for job in stored["jobs"]]


def _cancel_coming(stored: dict[str, Any], folder: Path) -> None:
    """What was being submitted when the earlier start ended may have been accepted."""
    name = stored["coming"]
    if name and stored["cluster"] == "slurm" and not any(slurm.cancel(f"--name={name}") for _ in range(3)):
        raise _still_there(f"what it may have submitted as {name}", folder)


def _still_there(what: str, folder: Path) -> EnvironmentError:
    do = f"run again where scancel works, or delete {folder / 'job.json'} when the queue shows none of it"
    return EnvironmentError(f"an earlier start left {what}, and scancel does not take it; {do}")


def _cancel(jobs: list[Job]) -> bool:
    """End jobs; True when that was accepted."""
    for job in jobs:
        if job.cluster == "local" and start_time(int(job.job_id)) == job.start:
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGINT)
    ids = [job.job_id for job in jobs if job.cluster == "slurm"]
    return not ids or any(slurm.cancel(*ids) for _ in range(3))


def _ids(jobs: list[Job]) -> str:
    return ", ".join(job.job_id for job in jobs)


def launch_shard(task: partial[None], settings: LaunchSettings, folder: Path, queue: Queue) -> None:
    """Make a shard's rows with as many workers as the settings say; no job is submitted where nothing is left to do."""
    queue.adopt()
    queue.refuse_unprepared()
    try:
        Crew(task, settings, folder, ShardShift(queue)).work()
    finally:
        queue.write_ledger()
    queue.sweep()


def launch_job(task: partial[None], settings: LaunchSettings, folder: Path, spread: bool = False) -> None:
    """Do a task in one job, started again as long as it makes progress; `spread`: by one process a GPU."""
    work: partial[None] = partial(heartbeat.run_beating, folder=folder, task=task)
    if spread:
        return Crew(work, settings, folder, OneJob(folder), Spread.over_gpus(settings)).work()
    alone = settings.model_copy(update={"gpus": min(settings.gpus, 1)})
    Crew(work, alone, folder, OneJob(folder)).work()
