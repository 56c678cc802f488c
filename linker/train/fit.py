"""One optimisation loop for every stage, in one process or many. Draws are numbered, and a draw is a function of its
number, so a killed run resumes exactly."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from linker import heartbeat
from linker.errors import DIVERGED, Diverged, EnvironmentError
from linker.faults import first_line, is_broken, is_out_of_memory
from linker.records import atomic
from linker.train.journal import Journal, Tally, note_machine
from linker.train.ranks import Ranks

STATE, BEFORE = "state.pt", "state.before.pt"  # the latter of other data or settings
RECENT, ENOUGH = 200, 50  # losses whose median a new one is held against, and how many there must be
ANEW = "another learning rate, precision or other videos begin this part anew"

LossOfDraw = Callable[[int], tuple[Tensor, dict[str, float]]]
NamesOfDraw = Callable[[int], list[str]]
Show = Callable[[int, Journal], None]


@dataclass(frozen=True)
class Plan:
    """How long and how fast; rates decay along a cosine to a tenth after `warmup` steps."""

    steps: int
    learning_rate: float
    warmup: int = 100
    ema: float = 0.999
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    gate_rate: float = 20.0  # learning rate factor of the gates' alpha, 10-100 (spec.md section 1)
    save_every: int = 500
    log_every: int = 20
    accumulate: int = 1  # draws of each process whose gradients make a step
    spike: float = 0.0  # times the median loss at which a run stops; 0 = never
    show_every: int = 0  # steps between two looks at what the averaged weights make; 0 = none


def fit(
    model: nn.Module,
    loss_of_draw: LossOfDraw,
    plan: Plan,
    folder: Path,
    names_of_draw: NamesOfDraw | None = None,
    show: Show | None = None,
    data: str = "",
) -> None:
    """Train the parameters of `model` that require gradients; state in `folder`/state.pt, metrics in metrics.jsonl.

    `loss_of_draw(number)` draws its own samples and noise from the number; every process takes every count-th of them,
    so that they share a step's draws. `names_of_draw` tells what a draw is made of, `show` looks at the averaged
    weights. A state of other `data` is not continued. At the end `model` holds the averaged weights. Raises Diverged,
    and EnvironmentError for a state that cannot be continued or where the run was asked to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks = Ranks.join()
    run = Run(model, plan, folder, ranks, data)
    run.resume()
    journal = Journal(folder, run.step) if ranks.is_first else None
    if journal and run.step < plan.steps:
        note_machine(folder, run.step, ranks.count)
    with heartbeat.safe_points():
        while run.step < plan.steps:
            asked = run.advance(loss_of_draw, names_of_draw)
            if run.is_due(plan.log_every):
                run.log(journal)
            if show and journal and run.is_due(plan.show_every):
                with run.averaged():
                    show(run.step, journal)
            if run.is_due(plan.save_every) or asked:
                run.save()
                leave_together(ranks, asked)
    ranks.wait()
    if journal:
        journal.close()
    model.load_state_dict(run.average | rest(model, run.average))


def leave_together(ranks: Ranks, asked: bool) -> None:
    """Leave where a checkpoint waits: the first process has the job queued again, the others just end. Raises
    EnvironmentError where the run was asked to end."""
    if asked and not ranks.is_first:
        sys.exit(0)
    if asked:
        heartbeat.leave_if_asked()
    if asked and ranks.count > 1:  # the request was taken back meanwhile, but the others have left
        raise EnvironmentError(heartbeat.ON_REQUEST)


class Run:
    """What a run has reached: weights, their average, the optimizer, and what was measured since the last line."""

    def __init__(self, model: nn.Module, plan: Plan, folder: Path, ranks: Ranks, data: str) -> None:
        self.model, self.plan, self.folder, self.ranks, self.data = model, plan, folder, ranks, data
        self.optimizer = torch.optim.AdamW(parameter_groups(model, plan), betas=(0.9, 0.99), fused=True)
        self.average = {name: value.detach().clone() for name, value in trained(model)}
        self.step, self.drawn, self.seconds, self.tally = 0, 0, 0.0, Tally()
        self.recent: list[float] = []

    def advance(self, loss_of_draw: LossOfDraw, names_of_draw: NamesOfDraw | None) -> bool:
        """One step of all processes; True when they are asked to leave. Raises Diverged."""
        began = time.monotonic()
        draws, mine = self.draws(), self.draws()[self.ranks.index :: self.ranks.count]
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number in mine:
            loss, parts = loss_of_draw(number)
            (loss / len(mine)).backward()
            losses.append(loss.detach())
            self.tally.add(parts)
        values = [value for _, value in trained(self.model)]
        self.ranks.average_gradients(values)
        norm = nn.utils.clip_grad_norm_(values, self.plan.clip_norm)
        asked = (
            self.ranks.is_first and heartbeat.is_asked()
        )  # it is the first process that can have the job queued again
        level, leave = self.ranks.mean(torch.stack(losses).mean().item(), float(asked))
        if fault := self.fault(level, norm.item()):
            names = [name for number in draws for name in names_of_draw(number)] if names_of_draw else []
            raise Diverged(self.told(level, *fault, names))
        rate = rate_at(self.step, self.plan)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.step, self.drawn = self.step + 1, draws.stop
        blend(self.average, self.model, min(self.plan.ema, (1 + self.step) / (10 + self.step)))
        self.recent = [*self.recent[1 - RECENT :], level]
        self.seconds += time.monotonic() - began
        self.tally.add({"loss": level, "grad_norm": norm.item(), "rate": rate, "step_s": time.monotonic() - began})
        return leave > 0

    def draws(self) -> range:
        """The numbers of the draws that make the next step, of all processes: those after what was drawn, by however
        many."""
        return range(self.drawn, self.drawn + self.ranks.count * self.plan.accumulate)

    def fault(self, level: float, norm: float) -> tuple[str, str] | None:
        """Why the run may not go on with this loss, and what lets it go on where it was; None when it may."""
        if not math.isfinite(level):
            return "it is not finite", ""
        if not math.isfinite(norm):
            return "its gradient is not finite", ""
        usual = statistics.median(self.recent) if len(self.recent) >= ENOUGH else math.inf
        if self.plan.spike and level > self.plan.spike * usual:
            return f"the median of the last {len(self.recent)} is {usual:.4g}", "a higher train.spike"
        return None

    def told(self, level: float, why: str, remedy: str, names: list[str]) -> str:
        made_of = f"; its batch: {', '.join(names)}" if names else ""
        path, kept, there = self.folder / STATE, "no state was saved yet", "the beginning"
        if path.exists():
            kept, there = f"the last good state is {path}", "there"
        do = f"run again with {remedy} to go on from {there}; {ANEW}" if remedy else ANEW
        return f"{DIVERGED}loss is {level:.4g} at step {self.step}: {why}{made_of}; {kept}; {do}"

    def is_due(self, every: int) -> bool:
        """True at every `every`-th step, and at the last one."""
        return every > 0 and (self.step % every == 0 or self.step == self.plan.steps)

    def log(self, journal: Journal | None) -> None:
        """Means over all processes since the last line, into the journal."""
        joint, self.tally = Tally.together(self.ranks.gather(self.tally.sums)).means(), Tally()
        if not journal:
            return
        if "data_s" in joint:
            joint["data_share"] = joint["data_s"] * self.plan.accumulate / joint["step_s"]
            joint["frames_per_s"] = joint.pop("frames") * len(self.draws()) / joint["step_s"]
        journal.write(self.step, joint | {"hours": self.seconds / 3600})
        left_min = (self.plan.steps - self.step) * joint["step_s"] / 60
        done = f"{self.folder.name} {self.step}/{self.plan.steps}"
        print(f"{done} loss {joint['loss']:.4f} {left_min:.0f} min left", file=sys.stderr)

    def save(self) -> None:
        """The state, by the first process; when this returns, it is there for all."""
        heartbeat.advance()
        joint = Tally.together(self.ranks.gather(self.tally.sums))
        self.tally = joint if self.ranks.is_first else Tally()
        if self.ranks.is_first:
            state: dict[str, Any] = {"model": dict(trained(self.model)), "optimizer": self.optimizer.state_dict()}
            state |= {"average": self.average, "step": self.step, "seconds": self.seconds, "recent": self.recent}
            state |= {"draws": self.drawn, "processes": self.ranks.count}
            state |= {"tally": joint.sums, "data": self.data}
            with atomic(self.folder / STATE) as temporary, temporary.open("wb") as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())  # a machine that loses power keeps this state or the one before
        self.ranks.wait()

    def resume(self) -> None:
        """Put back the state of a killed run, if there is one of the same data; another one is kept beside. Raises
        EnvironmentError for one that cannot be used, or is further than this run is to go."""
        path = self.folder / STATE
        with usable(path):
            state = torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None
        self.ranks.wait()  # until all have read it
        if state is None:
            return
        if state.get("data", "") != self.data:
            return self.put_aside(path)
        made, asked = state["step"], self.plan.steps
        if made > asked:
            do = "ask for as many, or delete it to begin this part anew"
            raise EnvironmentError(f"{path}: found step {made}, needed at most {asked}, the steps asked for; {do}")
        with usable(path):
            self.restore(state)
        before, now = state.get("processes", self.ranks.count), self.ranks.count
        if before != now and self.ranks.is_first:
            print(f"{path}: made by {before} processes, goes on with {now}: steps are of other sizes", file=sys.stderr)

    def restore(self, state: dict[str, Any]) -> None:
        """Be where a run was when it saved this state."""
        put(self.model, state["model"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        self.drawn = state.get("draws", self.step * len(self.draws()))
        self.tally = Tally(state["tally"]) if self.ranks.is_first else Tally()

    def put_aside(self, path: Path) -> None:
        """Keep a state that this run does not go on from where it overwrites nothing."""
        if self.ranks.is_first:
            os.replace(path, path.with_name(BEFORE))
            print(f"{path}: of other data or settings; starting anew, it is kept as {BEFORE}", file=sys.stderr)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In the block, the model has the averaged weights."""
        own = {name: value.detach().clone() for name, value in trained(self.model)}
        put(self.model, self.average)
        try:
            yield
        finally:
            put(self.model, own)


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """What the block raises for a state that is broken or of another model is EnvironmentError; a lack of memory is no
    fault of the state."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, EOFError, UnpicklingError) as error:
        if is_out_of_memory(error) or is_broken(error):
            raise
        do = "delete it to begin this part anew"
        raise EnvironmentError(f"{path}: cannot be continued ({first_line(error)}); {do}") from error


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def rest(model: nn.Module, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is not trained, so that loading stays strict."""
    return {name: value for name, value in model.state_dict().items() if name not in average}


@torch.no_grad()
def put(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Give the trained parameters these values."""
    for name, value in trained(model):
        value.copy_(values[name])


def parameter_groups(model: nn.Module, plan: Plan) -> list[dict[str, object]]:
    """Gates' alpha learns faster and without decay; matrices decay; vectors do not."""
    gates = [value for name, value in trained(model) if name.endswith(".alpha")]
    others = [(name, value) for name, value in trained(model) if not name.endswith(".alpha")]
    return [
        {"params": gates, "factor": plan.gate_rate, "weight_decay": 0.0},
        {"params": [v for _, v in others if v.ndim > 1], "factor": 1.0, "weight_decay": plan.weight_decay},
        {"params": [v for _, v in others if v.ndim <= 1], "factor": 1.0, "weight_decay": 0.0},
    ]


def rate_at(step: int, plan: Plan) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(plan.steps - plan.warmup, 1)
    return plan.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def blend(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the trained weights."""
    names, values = zip(*trained(model), strict=True)
    get_ema_multi_avg_fn(decay)([average[name] for name in names], values, None)
