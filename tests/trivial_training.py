"""A training of a moment, by the real loop: to test what may happen to one. Like the real task it is loaded in no time
and imports torch when it is called: a job is deaf to signals, and ended by them, until its task is loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STEPS = 200


def train(folder: Path, step_s: float, again_s: float | None = None, accumulate: int = 1) -> None:
    """Fit one layer to noise that is a function of the draw; `draws` names every draw that was made. A step takes
    `step_s`, in a job that was queued again `again_s`."""
    import torch

    from linker.train.fit import Plan, fit
    from linker.train.ranks import Ranks

    pause_s = step_s if again_s is None or not os.environ.get("SLURM_RESTART_COUNT") else again_s
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)

    def loss_of_draw(number: int) -> tuple[torch.Tensor, dict[str, float]]:
        time.sleep(pause_s)
        with (folder / "draws").open("a") as stream:
            stream.write(f"{number}\n")
        noise = torch.randn((16, 8), generator=torch.Generator().manual_seed(number))
        return (model(noise) - noise.roll(1, 1)).square().mean(), {}

    fit(model, loss_of_draw, Plan(STEPS, learning_rate=1e-2, save_every=10_000, accumulate=accumulate), folder)
    if Ranks.join().is_first:
        torch.save(model.weight.detach(), folder / "weights.pt")


def weights_of(folder: Path) -> torch.Tensor:
    import torch

    found = torch.load(folder / "weights.pt", weights_only=True)
    assert isinstance(found, torch.Tensor)
    return found
