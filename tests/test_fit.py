"""The training loop: what it guards against, what it keeps and tells, and that many processes make the steps of one."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stage_of_two import train
from tiny import write_encoded
from torch import Tensor, nn

from linker.config import LaunchSettings, TrainSettings
from linker.crew import launch_job
from linker.errors import Diverged, EnvironmentError
from linker.records import sha256_file
from linker.train.ahead import Ahead
from linker.train.curves import draw_curves, kinds_of
from linker.train.fit import ANEW, ENOUGH, Plan, Run, fit, leave_together, parameter_groups, usable
from linker.train.journal import Journal, Tally, read_metrics
from linker.train.ranks import Ranks, cores
from linker.train.record import part_of, write_record

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    return write_encoded(tmp_path / "encoded", 2)


def assert_close(one: Path, other: Path) -> None:
    found, wanted = (torch.load(path, weights_only=True) for path in (one, other))
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5, msg=name)


def test_two_processes_make_the_steps_of_one_with_twice_the_batch(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stage is launched: one local job, a process a GPU (none of these exists, so they compute on the CPU)."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "none,neither")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    task, settings = (
        partial(train, encoded, tmp_path / "two", batch=1),
        LaunchSettings(cluster="local", gpus=1, workers=2),
    )
    launch_job(task, settings, tmp_path / "jobs", spread=True)
    whole = train(encoded, tmp_path / "one", batch=2)
    assert_close(tmp_path / "two" / "weights.pt", whole)
    one, two = read_metrics(tmp_path / "one")[-1], read_metrics(tmp_path / "two")[-1]
    for name in ("loss", "grad_norm", "region/mouth", "alpha/mouth", "gate/eyes"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    assert json.loads((tmp_path / "two" / "machine.json").read_text())["processes"] == 2


def test_accumulated_and_recomputed_gradients_are_the_same(encoded: Path, tmp_path: Path) -> None:
    whole = train(encoded, tmp_path / "whole", batch=2)
    assert_close(train(encoded, tmp_path / "parts", batch=1, accumulate=2, checkpointing=True), whole)


class Line(nn.Module):
    """One number that learns to be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.ones(1))


def test_a_killed_training_with_all_settings_ends_like_one_that_was_not(tmp_path: Path) -> None:
    plan = Plan(steps=9, learning_rate=0.05, warmup=3, save_every=4, log_every=3, accumulate=3, spike=5.0)

    def run(folder: Path, kill_at: int = -1) -> tuple[Tensor, list[dict[str, float]]]:
        line = Line()

        def loss(number: int) -> tuple[Tensor, dict[str, float]]:
            if number == kill_at:
                raise KeyboardInterrupt
            there = torch.randn((), generator=torch.Generator().manual_seed(number))
            return (line.at - 0.1 * there).square().mean(), {"odd": float(number)} if number % 2 else {}

        fit(line, loss, plan, folder)
        timed = ("step_s", "hours")
        return line.at.detach(), [
            {name: value for name, value in told.items() if name not in timed} for told in read_metrics(folder)
        ]

    whole, lines = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", kill_at=20)
    assert read_metrics(tmp_path / "killed")[-1]["step"] == 6  # a line after the saved state, which is told anew
    resumed, again = run(tmp_path / "killed")
    assert torch.equal(whole, resumed)
    assert again == lines
    assert [line["step"] for line in lines] == [3, 6, 9]
    assert lines[0]["odd"] == np.mean([1, 3, 5, 7])


def test_a_spike_stops_before_it_is_learnt_and_names_its_batch(tmp_path: Path) -> None:
    line, plan = Line(), Plan(steps=ENOUGH + 20, learning_rate=1e-6, save_every=10, spike=4.0)
    bad = ENOUGH + 5

    def loss(number: int) -> tuple[Tensor, dict[str, float]]:
        return line.at.square().mean() * (100 if number == bad else 1), {}

    told = rf"^diverged: loss is 100 at step {bad}: the median of .*; its batch: anna-{bad}; the last good state is "
    do = rf"state\.pt; run again with a higher train\.spike to go on from there; {ANEW}$"
    with pytest.raises(Diverged, match=f"{told}.*{do}"):
        fit(line, loss, plan, tmp_path, lambda number: [f"anna-{number}"])
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == ENOUGH
    before = line.at.detach().clone()
    assert before == pytest.approx(1.0, abs=1e-3)
    fit(line, loss, replace(plan, spike=200.0), tmp_path)  # as the message says
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == plan.steps


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    line = Line()

    def loss(number: int) -> tuple[Tensor, dict[str, float]]:
        return (line.at - 1).abs().sqrt().sum() + 1, {}  # finite where its slope is not

    with pytest.raises(Diverged, match=f"its gradient is not finite; no state was saved yet; {ANEW}$"):
        fit(line, loss, Plan(steps=3, learning_rate=0.1), tmp_path)
    assert line.at.item() == 1.0


def test_a_state_of_other_data_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def loss_of(line: Line):
        return lambda number: (line.at.square().mean(), {})

    plan, first, second = Plan(steps=5, learning_rate=0.1, warmup=1), Line(), Line()
    fit(first, loss_of(first), plan, tmp_path, data="a")
    finished = (tmp_path / "state.pt").read_bytes()
    fit(second, loss_of(second), plan, tmp_path, data="b")
    assert "of other data or settings; starting anew, it is kept as state.before.pt" in capsys.readouterr().err
    assert (tmp_path / "state.before.pt").read_bytes() == finished
    assert torch.equal(first.at, second.at)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5]


@pytest.mark.parametrize("broken", ["cut", "empty", "other file", "renamed", "regrouped"])
def test_a_state_that_cannot_be_used_is_named_with_what_to_do(tmp_path: Path, broken: str) -> None:
    line, path = Line(), tmp_path / "state.pt"
    plan = Plan(steps=2, learning_rate=0.1)
    fit(line, lambda number: (line.at.square().mean(), {}), plan, tmp_path)
    whole, state = path.read_bytes(), torch.load(path, weights_only=True)
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "other file": b"weights"}
    if broken in contents:
        path.write_bytes(contents[broken])
    elif broken == "renamed":
        torch.save(state | {"model": {"was": state["model"]["at"]}}, path)
    else:
        torch.save(state | {"optimizer": torch.optim.AdamW(line.parameters()).state_dict()}, path)
    told = r"state\.pt: cannot be continued \(\w+(: .+)?\); delete it to begin this part anew$"
    with pytest.raises(EnvironmentError, match=told):
        fit(line, lambda number: (line.at.square().mean(), {}), plan, tmp_path)


def test_a_state_is_not_blamed_for_a_lack_of_memory(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError), usable(tmp_path / "state.pt"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_state_is_on_the_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, synced = Line(), list[tuple[int, bool]]()

    def fsync(number: int) -> None:
        synced.append((os.fstat(number).st_size, (tmp_path / "state.pt").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    fit(line, lambda number: (line.at.square().mean(), {}), Plan(steps=2, learning_rate=0.1), tmp_path)
    assert synced == [((tmp_path / "state.pt").stat().st_size, False)]


def test_fewer_steps_than_were_made_are_refused(tmp_path: Path) -> None:
    """What was trained for longer would be taken for what was asked for."""
    line = Line()

    def run(steps: int, data: str = "") -> None:
        fit(line, lambda number: (line.at.square().mean(), {}), Plan(steps, learning_rate=0.1), tmp_path, data=data)

    run(5)
    with pytest.raises(EnvironmentError, match=r"state\.pt: found step 5, needed at most 4, the steps asked for; ask "):
        run(4)
    for steps, data in ((5, ""), (6, ""), (4, "other")):
        run(steps, data)
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == steps


def test_a_run_goes_on_with_the_next_draw_however_many_made_the_steps_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, seen = Line(), list[int]()

    def loss(number: int) -> tuple[Tensor, dict[str, float]]:
        seen.append(number)
        return line.at.square().mean(), {}

    fit(line, loss, Plan(steps=2, learning_rate=0.1, accumulate=3), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(state | {"processes": 3}, tmp_path / "state.pt")
    fit(line, loss, Plan(steps=4, learning_rate=0.1), tmp_path)
    assert seen == list(range(8))
    assert "state.pt: made by 3 processes, goes on with 1: " in capsys.readouterr().err
    older = {name: value for name, value in state.items() if name not in ("draws", "processes")}
    torch.save(older, tmp_path / "state.pt")
    fit(line, loss, Plan(steps=3, learning_rate=0.1, accumulate=3), tmp_path)
    assert seen[8:] == [6, 7, 8]
    assert not capsys.readouterr().err.count("processes")


def test_samples_are_shown_by_the_averaged_weights(tmp_path: Path) -> None:
    line, seen = Line(), []

    def show(step: int, journal: Journal) -> None:
        seen.append((step, line.at.item()))

    def loss(number: int) -> tuple[Tensor, dict[str, float]]:
        return line.at.square().mean(), {}

    fit(line, loss, Plan(steps=5, learning_rate=0.1, warmup=1, show_every=2), tmp_path, show=show)
    assert [step for step, _ in seen] == [2, 4, 5]
    assert line.at.item() == seen[-1][1]


def test_tallies_are_means_of_what_was_measured() -> None:
    one, two = Tally(), Tally()
    one.add({"a": 1.0, "b": 5.0})
    one.add({"a": 2.0})
    two.add({"a": 6.0})
    assert Tally.together([one.sums, two.sums]).means() == {"a": 3.0, "b": 5.0}


def test_processes_of_a_job_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted has what its job has; elsewhere the workflow says how many a rule may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores() == 3
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    assert cores() == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cores() == 8


def test_draws_are_made_ahead_and_in_any_order() -> None:
    made: list[int] = []
    with Ahead(lambda number: made.append(number) or number * 10, stride=2, threads=1) as ahead:
        assert [ahead(0), ahead(2), ahead(7), ahead(9)] == [0, 20, 70, 90]
    assert made[:2] == [0, 2]
    assert made.count(2) == 1


def test_as_many_draws_are_made_together_as_there_are_threads() -> None:
    """Each draw waits until three are under way: fewer threads would wait in vain."""
    together = threading.Barrier(3, timeout=20)
    with Ahead(lambda number: together.wait() >= 0 and number, threads=3) as ahead:
        assert [ahead(0), ahead(1), ahead(2)] == [0, 1, 2]
        together.abort()


def test_curves_and_record_tell_what_was_measured(tmp_path: Path) -> None:
    line = Line()
    for name in ("codec", "stage2"):
        parts = {"accuracy": 0.5} if name == "codec" else {"region/mouth": 0.2, "gate/head": 0.9, "alpha/head": 0.1}
        fit(line, lambda number, p=parts: (line.at.square().mean(), p), Plan(3, 0.1, log_every=1), tmp_path / name)
    runs = {name: tmp_path / name for name in ("codec", "speech", "stage2")}
    draw_curves({name: read_metrics(folder) for name, folder in runs.items()}, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    write_record(tmp_path / "record.json", TrainSettings(stage1_steps=7), runs, "0123")
    told = json.loads((tmp_path / "record.json").read_text())
    assert told["settings"]["stage1_steps"] == 7
    assert told["settings"]["learning_rate"] == 6e-4
    assert set(told["parts"]) == {"codec", "stage2"}
    assert told["parts"]["stage2"]["curves"]["region/mouth"] == {"step": [1, 2, 3], "value": [0.2, 0.2, 0.2]}
    assert told["parts"]["stage2"]["versions"]["torch"] == torch.__version__
    assert list((tmp_path / "stage2" / "tensorboard").glob("events.out.tfevents.*"))


def test_every_measure_has_a_kind_of_curve() -> None:
    """The speech encoder's too, and what is of none is not left out without a word."""
    told = {"step": 1, "loss": 2.0, "accuracy": 0.5, "off/open": 1.0, "noise/999": 1.0}
    told |= {"alpha/head": 0.1, "gate/head": 0.9}
    assert kinds_of([told]) == {
        "loss": ["loss"],
        "measured": ["accuracy", "off/open"],
        "gate": ["alpha/head", "gate/head"],
        "noise": ["noise/999"],
    }
    with pytest.raises(ValueError, match="far/open is of no kind"):
        kinds_of([told | {"far/open": 1.0}])


def test_a_record_tells_every_machine_that_took_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that steps were made on, once each; one that only looks at a finished run took none."""
    line, folder = Line(), tmp_path / "stage2"

    def part_on(processor: str, steps: int, data: str = "") -> dict[str, Any]:
        monkeypatch.setattr("linker.train.journal.processor", lambda: processor)
        fit(line, lambda number: (line.at.square().mean(), {}), Plan(steps, 0.1), folder, data=data)
        return part_of(folder)

    alone = part_on("first", 2)
    assert (alone["processor"], "machines" in alone) == ("first", False)
    assert part_on("first", 3).keys() == alone.keys()
    for steps in (4, 4):
        joint = part_on("second", steps)
        assert [each["processor"] for each in joint["machines"]] == ["first", "second"]
    assert joint["processor"] == "second"
    assert joint["machines"][1].items() <= joint.items()
    again = part_on("first", 5)
    assert [each["processor"] for each in again["machines"]] == ["second", "first"]
    assert part_on("third", 5) == again
    assert "machines" not in part_on("third", 5, data="other")


def test_a_record_holds_that_of_the_weights_before(tmp_path: Path) -> None:
    line, start = Line(), tmp_path / "start"
    fit(line, lambda number: (line.at.square().mean(), {}), Plan(1, 0.1), tmp_path / "stage2")
    runs = {"stage2": tmp_path / "stage2"}
    write_record(start / "record.json", TrainSettings(stage2_steps=5), runs, "0123")
    (start / "lingualinker.json").write_text("{}")
    write_record(tmp_path / "record.json", TrainSettings(start=str(start)), runs, "4567")
    told = json.loads((tmp_path / "record.json").read_text())
    assert told["start"] == sha256_file(start / "lingualinker.json")
    assert told["before"] == json.loads((start / "record.json").read_text())
    assert told["before"]["settings"]["stage2_steps"] == 5
    assert told["before"]["before"] is None


def test_a_run_that_is_to_end_saves_and_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next step, however far the next state was; the next run goes on there."""
    monkeypatch.chdir(tmp_path)
    drain, plan = tmp_path / ".linker" / "drain", Plan(steps=9, learning_rate=0.05, save_every=1000)
    drain.parent.mkdir()
    line, seen = Line(), list[int]()

    def loss(number: int) -> tuple[Tensor, dict[str, float]]:
        seen.append(number)
        if number == 4:
            drain.touch()
        return line.at.square().mean(), {}

    with pytest.raises(EnvironmentError, match="ended on request"):
        fit(line, loss, plan, tmp_path / "run")
    drain.unlink()
    fit(line, loss, plan, tmp_path / "run")
    assert seen == list(range(9))


def test_nobody_goes_on_alone_where_all_agreed_to_leave() -> None:
    """The request is taken back after the other processes have left, while the first one saves."""
    first, second, alone = (Ranks(index, count, torch.device("cpu")) for index, count in ((0, 2), (1, 2), (0, 1)))
    with pytest.raises(EnvironmentError, match="ended on request"):
        leave_together(first, asked=True)
    with pytest.raises(SystemExit):
        leave_together(second, asked=True)
    for ranks, asked in ((alone, True), (first, False), (second, False)):
        leave_together(ranks, asked)


def test_gates_learn_faster_and_matrices_alone_decay() -> None:
    net = nn.ModuleDict({"gate": nn.Linear(2, 2), "ff": nn.Linear(2, 2)})
    net["gate"].alpha = nn.Parameter(torch.ones(3))
    net["ff"].bias.requires_grad_(False)
    alpha, matrices, vectors = parameter_groups(net, Plan(steps=1, learning_rate=1.0))
    assert ([id(v) for v in alpha["params"]], alpha["factor"]) == ([id(net["gate"].alpha)], 20.0)
    assert {id(v) for v in matrices["params"]} == {id(net["gate"].weight), id(net["ff"].weight)}
    assert [id(v) for v in vectors["params"]] == [id(net["gate"].bias)]
    assert (alpha["weight_decay"], matrices["weight_decay"], vectors["weight_decay"]) == (0.0, 0.01, 0.0)
    assert matrices["factor"] == vectors["factor"] == 1.0


def test_a_large_gradient_is_clipped_and_the_average_follows(tmp_path: Path) -> None:
    """By hand: AdamW's first step is the rate times the gradient's sign; the average starts at 2 / 11 of the way."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -1.0]])

    def loss(_: int) -> tuple[Tensor, dict[str, float]]:
        return 1000 * (3 * net.weight[0, 0] + 4 * net.weight[0, 1]), {}

    run = Run(net, Plan(steps=1, learning_rate=0.5, warmup=1, weight_decay=0.0), tmp_path, Ranks.join(), "")
    run.advance(loss, None)
    assert net.weight.grad is not None
    torch.testing.assert_close(net.weight.grad, torch.tensor([[0.6, 0.8]]), rtol=1e-4, atol=0)
    torch.testing.assert_close(net.weight.data, torch.tensor([[0.5, -1.5]]), rtol=1e-4, atol=0)
    torch.testing.assert_close(run.average["weight"], net.weight.data.lerp(torch.tensor([[1.0, -1.0]]), 2 / 11))
    run.step = 10**6  # by now the plan's own decay
    before = run.average["weight"].clone()
    run.advance(loss, None)
    torch.testing.assert_close(run.average["weight"], before.lerp(net.weight.data, 1 - 0.999))
