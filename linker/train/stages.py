"""The paper's two stages (section 4.1). A stage is a value: what it trains, how many frames, how long."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from linker.model.lingualinker import LinguaLinker
from linker.model.unet import Conditions
from linker.train.dataset import Batch, Windows
from linker.train.fit import Plan, fit
from linker.train.losses import Noising, evened, region_loss

NEW_IN_STAGE_2 = ("*motion_modules*", "*.norm2.*attn2*", "*attn2*", "*.gate.*", "audio.*")


@dataclass(frozen=True)
class Stage:
    """trains: patterns of parameter names; frozen: exceptions; frames 1 = single pictures without motion and audio."""

    name: str
    frames: int
    batch: int
    plan: Plan
    trains: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    mouth_weight: float = 2.0
    eyes_weight: float = 0.5
    drop: float = 0.05
    start_share: float = 0.2
    full_noise: float = 0.75  # share of samples at the last timestep, where few-step sampling does most of its work


def stage_1(steps: int, batch: int = 16, rate: float = 4e-4) -> Stage:
    """Both nets on single frames: learn to redraw the portrait in another pose."""
    plan = Plan(steps=steps, learning_rate=rate, warmup=100, ema=0.995, save_every=250)
    return Stage("stage1", 1, batch, plan, ("reference.*", "denoising.*"), NEW_IN_STAGE_2)


def stage_2(steps: int, batch: int = 2, rate: float = 4e-4, paper: bool = False) -> Stage:
    """Windows of frames: time and speech. The paper trains only what is new; a small net trains the rest along."""
    plan = Plan(steps=steps, learning_rate=rate, warmup=100, ema=0.998, save_every=250)
    return Stage("stage2", 12, batch, plan, NEW_IN_STAGE_2 if paper else ("*",))


def draw_timesteps(count: int, stage: Stage, rng: torch.Generator) -> Tensor:
    """(batch,) timesteps: the last one with probability `full_noise`, the others evenly."""
    even = torch.randint(count, (stage.batch,), generator=rng)
    last = torch.rand(stage.batch, generator=rng) < stage.full_noise
    return torch.where(last, count - 1, even)


def choose_parameters(model: LinguaLinker, stage: Stage) -> None:
    """Let exactly the stage's parameters require gradients."""
    for name, value in model.named_parameters():
        chosen = any(fnmatch(name, pattern) for pattern in stage.trains)
        value.requires_grad_(chosen and not any(fnmatch(name, pattern) for pattern in stage.frozen))


def batch_conditions(model: LinguaLinker, batch: Batch, single: bool) -> Conditions:
    """What the denoising net is told about a batch; single frames have neither speech nor time."""
    size = len(batch.target)
    masks, scales = model.mask_pyramid(batch.masks), torch.ones(size, 3)
    reference = model.read_portrait(batch.reference)
    if single:
        return Conditions(size, masks, scales, reference, keep=batch.keep)
    heard = model.hear(batch.speech)
    with torch.no_grad():  # the reference net learns from portraits
        maps = model.preceding_maps(batch.preceding)
    seen = model.remember(maps, size)
    return Conditions(size, masks, scales, reference, heard, seen, batch.keep)


def train_stage(model: LinguaLinker, stage: Stage, cache: Path, folder: Path) -> None:
    """Run a stage on the encoded videos in `cache`; a killed run continues from `folder`."""
    choose_parameters(model, stage)
    windows, noising = Windows(cache, model.arch), Noising()
    print(f"{stage.name}: {len(windows.latents)} videos, {stage.plan.steps} steps", file=sys.stderr)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = windows.batch(step, stage.batch, stage.frames, stage.drop, stage.start_share)
        rng = torch.Generator().manual_seed(step)
        timestep = draw_timesteps(len(noising.signal), stage, rng)
        noise = torch.randn(batch.target.shape, generator=rng)
        noisy, velocity = noising.add(batch.target, noise, timestep)
        with torch.autocast("cpu", torch.bfloat16):
            made = model.denoise(noisy, timestep, batch_conditions(model, batch, stage.frames == 1)).float()
        error = (made - velocity).square().mean(2)
        weight = noising.weight(timestep) * evened(batch.target)
        return region_loss(error, batch.masks, weight, stage.mouth_weight, stage.eyes_weight)

    fit(model, loss_of_step, stage.plan, folder)
