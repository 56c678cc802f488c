"""From noise to latents: windows of frames, guided, one after the other (sections 3.1 and 3.2, Inference).

Noise is a function of (seed, window), never of a running generator: a window can be made again alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
    """What stays the same through a clip, computed once; B clips side by side when they are denoised together.

    still (B, C, h, w): the portrait as the nets model frames;  reference: the portrait's keys and values;
    masks side -> (B, T, R);  scales and ranges (B, R);  background (B, 1, h, w), 1 where nothing should move.
    """

    still: Tensor
    reference: list[KeyValue]
    masks: dict[int, Tensor]
    scales: Tensor
    ranges: Tensor
    background: Tensor

    @staticmethod
    def together(clips: Sequence[ClipConditions]) -> ClipConditions:
        """Clips of one batch, in this order."""
        layers = zip(*(clip.reference for clip in clips), strict=True)
        return ClipConditions(
            still=torch.cat([clip.still for clip in clips]),
            reference=[(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers],
            masks={side: torch.cat([clip.masks[side] for clip in clips]) for side in clips[0].masks},
            scales=torch.cat([clip.scales for clip in clips]),
            ranges=torch.cat([clip.ranges for clip in clips]),
            background=torch.cat([clip.background for clip in clips]),
        )


@dataclass(frozen=True)
class Windows:
    """One window of each of B clips: numbers, seeds, padded speech (B, F + l - 1, D), frames before (B, M, C, h, w);
    `follows`: whether these are another window's end, and not the portrait."""

    numbers: tuple[int, ...]
    seeds: tuple[int, ...]
    speech: Tensor
    preceding: Tensor
    follows: tuple[bool, ...]

    @staticmethod
    def together(windows: Sequence[Windows]) -> Windows:
        """Windows of one batch, in this order."""
        return Windows(
            numbers=tuple(number for window in windows for number in window.numbers),
            seeds=tuple(seed for window in windows for seed in window.seeds),
            speech=torch.cat([window.speech for window in windows]),
            preceding=torch.cat([window.preceding for window in windows]),
            follows=tuple(follow for window in windows for follow in window.follows),
        )

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """What every window starts from, (B, *shape)."""
        return torch.stack([noise_of(seed, number, shape) for number, seed in self._each()])

    def generators(self, step: int) -> list[torch.Generator]:
        """For samplers that add noise: one a window, from (seed, window, step)."""
        return [generator_of(seed, number, step + 1) for number, seed in self._each()]

    def _each(self) -> Iterator[tuple[int, int]]:
        return zip(self.numbers, self.seeds, strict=True)


def generator_of(seed: int, window: int | str, draw: int) -> torch.Generator:
    """The beginning of the random numbers that belong to (seed, window or a name, draw)."""
    digest = hashlib.sha256(f"{seed}:{window}:{draw}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise_of(seed: int, window: int | str, shape: tuple[int, ...], draw: int = 0) -> Tensor:
    """Standard normal noise: a function of the seed, the window (or a name) and which draw of it."""
    return torch.randn(shape, generator=generator_of(seed, window, draw))


@torch.inference_mode()
def sample_windows(model: LinguaLinker, clips: ClipConditions, windows: Windows, sampling: Sampling) -> Tensor:
    """Latents (B, F, C, h, w) of one window of each clip. No clip's numbers enter another's, and every place of the
    batch gets the same arithmetic: a clip's latents depend on the batch's size, not on its company."""
    told, free = window_conditions(model, clips, windows)
    scheduler, like = make_scheduler(sampling.sampler, sampling.steps), clips.still
    latents = windows.noise((model.arch.window, *like.shape[1:])).to(like)
    background = torch.stack([noise_of(seed, "background", (1, *like.shape[1:])) for seed in windows.seeds]).to(like)
    for index, timestep in enumerate(scheduler.timesteps):
        if index < round((1 - sampling.background_strength) * sampling.steps):
            latents = hold_background(scheduler, clips, latents, background, timestep)
        time_B = timestep.to(like.device).expand(len(like))
        if sampling.guidance_scale == 1:
            velocity = model.denoise(latents, time_B, told).float()
        else:
            velocity, unguided = model.denoise(latents, time_B, told, free).float().chunk(2)
            velocity = unguided + sampling.guidance_scale * (velocity - unguided)
        latents = advance(scheduler, velocity, timestep, latents, windows, index)
    latents = eased(latents, windows, model.arch.eased_frames)
    return hold_still(clips, latents) if sampling.background_strength == 0 else latents


def eased(latents_BFChw: Tensor, windows: Windows, frames: int) -> Tensor:
    """Windows led on from the ones before them: what their first step differs by from the next one is taken back, less
    and less over so many frames. Windows that begin from the portrait stay as they were made."""
    if not frames:
        return latents_BFChw
    first, second = latents_BFChw[:, 0], latents_BFChw[:, min(1, latents_BFChw.shape[1] - 1)]
    jump = windows.preceding[:, -1].to(first) + (second - first) - first
    fade = (1 - torch.arange(latents_BFChw.shape[1]) / frames).clamp(min=0).square().to(first)
    follows = torch.tensor(windows.follows).to(first)
    return latents_BFChw + follows[:, None, None, None, None] * fade[:, None, None, None] * jump[:, None]


def window_conditions(model: LinguaLinker, clips: ClipConditions, windows: Windows) -> tuple[Conditions, Conditions]:
    """(conditional, unconditional). The unconditional half has no portrait and no audio, so it skips both attentions
    and the gates; it keeps the preceding frames."""
    heard, seen = model.hear(windows.speech), model.read_preceding(windows.preceding)
    ranges = model.asked(clips.ranges)
    told = Conditions(len(clips.still), clips.masks, clips.scales, clips.reference, heard, seen, ranges=ranges)
    return told, replace(told, reference=None, audio=None)


def hold_background(scheduler: Any, clips: ClipConditions, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Image-to-image outside the head: put the portrait's latent, noised with the clip's one noise, there."""
    still = scheduler.add_noise(clips.still[:, None], noise, timestep.expand(len(latents))).expand_as(latents)
    weight = clips.background[:, None]
    return weight * still + (1 - weight) * latents


def hold_still(clips: ClipConditions, latents: Tensor) -> Tensor:
    """Strength 0: the background is the portrait's own latent."""
    return clips.background[:, None] * clips.still[:, None] + (1 - clips.background[:, None]) * latents


def advance(
    scheduler: Any, velocity: Tensor, timestep: Tensor, latents: Tensor, windows: Windows, index: int
) -> Tensor:
    """One step of the sampler; samplers that add noise draw it from (seed, window, step)."""
    if isinstance(scheduler, (LCMScheduler, TCDScheduler)):
        drawn = windows.generators(index)
        return scheduler.step(velocity, timestep, latents, generator=drawn).prev_sample
    return scheduler.step(velocity, timestep, latents).prev_sample


def window_count(frames: int, window: int) -> int:
    """Windows that cover `frames`; the last may be cut."""
    return -(-frames // window)


def preceding_frames(model: LinguaLinker, still_1Chw: Tensor, previous_1FChw: Tensor | None) -> Tensor:
    """The frames before a window, (1, M, C, h, w): the end of the window before, or the portrait repeated."""
    if previous_1FChw is None:
        return still_1Chw[:, None].expand(-1, model.arch.preceding, -1, -1, -1)
    return previous_1FChw[:, -model.arch.preceding :]
