"""One optimisation loop for every stage. Each batch is a function of (seed, step), so a killed run resumes exactly."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from linker import heartbeat
from linker.errors import LinkerError
from linker.records import atomic

LossOfStep = Callable[[int], tuple[Tensor, dict[str, float]]]


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


class Diverged(LinkerError):
    """The loss is not finite; the last good state is kept."""


def fit(model: nn.Module, loss_of_step: LossOfStep, plan: Plan, folder: Path) -> None:
    """Train the parameters of `model` that require gradients; state in `folder`/state.pt, metrics in metrics.jsonl.

    `loss_of_step(step)` draws its own batch and noise from the step. At the end `model` holds the averaged weights.
    Raises Diverged when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(parameter_groups(model, plan), betas=(0.9, 0.99), fused=True)
    average = {name: value.detach().clone() for name, value in trained(model)}
    step = resume(folder / "state.pt", model, optimizer, average)
    started, first = time.monotonic(), step
    with heartbeat.safe_points():
        while step < plan.steps:
            loss, parts = loss_of_step(step)
            if not torch.isfinite(loss):
                raise Diverged(f"loss is {loss.item()} at step {step}; the last good state is {folder / 'state.pt'}")
            update(model, optimizer, loss, rate_at(step, plan), plan.clip_norm)
            step += 1
            blend(average, model, min(plan.ema, (1 + step) / (10 + step)))
            if step % plan.log_every == 0 or step == plan.steps:
                log(folder, step, plan, parts | {"loss": loss.item()}, (time.monotonic() - started) / (step - first))
            if step % plan.save_every == 0 or step == plan.steps or heartbeat.is_asked():
                heartbeat.advance()
                save(folder / "state.pt", model, optimizer, average, step)
                heartbeat.leave_if_asked()
    model.load_state_dict(average | rest(model, average))


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def rest(model: nn.Module, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is not trained, so that loading stays strict."""
    return {name: value for name, value in model.state_dict().items() if name not in average}


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


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, clip_norm: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([value for _, value in trained(model)], clip_norm)
    optimizer.step()


@torch.no_grad()
def blend(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Exponential moving average of the trained weights."""
    for name, value in trained(model):
        average[name].lerp_(value, 1 - decay)


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], step: int) -> None:
    state = {"model": dict(trained(model)), "optimizer": optimizer.state_dict(), "average": average, "step": step}
    with atomic(path) as temporary:
        torch.save(state, temporary)


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Put back the state of a killed run and return its step; 0 when there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, value in trained(model):
            value.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    average.update(state["average"])
    return int(state["step"])


def log(folder: Path, step: int, plan: Plan, values: dict[str, float], step_s: float) -> None:
    line = {"step": step, **{k: round(v, 5) for k, v in values.items()}, "step_s": round(step_s, 4)}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    left_min = (plan.steps - step) * step_s / 60
    print(f"{folder.name} {step}/{plan.steps} loss {values['loss']:.4f} {left_min:.0f} min left", file=sys.stderr)
