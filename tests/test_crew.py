"""The crew of a shift: how many workers it submits, what it believes of the queue, what an earlier start left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import write_shard
from submitit.core.utils import cloudpickle_dump

from linker import cli, heartbeat, launch, leases, slurm
from linker.config import GenerateSettings, LaunchSettings, token
from linker.crew import SILENT, Crew
from linker.errors import EnvironmentError
from linker.launch import Job
from linker.records import read_json, write_json
from linker.rows import Queue
from linker.shift import OneJob, ShardShift
from linker.slurm import Told

SETTINGS = GenerateSettings()
TASK = partial(os.abort)


class Controller:
    """What SLURM would say: the state of every job in the queue; what was submitted and cancelled."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.submitted: list[int] = []
        self.cancelled: list[str] = []
        self.is_deaf = False

    def queued(self, ids: list[str]) -> dict[str, Told]:
        return {one: Told(self.states[one]) for one in ids if one in self.states}

    def endings(self, ids: list[str]) -> dict[str, Told]:
        return {one: Told("FAILED") for one in ids}

    def cancel(self, *words: str) -> bool:
        if self.is_deaf:
            return False
        self.cancelled += words
        for word in words:
            self.states.pop(word, None)
        return True

    def submit(self, task: Any, settings: Any, folder: Path, name: str, count: int, spread: Any) -> list[Job]:
        self.submitted.append(count)
        ids = [f"{len(self.submitted)}_{number}" for number in range(count)]
        self.states |= dict.fromkeys(ids, "PENDING")
        return [Job("slurm", folder, one, "") for one in ids]


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Controller:
    made = Controller()
    for name in ("queued", "endings", "cancel"):
        monkeypatch.setattr(slurm, name, getattr(made, name))
    monkeypatch.setattr(launch, "submit", made.submit)
    for name, value in {"ASK_S": 0.0, "POLL_S": 0.0, "GRACE_S": 1e-6}.items():
        monkeypatch.setattr(f"linker.crew.{name}", value)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """A shard of four rows."""
    write_shard(tmp_path)
    return list("abcd")


def queue(worker: str = "run") -> Queue:
    made = Queue(Path("shards/s000.json"), Path("shards/s000/ledger.json"), SETTINGS)
    made.worker = worker
    return made


def crew_of(workers: int = 3) -> Crew:
    settings = LaunchSettings(cluster="slurm", workers=workers)
    return Crew(TASK, settings, Path("logs/generate/s000"), ShardShift(queue()))


def answer(job: Job) -> None:
    job.handle.paths.folder.mkdir(parents=True, exist_ok=True)
    cloudpickle_dump(("success", None), job.handle.paths.result_pickle)


def sign(worker: str, beats: int, advances: int = 0) -> None:
    path = Path("shards/s000/workers", f"{worker}.json")
    write_json(path, {"job": worker.rpartition("-")[0], "beats": beats, "advances": advances, "rows": []})


def test_rows_that_a_worker_holds_call_for_no_other(controller: Controller, rows: list[str]) -> None:
    """One takes all rows, as a GPU's does; the others find none and end. When it dies, others are called."""
    crew = crew_of()
    crew.replenish()
    assert controller.submitted == [3]
    taker = queue("1_0-x")
    assert len([lease for _ in rows if (lease := taker.claim())]) == 4
    controller.states["1_0"] = "RUNNING"
    for job in crew.jobs[1:]:
        answer(job)
    for _ in range(9):
        crew.look()
        crew.replenish()
    assert (controller.submitted, [job.job_id for job in crew.jobs], crew.vain) == ([3], ["1_0"], 1)
    controller.states.clear()
    for _ in range(2):
        crew.look()
    crew.replenish()
    assert controller.submitted == [3, 3]


def test_rows_of_a_lost_node_are_for_its_jobs_that_are_queued_again(controller: Controller, rows: list[str]) -> None:
    """A worker that lives on there, and writes once more where its lease was, holds nothing."""
    crew = crew_of(workers=2)
    crew.replenish()
    lost, taker = queue("1_0-x"), queue("1_1-y")
    lease = lost.claim()
    assert lease
    assert len([kept for _ in rows if (kept := taker.claim())]) == 3
    answer(crew.jobs[1])
    for other in list(taker.held.values()):
        other.refuse("bad", "is bad")
    sign("1_0-x", beats=5)
    for _ in range(3):  # 1_0 is PENDING
        crew.look()
        write_json(lease.folder / "windows" / "1", {})
        assert queue().claimable() == ["a"]
        crew.replenish()
    assert (controller.submitted, crew.shift.holders()) == ([2], set())


def test_workers_that_have_not_begun_are_counted_on(controller: Controller, rows: list[str]) -> None:
    """Two of three wait for their turn, and two rows are left for them: no third is called."""
    crew, done = crew_of(), queue("0_0-x")
    crew.replenish()
    for _ in range(2):
        lease = done.claim()
        assert lease
        lease.refuse("no_face", "found no face")
    answer(crew.jobs[0])
    crew.look()
    crew.replenish()
    assert controller.submitted == [3]


def test_an_id_that_comes_again_is_not_told_to_end(controller: Controller, rows: list[str]) -> None:
    workers = Path("shards/s000/workers")
    heartbeat.stop(workers, ["1_0", "1_1"])
    heartbeat.stop(workers, ["9_0"])
    crew_of(workers=1).replenish()
    assert heartbeat.stopped(workers) == ["1_1", "9_0"]


def test_a_suspended_worker_is_waited_for_and_a_lost_node_is_no_rows_fault(
    controller: Controller, rows: list[str]
) -> None:
    crew = crew_of(workers=1)
    for number in range(1, 5):
        crew.replenish()
        worker = f"{number}_0-x"
        lease = queue(worker).claim()
        assert (lease and lease.clip, lease and lease.alone) == ("a", False)
        sign(worker, beats=5, advances=number)
        controller.states[f"{number}_0"] = "SUSPENDED"
        for _ in range(3 * SILENT):
            crew.look()
        assert controller.cancelled == [f"{earlier}_0" for earlier in range(1, number)]
        controller.states[f"{number}_0"] = "RUNNING"
        for _ in range(SILENT + 1):
            crew.look()
        assert crew.jobs == []
    assert not queue().entry("a")
    assert leases.read_small(queue().home("a") / leases.TRIES)["starts"] == 0


def test_a_silent_worker_keeps_its_rows_until_it_can_be_cancelled(controller: Controller, rows: list[str]) -> None:
    crew = crew_of(workers=1)
    crew.replenish()
    assert queue("1_0-x").claim()
    sign("1_0-x", beats=5)
    controller.states["1_0"], controller.is_deaf = "RUNNING", True
    for _ in range(SILENT + 3):
        crew.look()
    assert crew.shift.holders() == {"1_0-x"}
    controller.is_deaf = False
    crew.look()
    assert (crew.jobs, crew.shift.holders(), controller.cancelled) == ([], set(), ["1_0"])


def test_what_waits_is_cancelled_when_nothing_is_left(controller: Controller, rows: list[str]) -> None:
    """One worker made all rows while the others waited for a place."""
    crew = crew_of()
    crew.replenish()
    worker = queue("1_0-x")
    while lease := worker.claim():
        lease.refuse("bad", "is bad")
    controller.states.pop("1_0")
    answer(crew.jobs[0])
    crew.work()
    assert (controller.cancelled, controller.submitted) == (["1_1", "1_2"], [3])


def test_a_job_that_runs_and_never_begins_is_replaced(
    controller: Controller, rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node whose disks hang lets Python load for ever; who only loads slowly is waited for."""
    monkeypatch.setattr("linker.crew.BEGINNING", 20)
    crew = crew_of(workers=1)
    crew.replenish()
    for _ in range(30):  # waiting for its turn is no fault
        crew.look()
    controller.states["1_0"] = "RUNNING"
    for _ in range(19):
        crew.look()
    assert (len(crew.jobs), controller.cancelled) == (1, [])
    crew.look()
    crew.replenish()
    assert (controller.cancelled, controller.submitted) == (["1_0"], [1, 1])
    assert "job 1_0: no sign of life for 0 s; another worker takes over" in capsys.readouterr().err


def test_why_a_job_waits_that_will_not_begin_by_itself_is_told_once(
    controller: Controller, rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crew = crew_of()
    crew.replenish()
    for reason in ("Priority", "AssocGrpGRES"):
        monkeypatch.setattr(slurm, "queued", lambda ids, why=reason: {one: Told("PENDING", "", why) for one in ids})
        for _ in range(3):
            crew.look()
    assert capsys.readouterr().err.splitlines()[1:] == ["job 1_0 waits: AssocGrpGRES"]


def test_what_waits_is_cancelled_when_the_run_is_to_end(controller: Controller, rows: list[str]) -> None:
    """A row that is being made is finished."""
    crew = crew_of(workers=2)
    crew.replenish()
    controller.states["1_0"] = "RUNNING"
    Path(".linker").mkdir()
    Path(".linker", "drain").touch()
    crew.look()
    assert (controller.cancelled, [job.job_id for job in crew.jobs]) == (["1_1"], ["1_0"])
    answer(crew.jobs[0])
    controller.states.clear()
    with pytest.raises(EnvironmentError, match="ended on request with 4 rows left"):
        crew.work()


def test_a_run_ends_when_what_has_answered_has_left_the_queue(
    controller: Controller, rows: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python and the site's epilogue end after the answer; a job that is queued again, as its node was lost, does not
    begin; one that stays is told."""
    crew, asked, readings = crew_of(workers=2), controller.queued, 0
    crew.replenish()

    def ending(ids: list[str]) -> dict[str, Told]:
        nonlocal readings
        readings += 1
        if readings == 9:
            controller.states.clear()
        return asked(ids)

    def answered_all(states: dict[str, str]) -> None:
        for job in crew.jobs:
            answer(job)
        controller.states = states
        crew.look()
        crew._clear_queue()

    monkeypatch.setattr(slurm, "queued", ending)
    answered_all({"1_0": "COMPLETING", "1_1": "PENDING"})
    assert (readings, controller.cancelled, capsys.readouterr().err.count("still in the queue")) == (9, ["1_1"], 0)
    monkeypatch.setattr("linker.crew.CLEAR_S", 0.0)
    answered_all({"1_0": "COMPLETING"})
    assert "still in the queue 0 s after its answer: 1_0 (COMPLETING)" in capsys.readouterr().err


def test_a_worker_that_begins_while_the_queue_is_asked_keeps_its_rows(
    controller: Controller, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was seen waiting; those that gave signs before that are an earlier start's."""
    crew, asked = crew_of(workers=1), controller.queued
    crew.replenish()
    assert queue("1_0-old").claim()
    sign("1_0-old", beats=1)

    def starting(ids: list[str]) -> dict[str, Told]:
        told = asked(ids)
        assert queue("1_0-new").claim()
        sign("1_0-new", beats=0)
        return told

    monkeypatch.setattr(slurm, "queued", starting)
    crew.look()
    assert crew.shift.holders() == {"1_0-new"}


def stored(cluster: str, coming: str = "", folder: str = "logs/generate/s000") -> Path:
    """What an earlier start wrote down: job 7_0, whose worker holds a row."""
    job, path = {"job_id": "7_0", "start": ""}, Path(folder, "job.json")
    identity = {**crew_of()._identity(), "cluster": cluster}
    write_json(path, {**identity, "coming": coming, "jobs": [job]})
    return path


def test_what_was_being_submitted_is_cancelled_before_anything_is(controller: Controller, rows: list[str]) -> None:
    path, controller.states["7_0"] = stored("slurm", coming="lingualinker-s000-1"), "RUNNING"
    controller.is_deaf = True
    with pytest.raises(EnvironmentError, match=r"may have submitted as lingualinker-s000-1.*run again"):
        crew_of().work()
    assert (read_json(path)["coming"], controller.submitted) == ("lingualinker-s000-1", [])
    controller.is_deaf = False
    crew = crew_of()
    crew.attach()
    assert controller.cancelled == ["--name=lingualinker-s000-1"]
    assert [job.job_id for job in crew.jobs] == ["7_0"]


def test_what_answered_before_the_run_was_started_again_leaves_the_queue(
    controller: Controller, rows: list[str]
) -> None:
    answer(Job("slurm", stored("slurm").parent, "7_0", ""))
    controller.states["7_0"] = "PENDING"
    crew = crew_of()
    crew.attach()
    crew._clear_queue()
    assert (crew.jobs, controller.cancelled) == ([], ["7_0"])


@pytest.mark.parametrize("now", ["local", "debug"])
def test_jobs_of_another_kind_are_cancelled_first(
    controller: Controller, rows: list[str], now: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted to SLURM, and started again without it: while scancel has no answer, nothing is begun."""
    path, controller.states["7_0"] = stored("slurm"), "RUNNING"
    assert queue("7_0-x").claim()
    monkeypatch.setenv("LINKER_LAUNCH", token(LaunchSettings(cluster=now)))  # type: ignore[arg-type]
    begun: list[Any] = []
    monkeypatch.setattr(cli, "perform", lambda *words: begun.append(words))
    monkeypatch.setattr("linker.crew.Crew.replenish", lambda crew: begun.append(crew) or crew.shift.queue.rows.clear())
    words = ["--shard", "shards/s000.json", "--ledger", "shards/s000/ledger.json", "--settings", token(SETTINGS)]
    controller.is_deaf = True
    with pytest.raises(EnvironmentError, match="left job 7_0, and scancel does not take it"):
        cli._execute("generate", words, "logs/generate/s000.log")
    assert path.exists()
    assert not begun
    controller.is_deaf = False
    cli._execute("generate", words, "logs/generate/s000.log")
    assert (controller.cancelled, len(begun)) == (["7_0"], 1)
    assert queue().holders() == set()
    assert not path.exists()


def test_ctrl_c_while_the_queue_is_asked_cancels_what_was_stored(
    controller: Controller, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored("slurm")

    def interrupted(ids: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "queued", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            crew_of().work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert controller.cancelled == ["7_0"]
    assert not path.exists()


def test_a_job_that_kept_something_before_it_ended_was_not_in_vain(controller: Controller) -> None:
    """Preempted again and again, a training that saves each time is started without end."""
    folder = Path("logs/train")
    crew = Crew(TASK, LaunchSettings(cluster="slurm"), folder, OneJob(folder))
    for number in range(1, 6):
        crew.replenish()
        assert len(controller.submitted) == number
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        (folder / "workers" / heartbeat.KEPT).touch()
        controller.states.clear()
        for _ in range(2):
            crew.look()
        assert crew.vain == 0


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The signals, and what waits for a safe point, are as before afterwards."""
    monkeypatch.setattr(heartbeat, "_leave", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.usefixtures("unasked")
def test_sigterm_lets_a_task_with_safe_points_save() -> None:
    heartbeat.end_softly()
    with heartbeat.safe_points():
        os.kill(os.getpid(), signal.SIGTERM)
        assert heartbeat.is_asked()
        assert signal.alarm(0) == 0
        with pytest.raises(SystemExit) as left:
            heartbeat.leave_if_asked()
    assert left.value.code == 143


@pytest.mark.usefixtures("unasked")
def test_the_signal_to_checkpoint_goes_before_sigterm() -> None:
    asked: list[str] = []
    heartbeat.end_softly()
    with heartbeat.safe_points():
        os.kill(os.getpid(), signal.SIGTERM)
        heartbeat.ask_to_leave(lambda: asked.append("queue again"))
        os.kill(os.getpid(), signal.SIGTERM)
        heartbeat.leave_if_asked()
    assert asked == ["queue again"]
