"""A night on a cluster: a real SLURM on loopback, and what may happen to a shard's workers there.

Most tests call the rule's step itself, with trivial rows, as the waiting run does; the others run the whole workflow.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import NODES, Cluster
from conftest import ROOT, Workshop

from linker import cli, crew
from linker.config import GenerateSettings, LaunchSettings, token
from linker.heartbeat import read_workers
from linker.records import read_json, write_json
from linker.rows import Queue

SETTINGS = GenerateSettings()
WORKER = {"cluster": "slurm", "gpus": 1, "cpus": 1, "memory_gb": 1}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def ended(head: subprocess.Popen[str], results: Path) -> str:
    """What the process said, once it has ended: it may take its time while anything is written of what it waits for."""
    seen = -1
    while True:
        try:
            return head.communicate(timeout=120)[1]
        except subprocess.TimeoutExpired:
            before, seen = seen, sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
            assert seen != before, "nothing was written for two minutes"


class Shard:
    """A results folder with one shard of trivial rows, whose windows are text, and the run that waits for it."""

    def __init__(self, workshop: Workshop, cluster: Cluster) -> None:
        self.workshop, self.cluster, self.results = workshop, cluster, workshop.results
        self.heads: list[subprocess.Popen[str]] = []

    def rows(self, count: int, **changes: dict[str, Any]) -> None:
        for name, text in {"face": "face", "masks": "masks", "driver": "driver"}.items():
            (self.results / name).parent.mkdir(exist_ok=True)
            (self.results / name).write_text(text)
        for name in ("crop", "loudness"):
            write_json(self.results / name, {"refusal": None, "duration_s": 1.0})
        files = {name: name for name in ("face", "masks", "driver", "crop", "loudness")}
        fixed = {**files, "scales": [1, 1, 1], "ranges": [1, 1, 1], "preset": "draft"}
        rows = [{"clip": f"r{number:02}", "seed": number, **fixed} for number in range(count)]
        rows = [{**row, **changes.get(row["clip"], {})} for row in rows]
        write_json(self.results / "shards" / "s000.json", {"shard": "s000", "rows": rows})

    def head(self, workers: int, time_min: int = 60, **environment: str) -> subprocess.Popen[str]:
        """Start the rule's step, as Snakemake does."""
        words = ["generate", "--log", "logs/generate/s000.log", "--shard", "shards/s000.json"]
        words += ["--ledger", "shards/s000/ledger.json", "--settings", token(SETTINGS)]
        launch = token(LaunchSettings(workers=workers, time_min=time_min, **WORKER))
        env = {**self.workshop.environment(), **self.cluster.environment(), "LINKER_LAUNCH": launch, **environment}
        env["PYTHONPATH"] = str(self.workshop.root)
        head = subprocess.Popen(
            self.workshop.words(*words), cwd=self.results, env=env, text=True, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.heads.append(head)
        return head

    def run(self, workers: int, **more: Any) -> tuple[int, str]:
        """Run the step to its end; its exit code and what it said."""
        head = self.head(workers, **more)
        told = ended(head, self.results)
        return head.returncode, told + self.log()

    def end(self) -> None:
        for head in self.heads:
            head.kill()
            head.wait()

    def log(self) -> str:
        return (self.results / "logs" / "generate" / "s000.log").read_text()

    def entries(self) -> dict[str, dict[str, Any]]:
        return dict(read_json(self.results / "shards" / "s000" / "ledger.json")["rows"])

    def frames(self) -> dict[str, str]:
        """What every delivered row is made of."""
        entries = self.entries()
        return {clip: (self.results / e["video"]).read_text() for clip, e in entries.items() if e["state"] == "done"}

    def windows(self) -> list[str]:
        """'r03 2' for every window that was made, in order, again for every time."""
        path = self.results / "shards" / "s000" / "windows"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shard(workshop: Workshop, cluster: Cluster) -> Iterator[Shard]:
    made = Shard(workshop, cluster)
    made.results.mkdir()
    yield made
    made.end()


def test_rows_are_pulled_by_all_workers_and_the_job_says_so(shard: Shard) -> None:
    shard.rows(24)
    code, told = shard.run(3, TRIVIAL_S="0.1")
    assert code == 0, told
    entries = shard.entries()
    assert [entry["state"] for entry in entries.values()] == ["done"] * 24
    assert {entry["node"] for entry in entries.values()} == set(NODES)
    assert len({entry["job"] for entry in entries.values()}) == 3
    assert len(shard.windows()) == len(set(shard.windows())) == 72
    assert shard.cluster.submissions() == 1
    assert shard.cluster.queue() == []
    assert "submitted slurm job" in told


def test_24_rows_over_3_workers_are_the_frames_of_a_local_run(cluster: Cluster, tmp_path: Path) -> None:
    """The real model at tiny size, loaded by three workers on two nodes, and by this process."""
    from test_generate import Folder
    from tiny import write_tiny

    from linker.generate import generate

    weights = write_tiny(tmp_path / "weights")
    settings = GenerateSettings(weights=str(weights), preset="draft", dtype="float32")
    folders = [Folder(tmp_path / name) for name in ("cluster", "local")]
    for folder in folders:
        folder.rows(*({"clip": f"r{number:02}", "seed": number} for number in range(24)))
    words = ["generate", "--shard", "shards/s000.json", "--ledger", "shards/s000/ledger.json"]
    env = {**cluster.environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["LINKER_LAUNCH"] = token(LaunchSettings(workers=3, **WORKER))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "linker.cli", *words, "--settings", token(settings)],
        cwd=folders[0].root, env=env, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    generate(shard=folders[1].listing, ledger=folders[1].ledger, settings=settings)
    made, local = (read_json(folder.ledger)["rows"] for folder in folders)
    assert made.keys() == local.keys()
    assert {entry["node"] for entry in made.values()} == set(NODES)
    for clip in made:
        assert folders[0].digest(made[clip]) == folders[1].digest(local[clip])


def test_no_job_is_submitted_where_nothing_is_left(shard: Shard) -> None:
    shard.rows(2, r01={"crop": "bad"})
    write_json(shard.results / "bad", {"refusal": {"kind": "no_face", "reason": "found no face", "step": "crop_face"}})
    assert shard.run(2)[0] == 0
    assert shard.entries()["r01"]["refusal"]["kind"] == "no_face"
    submitted = shard.cluster.submissions()
    assert shard.run(2)[0] == 0
    shard.rows(1)
    assert shard.run(2)[0] == 0
    assert shard.cluster.submissions() == submitted
    shard.rows(2, r01={"seed": 9})
    assert shard.run(2)[0] == 0
    assert shard.cluster.submissions() == submitted + 1
    assert [line.split()[0] for line in shard.windows()] == ["r00"] * 3 + ["r01"] * 3


def undisturbed(shard: Shard) -> dict[str, str]:
    """What the rows' clips are without workers, jobs and accidents."""
    rows = read_json(shard.results / "shards" / "s000.json")["rows"]
    return {row["clip"]: f"{json.dumps([row, 'face', 'driver', None])}\n" * 3 for row in rows}


def test_what_accounting_alone_knows_is_told(workshop: Workshop, accounting: Cluster) -> None:
    """With slurmdbd: a lost node, whose job it then lists twice; a worker killed, and another while accounting hangs;
    an outside scancel. Each is told within a minute as what it is; a rerun delivers."""
    shard = Shard(workshop, accounting)
    shard.results.mkdir()
    shard.rows(4)
    head, cut_off = shard.head(2, TRIVIAL_S="600"), set[int]()

    def workers() -> dict[int, dict[str, Any]]:
        signs, living = read_workers(shard.results / "shards" / "s000" / "workers"), accounting.workers()
        return {sign["pid"]: sign for sign in signs.values() if sign["pid"] in living and sign["pid"] not in cut_off}

    def told_after_kill() -> str:
        wait_for(lambda: len(workers()) == 2)
        pid, sign = max(workers().items())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: f"job {sign['job']} ended" in shard.log())
        return shard.log().rpartition(f"job {sign['job']} ended without a result: ")[2]

    try:
        wait_for(lambda: len(workers()) == 2)
        lost = next(iter(workers().values()))
        accounting.cut_off(lost["node"])
        accounting.ask("scontrol", "update", f"nodename={lost['node']}", "state=down", "reason=test")
        cut_off.update(pid for pid, sign in workers().items() if sign["node"] == lost["node"])  # they live on
        wait_for(lambda: len(workers()) == 2)
        records = accounting.ask("sacct", "-n", "-X", "-D", "-o", "State", "-j", lost["job"])
        assert records.split() == ["NODE_FAIL", "RUNNING"]
        assert told_after_kill().startswith("FAILED (9:0) on ")
        accounting.daemons["slurmdbd"].send_signal(signal.SIGSTOP)
        assert told_after_kill().startswith("UNKNOWN: ")
        accounting.daemons["slurmdbd"].send_signal(signal.SIGCONT)
        wait_for(lambda: len(workers()) == 2)
        accounting.ask("scancel", *(sign["job"] for sign in workers().values()))
        _, told = head.communicate(timeout=60)
        assert head.returncode == 3
        assert re.search(r"was cancelled from outside \(CANCELLED \(by \d+\) on g[12]\)", told)
        assert shard.run(2)[0] == 0
        assert shard.frames() == undisturbed(shard)
    finally:
        accounting.daemons["slurmdbd"].send_signal(signal.SIGCONT)
        shard.end()


@pytest.mark.parametrize("victim", ["worker", "node", "head"])
def test_killed_at_a_random_moment_and_run_again(shard: Shard, victim: str) -> None:
    """Same frames; nothing is made twice but the window that was being made; nothing is left in the queue."""
    shard.rows(8)
    head = shard.head(3, TRIVIAL_S="1.2")
    wait_for(lambda: len(shard.windows()) >= 3)
    time.sleep(random.random())
    if victim == "worker":
        os.kill(random.choice(shard.cluster.workers()), signal.SIGKILL)
    elif victim == "node":
        shard.cluster.cut_off("g1")
        shard.cluster.ask("scontrol", "update", "nodename=g1", "state=down", "reason=test")
    else:
        head.kill()
        time.sleep(1)
        submitted, head = shard.cluster.submissions(), shard.head(3, TRIVIAL_S="1.2")
    _, told = head.communicate(timeout=120)
    assert head.returncode == 0, told + shard.log()
    assert shard.frames() == undisturbed(shard)
    assert len(shard.windows()) - len(set(shard.windows())) <= 3
    assert shard.cluster.queue() == []
    if victim == "head":
        assert "attached to slurm job" in shard.log()
        assert shard.cluster.submissions() == submitted
    if victim == "node":
        assert shard.cluster.submissions() == 1 or "NODE_FAIL" in shard.log(), shard.log()


def test_a_worker_that_is_silent_loses_its_row_and_cannot_publish_it(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stopped like a process on a node that nobody reaches; when it goes on, its successor has long been done."""
    shard.rows(2)
    for name, value in {**shard.cluster.environment(), "PYTHONPATH": str(shard.workshop.root)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIVIAL_S", "3")
    monkeypatch.chdir(shard.results)
    monkeypatch.setattr(crew, "ASK_S", 0.5)
    monkeypatch.setattr(crew, "SILENT", 14)
    monkeypatch.setattr(crew, "_cancel", lambda jobs: True)  # a node out of reach
    stopped: list[int] = []
    listen = crew.Crew._listen

    def stopping(self: crew.Crew, *seen: Any) -> None:
        listen(self, *seen)
        if not stopped and len(shard.windows()) >= 2:
            stopped.extend(shard.cluster.workers()[:1])
            os.kill(stopped[0], signal.SIGSTOP)

    monkeypatch.setattr(crew.Crew, "_listen", stopping)
    words = ["--shard", "shards/s000.json", "--ledger", "shards/s000/ledger.json", "--settings", token(SETTINGS)]
    task = partial(cli.perform, "generate", words)
    queue = Queue(Path("shards/s000.json"), Path("shards/s000/ledger.json"), SETTINGS)
    crew.launch_shard(task, LaunchSettings(workers=2, **WORKER), Path("logs/generate/s000"), queue)
    before = shard.frames()
    assert before == undisturbed(shard)
    assert "no sign of life" in capfd.readouterr().err
    os.kill(stopped[0], signal.SIGCONT)
    wait_for(lambda: not shard.cluster.workers(), 20)
    assert shard.frames() == before
    errors = "".join(path.read_text() for path in shard.results.glob("logs/generate/s000/*.err"))
    assert "given to another worker" in errors


TRAINING = """
import sys
from functools import partial
from pathlib import Path
from trivial_training import train
from linker.config import LaunchSettings
from linker.crew import launch_job

settings = LaunchSettings(cluster="slurm", gpus=1, nodes=2, cpus=1, memory_gb=1, time_min=int(sys.argv[1]))
task = partial(train, folder=Path("training"), step_s=float(sys.argv[2]), again_s=float(sys.argv[3]))
launch_job(task, settings, Path("logs/training"), spread=True)
"""


def start_training(shard: Shard, time_min: int, step_s: float, again_s: float) -> subprocess.Popen[str]:
    """A training job, shared by two nodes, and what waits for it, in the shard's results folder."""
    env = {**shard.cluster.environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    words = [sys.executable, "-c", TRAINING, *map(str, (time_min, step_s, again_s))]
    return subprocess.Popen(words, cwd=shard.results, env=env, stderr=subprocess.PIPE, text=True)


def both_went_on(shard: Shard, training: subprocess.Popen[str], again: int) -> str:
    """Same frames, equal weights; windows are made once, but for the one that was being made, draws but for `again`.
    What was said of the training."""
    import torch
    from trivial_training import STEPS, train, weights_of

    told = ended(training, shard.results)
    assert training.returncode == 0, told
    assert shard.frames() == undisturbed(shard)
    assert len(shard.windows()) - len(set(shard.windows())) <= 1
    for step in ("generate", "training"):
        assert any("Requeued job" in path.read_text() for path in shard.results.glob(f"logs/{step}/**/*_log.out"))
    train(shard.workshop.media, step_s=0, accumulate=2)
    torch.testing.assert_close(weights_of(shard.results / "training"), weights_of(shard.workshop.media))
    draws = (shard.results / "training" / "draws").read_text().split()
    assert set(map(int, draws)) == set(range(2 * STEPS))
    assert len(draws) - 2 * STEPS <= again
    return told


def test_a_time_limit_in_mid_row_and_in_mid_training(shard: Shard) -> None:
    """Both are queued again by themselves and go on. Their first starts are too long for any limit, the others take no
    time; SLURM leaves each a minute at least, for a slow machine to load torch in."""
    shard.rows(8)
    with start_training(shard, 2, 1.0, again_s=0) as training:
        code, told = shard.run(1, time_min=2, TRIVIAL_S="24", TRIVIAL_AGAIN_S="0")
        assert code == 0, told
        both_went_on(shard, training, again=0)
    assert shard.cluster.submissions() == 2


def test_preempted_in_mid_row_and_in_mid_training(shard: Shard) -> None:
    """Another partition's job takes the GPUs away; both are queued again and go on when it has ended."""
    shard.rows(6)
    with start_training(shard, 60, 0.05, again_s=0.05) as training:
        wait_for((shard.results / "training" / "draws").exists, 120)
        shard.cluster.preempt(1)
        head = shard.head(1, TRIVIAL_S="3")
        wait_for(lambda: shard.windows(), 120)
        shard.cluster.preempt(1)
        _, told = head.communicate(timeout=120)
        assert head.returncode == 0, told + shard.log()
        told = both_went_on(shard, training, again=2)  # a step that one of the nodes had not finished
    # The row's, the training's, and twice what took their places; one more where the second preemption met the training
    # while its interpreter was starting: then it dies of the signal, and a new job goes on.
    assert shard.cluster.submissions() in (4, 5), told


def test_an_outside_scancel_is_told_as_what_it_is(shard: Shard) -> None:
    shard.rows(2)
    head = shard.head(1, TRIVIAL_S="30")
    wait_for(lambda: shard.cluster.workers())
    began = time.monotonic()
    shard.cluster.ask("scancel", shard.cluster.queue()[0].split()[0])
    _, told = head.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert head.returncode == 3
    assert "was cancelled from outside (CANCELLED" in told
    assert shard.run(1)[0] == 0
    assert shard.frames() == undisturbed(shard)


def test_a_refusing_controller_is_asked_again_and_a_wrong_partition_is_not(shard: Shard) -> None:
    """Each refusal hides an acceptance, which is cancelled before the next try."""
    shard.rows(2)
    shard.cluster.refuse(3)
    code, told = shard.run(1, TRIVIAL_S="3")
    assert code == 0, told
    assert shard.frames() == undisturbed(shard)
    assert shard.cluster.queue() == []
    assert told.count("slurm does not accept the job") == 3
    assert "Socket timed out" in told
    shard.rows(3)
    nowhere = token(LaunchSettings(partition="nowhere", **WORKER))
    code, told = shard.run(1, LINKER_LAUNCH=nowhere)
    assert code == 3
    assert "invalid partition specified: nowhere" in told
    assert "correct slurm/settings.yaml" in told
    assert shard.cluster.queue() == []


def test_a_poison_row_is_refused_and_its_neighbours_are_delivered(shard: Shard) -> None:
    shard.rows(30)
    code, told = shard.run(3, TRIVIAL_S="0.05", TRIVIAL_FAULT="r05:kill")
    assert code == 0, told
    entries = shard.entries()
    assert sorted(shard.frames()) == sorted(entries.keys() - {"r05"})
    refusal = entries["r05"]["refusal"]
    assert (refusal["kind"], refusal["step"]) == ("crashed", "generate")
    assert "its worker died: FAILED" in refusal["reason"]
    assert "(3 starts in vain)" in refusal["reason"]
    assert "r05 refused" in told


@pytest.mark.parametrize(("fault", "kind"), [("cuda", ""), ("memory", "out_of_memory"), ("bug", "crashed")])
def test_failures_are_met_by_their_kind(shard: Shard, fault: str, kind: str) -> None:
    """A broken worker is replaced; a row that fits nowhere is refused at once, one that fails after three tries."""
    shard.rows(4)
    code, told = shard.run(1, TRIVIAL_FAULT=f"r02:{fault}")
    assert code == 0, told
    refused = {clip: entry["refusal"]["kind"] for clip, entry in shard.entries().items() if entry["refusal"]}
    assert refused == ({"r02": kind} if kind else {})
    assert shard.cluster.submissions() == (2 if fault == "cuda" else 1)
    if fault == "bug":
        assert "ValueError: the masks make no sense" in shard.entries()["r02"]["refusal"]["reason"]


def test_sigterm_ends_after_the_rows_that_are_being_made(shard: Shard) -> None:
    shard.rows(6)
    head = shard.head(2, TRIVIAL_S="8")
    wait_for(lambda: len({window.split()[0] for window in shard.windows()}) == 2)  # a row of each worker
    (shard.results / ".linker").mkdir()
    (shard.results / ".linker" / "drain").touch()  # what `run` does on SIGTERM
    _, told = head.communicate(timeout=60)
    assert head.returncode == 3
    assert "ended on request with 4 rows left" in told
    (shard.results / ".linker" / "drain").unlink()
    assert shard.run(2)[0] == 0
    assert shard.frames() == undisturbed(shard)
    assert len(shard.windows()) == 18


def test_retry_makes_the_chosen_refused_rows_again(workshop: Workshop, cluster: Cluster) -> None:
    """A row that fitted nowhere is refused; `retry` of its kind makes it, alone, in a job of its own."""
    for name in ("p.png", "s.wav"):
        workshop.file(name, name)
    manifest = workshop.manifest("r0,p.png,s.wav,", "r1,p.png,s.wav,")
    words = [manifest, "--results", workshop.results, "--profile", "slurm", "--set", "launch.workers=1"]
    words += [word for key in ("gpus", "cpus", "memory_gb") for word in ("--set", f"launch.{key}=1")]
    env = {**cluster.environment(), "PYTHONPATH": str(workshop.root)}
    first = workshop.call("run", *words, **env, TRIVIAL_FAULT="r1:memory")
    assert first.returncode == 4, first.stderr
    assert "r1: generate: does not fit into memory alone" in first.stderr
    assert cluster.submissions() == 1
    before = tree(workshop.results / "videos")
    again = workshop.call("retry", *words, "--kind", "out_of_memory", **env)
    assert again.returncode == 0, again.stderr
    assert "retrying 1 refused rows" in again.stdout
    assert cluster.submissions() == 2
    assert workshop.made() == ["r0", "r1"]
    assert "r1: generate" not in again.stderr
    after = tree(workshop.results / "videos")
    assert after.keys() - before.keys() == {"r1.mp4", "r1.json"}
    assert {name: after[name] for name in before} == before
    assert cluster.queue() == []


def tree(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change; Snakemake's own notes left aside."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not {".linker", ".snakemake"} & set(path.parts))
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in kept}


def test_a_run_from_ctrl_c_to_a_changed_row(workshop: Workshop, cluster: Cluster) -> None:
    """A second head is refused; Ctrl-C cancels once and says so; the next run is killed, and its jobs make what
    the rerun finishes; another does nothing; then one row is changed and redone alone. The videos are a local run's."""
    for name in ("p.png", "q.png", "s.wav"):
        workshop.file(name, name)
    lines = [f"r{number},{'pq'[number % 2]}.png,s.wav," for number in range(3)]
    manifest = workshop.manifest(*lines)
    profile = ["--profile", "slurm", "--set", "launch.workers=2", "--set", "generate.shards=1"]
    profile += [word for key in ("gpus", "cpus", "memory_gb") for word in ("--set", f"launch.{key}=1")]
    words = workshop.words("run", manifest, "--results", workshop.results, *profile)
    env = {**workshop.environment(), **cluster.environment(), "PYTHONPATH": str(workshop.root)}

    def run() -> str:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def started(seconds: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words, env={**env, "TRIVIAL_S": str(seconds)}, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    with started(60) as head:
        wait_for(lambda: len(cluster.workers()) == 2)
        second = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert second.returncode == 3
        assert f"in use by process {head.pid}" in second.stderr
        os.killpg(head.pid, signal.SIGINT)
        wait_for(lambda: not cluster.queue(), 10)
        _, told = head.communicate(timeout=30)
    assert head.returncode == 130
    assert told.count("cancelled slurm job") == 1, told
    with started(6) as head:
        wait_for(lambda: len(cluster.workers()) == 2)
        head.kill()
    submitted = cluster.submissions()
    run()
    assert cluster.submissions() == submitted
    assert sorted(workshop.made()) == ["r0", "r1", "r2"]
    local = workshop.call("run", manifest, "--results", workshop.media / "local", "--cores", 2)
    assert local.returncode == 0
    videos = {path.name: path.read_text() for path in workshop.results.glob("videos/*.mp4")}
    assert videos == {path.name: path.read_text() for path in workshop.media.glob("local/videos/*.mp4")}
    submitted, before = cluster.submissions(), tree(workshop.results)
    run()
    assert (cluster.submissions(), tree(workshop.results)) == (submitted, before)
    workshop.manifest(lines[0], "r1,q.png,s.wav,0.5", lines[2])
    run()
    assert cluster.submissions() == submitted + 1
    after = tree(workshop.results / "videos")
    assert {name for name in after if after[name] != before[f"videos/{name}"]} == {"r1.mp4", "r1.json"}


@pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="CPU steps are submitted by a plugin: pip install -r workflow/requirements/slurm.txt",
)
def test_footage_is_curated_by_jobs_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    """With the lines of slurm/profile.yaml that submit CPU steps: three jobs a video, and the verdicts of any run."""
    from test_curate import OTHER, SEED, draw_footage, plant, save

    raw, profile = tmp_path / "raw", tmp_path / "slurm"
    raw.mkdir()
    own, other = draw_footage(SEED, 256), draw_footage(OTHER, 256)
    save(own, raw / "clean.mp4")
    save(plant("hard_cut", own, other, 0.8, 5), raw / "cut.mp4")
    (raw / "text.mp4").write_text("this is no video")
    shutil.copytree(ROOT / "slurm", profile)
    told = (profile / "profile.yaml").read_text()
    submitting = re.sub(r"^# (?=executor:|slurm-[a-z-]+:|retries:)", "", told, flags=re.MULTILINE)
    assert submitting.count("\n# ") == told.count("\n# ") - 5
    (profile / "profile.yaml").write_text(f"{submitting}slurm-init-seconds-before-status-checks: 1\n")
    words = ["curate", raw, "--results", tmp_path / "out", "--profile", profile]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "linker.cli", *map(str, words)], capture_output=True, text=True, check=False,
        env={**cluster.environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cluster.submissions() == 9  # measured, judged and cut, each by itself
    assert cluster.queue() == []
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    kept = {name: all(verdict["kept"] for verdict in verdicts if verdict["video"].startswith(name))
            for name in ("clean", "cut", "text")}  # fmt: skip
    assert kept == {"clean": True, "cut": False, "text": False}


@pytest.mark.skipif(os.getuid() != 0, reason="a full disk and a read-only one are mounted, which takes root")
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_is_told_and_a_rerun_finishes(shard: Shard, fault: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", shard.results], check=True)
    try:
        shard.rows(4)
        if fault == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", shard.results], check=True)
            shard.workshop.file("p.png"), shard.workshop.file("s.wav")
            whole = shard.workshop.run(shard.workshop.manifest("r0,p.png,s.wav,"))
            assert (whole.returncode, whole.stderr.count("\n")) == (3, 1)
            assert re.fullmatch(
                r"error: .*Read-only file system; make room or allow writing, and run again\n", whole.stderr
            )
        head = shard.head(2, TRIVIAL_S="3")
        if fault == "full":
            wait_for(lambda: len(shard.windows()) >= 2)
            with suppress(OSError), (shard.results / "filler").open("wb", buffering=0) as stream:
                while stream.write(b"\0" * 4096):
                    pass
        _, told = head.communicate(timeout=90)
        assert head.returncode == 3, told
        assert len([line for line in told.splitlines() if line.startswith("error: ")]) == 1
        assert ("No space left" if fault == "full" else "Read-only file system") in told
        wait_for(lambda: not shard.cluster.queue())
        (shard.results / "filler").unlink(missing_ok=True) if fault == "full" else subprocess.run(
            ["mount", "-o", "remount,rw", shard.results], check=True
        )
        code, told = shard.run(2)
        assert code == 0, told
        assert shard.frames() == undisturbed(shard)
    finally:
        shard.end()
        shard.cluster.clear()
        subprocess.run(["umount", "--lazy", shard.results], check=True)
