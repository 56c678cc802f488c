"""A training of a moment, by the real loop: to test what may happen to one."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from linker.train.fit import Plan, fit

STEPS = 200


def train(folder: Path, step_s: float) -> None:
    """Fit one layer to noise that is a function of the step; `steps` names every step that was made."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        time.sleep(step_s)
        with (folder / "steps").open("a") as stream:
            stream.write(f"{step}\n")
        noise = torch.randn((16, 8), generator=torch.Generator().manual_seed(step))
        return (model(noise) - noise.roll(1, 1)).square().mean(), {}

    fit(model, loss_of_step, Plan(steps=STEPS, learning_rate=1e-2, save_every=10_000), folder)
    torch.save(model.weight.detach(), folder / "weights.pt")


def weights_of(folder: Path) -> torch.Tensor:
    found = torch.load(folder / "weights.pt", weights_only=True)
    assert isinstance(found, torch.Tensor)
    return found
