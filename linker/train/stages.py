"""The paper's two stages (section 4.1), and how the second ends at mini size. A stage is a value: what it trains, how
many frames, how long."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linker.config import TrainSettings
from linker.model.lingualinker import LinguaLinker
from linker.model.unet import Conditions
from linker.train.ahead import Ahead
from linker.train.dataset import Batch, Windows
from linker.train.fit import Plan, fit
from linker.train.gates import watched
from linker.train.listening import Joint
from linker.train.losses import Noising, changes, evened, region_loss
from linker.train.presets import chosen
from linker.train.ranks import Ranks, mixed, training_dtype
from linker.train.samples import shower
from linker.train.seen import Seen

NEW_IN_STAGE_2 = ("*motion_modules*", "*.transformer_blocks.*.norm2.*", "*attn2*", "*.gate.*", "audio.*")


CALMER = 1 / 6  # of the preset's learning rate, in the joint part
NOISE_LEVELS = {"0-249": 250, "250-499": 500, "500-749": 750, "750-998": 999, "999": 1000}  # name -> timesteps below


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
    eyes_weight: float = 4.0
    seen_weight: float = 0.0  # of what is seen at mouth and eyes (decision 0018)
    seen_from: float = 0.0  # share of the steps before which that does not count (decision 0020)
    change_weight: float = 0.0  # of the error's change from frame to frame (decision 0014)
    drop: float = 0.05
    start_share: float = 0.2
    full_noise: float = 0.75  # share of samples at the last timestep
    seed: int = 0
    dtype: str = "auto"
    checkpointing: bool = False


def stage_1(settings: TrainSettings) -> Stage:
    """Both nets on single frames: learn to redraw the portrait in another pose."""
    preset = chosen(settings)
    plan = plan_of(settings, preset.stage1_steps, ema=0.995)
    trains = ("reference.*", "denoising.*")
    return Stage("stage1", 1, preset.stage1_batch, plan, trains, NEW_IN_STAGE_2, **shared(settings))


def stage_2(settings: TrainSettings) -> Stage:
    """Windows of frames: time and speech. The paper trains only what is new; a small net trains the rest along."""
    preset = chosen(settings)
    plan = plan_of(settings, preset.stage2_steps, ema=0.998)
    return Stage(
        "stage2", 12, preset.stage2_batch, plan, NEW_IN_STAGE_2 if preset.only_new else ("*",),
        seen_weight=preset.seen_weight, seen_from=0.0 if settings.start else preset.seen_from, **shared(settings),
    )  # fmt: skip


def joint(settings: TrainSettings) -> Stage:
    """The end of stage 2 at mini size: with the speech encoder, calmly (decision 0025)."""
    preset = chosen(settings)
    plan = replace(plan_of(settings, settings.joint_steps, ema=0.99), learning_rate=CALMER * preset.learning_rate)
    return Stage("joint", 12, preset.stage2_batch, plan, ("*",), seen_weight=preset.seen_weight, **shared(settings))


def plan_of(settings: TrainSettings, steps: int, ema: float) -> Plan:
    return Plan(
        steps, chosen(settings).learning_rate, ema=ema, save_every=settings.save_every,
        accumulate=settings.accumulate, spike=settings.spike, show_every=settings.sample_every,
    )  # fmt: skip


def shared(settings: TrainSettings) -> dict[str, Any]:
    """What both stages are told alike."""
    told = {name: getattr(settings, name) for name in ("seed", "dtype", "checkpointing")}
    return told | {name: getattr(chosen(settings), name) for name in ("full_noise", "change_weight")}


@dataclass(frozen=True)
class Draw:
    """One draw of a stage: a batch, its timesteps (B,) and its noise (B, F, C, h, w)."""

    batch: Batch
    timestep: Tensor
    noise: Tensor


def draw(windows: Windows, stage: Stage, count: int, number: int) -> Draw:
    """Draw `number`: each sample of it is a function of the seed and of the samples before it in the run, so that it
    does not matter how a step's samples are shared out. `count`: of timesteps."""
    batch = windows.batch(number, stage.batch, stage.frames, stage.drop, stage.start_share, stage.seed)
    times, noises = [], []
    for sample in range(number * stage.batch, (number + 1) * stage.batch):
        rng = torch.Generator().manual_seed((stage.seed << 32) + sample)
        even = torch.randint(count, (), generator=rng)
        times.append(torch.tensor(count - 1) if torch.rand((), generator=rng) < stage.full_noise else even)
        noises.append(torch.randn(batch.target.shape[1:], generator=rng))
    return Draw(batch, torch.stack(times), torch.stack(noises))


def choose_parameters(model: LinguaLinker, stage: Stage) -> None:
    """Let exactly the stage's parameters require gradients."""
    for name, value in model.named_parameters():
        wanted = any(fnmatch(name, pattern) for pattern in stage.trains)
        value.requires_grad_(wanted and not any(fnmatch(name, pattern) for pattern in stage.frozen))


def batch_conditions(model: LinguaLinker, batch: Batch, single: bool) -> Conditions:
    """What the denoising net is told about a batch; single frames have neither speech nor time."""
    size = len(batch.target)
    masks, scales, ranges = model.mask_pyramid(batch.masks), batch.scales, model.asked(batch.ranges)
    reference = model.read_portrait(batch.reference)
    if single:
        return Conditions(size, masks, scales, reference, keep=batch.keep, ranges=ranges)
    heard = model.hear(batch.speech)
    with torch.no_grad():  # the reference net learns from portraits
        maps = model.preceding_maps(batch.preceding)
    seen = model.remember(maps, size)
    return Conditions(size, masks, scales, reference, heard, seen, batch.keep, ranges)


def train_stage(
    model: LinguaLinker,
    stage: Stage,
    cache: Path,
    folder: Path,
    parts: Path | None = None,
    data: str = "",
    encoder: nn.Module | None = None,
) -> None:
    """Run a stage on the encoded videos in `cache`; a killed run continues from `folder`. With the folder that holds
    their codec and speech encoder in `parts`, it shows what it makes of the videos in `cache`/held_out; a stage that
    weighs what is seen cannot do without. A speech encoder that is given is trained along."""
    if stage.seen_weight and not parts:
        raise ValueError(f"{stage.name} weighs what is seen: `parts` is needed, the folder that holds the codec")
    ranks = Ranks.join()
    choose_parameters(model, stage)
    both = Joint(model, encoder) if encoder else None
    (both or model).to(ranks.device)
    show = None
    if parts and stage.plan.show_every and ranks.is_first:
        show = shower(model, cache / "held_out", parts, folder, training_dtype(stage.dtype, ranks.device), encoder)
    model.reference.checkpointing = model.denoising.checkpointing = stage.checkpointing
    windows, noising = Windows(cache, model.arch), Noising(ranks.device)
    print(f"{stage.name}: {len(windows.files)} videos, {stage.plan.steps} steps, {ranks.count} x", file=sys.stderr)
    seen = Seen(parts / "codec", model.arch, ranks.device) if parts and stage.seen_weight else None
    unseen = round(stage.seen_from * stage.plan.steps) * stage.plan.accumulate * ranks.count  # the first so many draws
    draws = Ahead(lambda number: draw(windows, stage, len(noising.signal), number), ranks.count)
    with draws, watched(model) as gates:

        def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
            gates.forget()
            drawn = draws(number)
            if both:
                sounds = windows.sounds(number, stage.batch, stage.frames, stage.start_share, stage.seed)
                drawn = replace(drawn, batch=replace(drawn.batch, speech=both.hear(sounds)))
            judge = seen if number >= unseen else None
            loss, parts = stage_loss(model, stage, noising, judge, drawn, ranks.device)
            told = {"data_s": draws.waited_s, "frames": stage.batch * stage.frames}
            return loss, parts | gates.tell() | told

        def names_of_draw(number: int) -> list[str]:
            return windows.videos_of(number, stage.batch, stage.seed)

        fit(both or model, loss_of_draw, stage.plan, folder, names_of_draw, show, data)
    (both or model).cpu()


def stage_loss(
    model: LinguaLinker, stage: Stage, noising: Noising, seen: Seen | None, drawn: Draw, device: torch.device
) -> tuple[Tensor, dict[str, float]]:
    """The loss of section 3.2 on one draw, and its parts by region and by noise level."""
    batch = Batch(**{name: value.to(device) for name, value in vars(drawn.batch).items()})
    timestep, noise = drawn.timestep.to(device), drawn.noise.to(device)
    noisy, velocity = noising.add(batch.target, noise, timestep)
    with mixed(device, training_dtype(stage.dtype, device)):
        made = model.denoise(noisy, timestep, batch_conditions(model, batch, stage.frames == 1)).float()
    error = made - velocity
    weight = noising.weight(timestep) * evened(batch.target)
    regions = (batch.masks, batch.blink, weight, stage.mouth_weight, stage.eyes_weight)
    loss, parts = region_loss(error.square().mean(2), *regions)
    if stage.change_weight and stage.frames > 1:
        loss = loss + stage.change_weight * region_loss(changes(error).square().mean(2), *regions)[0]
    if seen:
        clean = noising.clean(noisy, made, timestep)
        with mixed(device, training_dtype(stage.dtype, device)):
            off = seen.losses(clean, batch.target, batch.portrait, batch.masks, batch.blink)
        mouth, eyes = (each.mean() for each in off)
        loss = loss + stage.seen_weight * (stage.mouth_weight * mouth + stage.eyes_weight * eyes)
        parts |= {"mouth_seen": mouth.item(), "eyes_seen": eyes.item()}
    by_region = {f"region/{name}": value for name, value in parts.items()}
    return loss, by_region | by_noise(error.detach().square().mean((1, 2, 3, 4)), drawn.timestep)


def by_noise(error_B: Tensor, timestep_B: Tensor) -> dict[str, float]:
    """Mean error of the samples at each noise level that occurs."""
    found, low, error_B = {}, 0, error_B.cpu()
    for name, high in NOISE_LEVELS.items():
        here = (timestep_B >= low) & (timestep_B < high)
        if here.any():
            found[f"noise/{name}"] = error_B[here].mean().item()
        low = high
    return found
