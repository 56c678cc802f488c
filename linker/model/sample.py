"""From noise to latents: windows of frames, guided, one after the other (sections 3.1 and 3.2, Inference).

Noise is a function of (seed, window), never of a running generator: a window can be made again alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import LCMScheduler, TCDScheduler
from torch import Tensor

from linker.model.layers import KeyValue
from linker.model.lingualinker import LinguaLinker
from linker.model.schedule import make_scheduler
from linker.model.unet import Conditions


@dataclass(frozen=True)
class Sampling:
    """How a window is denoised. background_strength: section 3.2; 1 = off, 0 = the background is the portrait's."""

    steps: int
    guidance_scale: float
    sampler: str = "ddim"
    background_strength: float = 1.0


@dataclass(frozen=True)
class ClipConditions:
    """What stays the same through a clip, computed once.

    still (1, C, h, w): the portrait as the nets model frames;  reference: the portrait's keys and values;
    masks side -> (1, T, R);  scales (1, R);
    speech (1, F + l - 1, D) padded features of the whole clip;  background (1, 1, h, w), 1 where nothing should move.
    """

    still: Tensor
    reference: list[KeyValue]
    masks: dict[int, Tensor]
    scales: Tensor
    speech: Tensor
    background: Tensor


def noise_of(seed: int, window: int | str, shape: tuple[int, ...], draw: int = 0) -> Tensor:
    """Standard normal noise: a function of the seed, the window (or a name) and which draw of it."""
    digest = hashlib.sha256(f"{seed}:{window}:{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def sample_window(
    model: LinguaLinker, clip: ClipConditions, preceding: Tensor, window: int, seed: int, sampling: Sampling
) -> Tensor:
    """Latents (1, F, C, h, w) of one window, given the M frames before it, (1, M, C, h, w)."""
    arch = model.arch
    conditional, unconditional = window_conditions(model, clip, preceding, window)
    scheduler = make_scheduler(sampling.sampler, sampling.steps)
    latents = noise_of(seed, window, (1, arch.window, *clip.still.shape[1:])).to(clip.still)
    background = noise_of(seed, "background", (1, 1, *clip.still.shape[1:])).to(clip.still)
    for index, timestep in enumerate(scheduler.timesteps):
        if index < round((1 - sampling.background_strength) * sampling.steps):
            latents = hold_background(scheduler, clip, latents, background, timestep)
        time_B = timestep.to(latents.device).expand(1)
        velocity = model.denoise(latents, time_B, conditional).float()
        if sampling.guidance_scale != 1:
            free = model.denoise(latents, time_B, unconditional).float()
            velocity = free + sampling.guidance_scale * (velocity - free)
        latents = advance(scheduler, velocity, timestep, latents, seed, window, index)
    return hold_still(clip, latents) if sampling.background_strength == 0 else latents


def window_conditions(
    model: LinguaLinker, clip: ClipConditions, preceding: Tensor, window: int
) -> tuple[Conditions, Conditions]:
    """(conditional, unconditional). The unconditional half has no portrait and no audio, so it skips both attentions;
    it keeps the preceding frames."""
    start, reach = window * model.arch.window, model.arch.audio_context - 1
    heard = model.hear(clip.speech[:, start : start + model.arch.window + reach])
    seen = model.read_preceding(preceding)
    told = Conditions(1, clip.masks, clip.scales, clip.reference, heard, seen)
    return told, replace(told, reference=None, audio=None)


def hold_background(scheduler: Any, clip: ClipConditions, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Image-to-image outside the head: put the portrait's latent, noised with the clip's one noise, there."""
    still = scheduler.add_noise(clip.still[:, None], noise, timestep.expand(1)).expand_as(latents)
    weight = clip.background[:, None]
    return weight * still + (1 - weight) * latents


def hold_still(clip: ClipConditions, latents: Tensor) -> Tensor:
    """Strength 0: the background is the portrait's own latent."""
    return clip.background[:, None] * clip.still[:, None] + (1 - clip.background[:, None]) * latents


def advance(
    scheduler: Any, velocity: Tensor, timestep: Tensor, latents: Tensor, seed: int, window: int, index: int
) -> Tensor:
    """One step of the sampler; samplers that add noise draw it from (seed, window, step)."""
    if isinstance(scheduler, (LCMScheduler, TCDScheduler)):
        digest = hashlib.sha256(f"{seed}:{window}:{index + 1}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return scheduler.step(velocity, timestep, latents, generator=generator).prev_sample
    return scheduler.step(velocity, timestep, latents).prev_sample


def window_count(frames: int, window: int) -> int:
    """Windows that cover `frames`; the last may be cut."""
    return -(-frames // window)


@torch.inference_mode()
def sample_clip(
    model: LinguaLinker,
    clip: ClipConditions,
    frames: int,
    seed: int,
    sampling: Sampling,
    first: int = 0,
    previous: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (window, latents) from window `first` on, which follows `previous`; each sees the last frames of the one
    before, the first window sees the portrait repeated."""
    arch = model.arch
    for window in range(first, window_count(frames, arch.window)):
        if previous is None:
            preceding = clip.still[:, None].expand(-1, arch.preceding, -1, -1, -1)
        else:
            preceding = previous[:, -arch.preceding :]
        previous = sample_window(model, clip, preceding, window, seed, sampling)
        yield window, previous
