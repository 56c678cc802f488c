"""FLOPs, counted on tensors without data: exact, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.utils.flop_counter import FlopCounterMode

from linker.bench.common import SD_CODEC, Figures, grey_portrait, mini
from linker.config import PRESETS, Preset
from linker.model.architecture import BASE, Architecture
from linker.model.lingualinker import LinguaLinker
from linker.model.sample import ClipConditions, Windows, window_conditions


def counted(action: Callable[[], Any]) -> float:
    """TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def flops() -> Figures:
    """TFLOP of 12 + 4 frames of 512 x 512 at base size: of a guided step, which is two passes, and of a delivered frame
    by preset, with what a window computes once and decoding (the last frame twice: it is looked at for drift); and of
    a frame with the embedded weights."""
    engine = mini()
    still, window = grey_portrait(engine), engine.model.arch.window
    small = counted(lambda: engine.pictures(still.still.expand(window, -1, -1, -1), still, "codec"))
    with torch.device("meta"):
        decoders, latents = {"codec": AutoencoderKL(**SD_CODEC), "tiny": AutoencoderTiny()}, torch.empty(12, 4, 64, 64)
        decoded = {name: counted(partial(net.decode, latents)) for name, net in decoders.items()}
        step, frames = sampled(BASE, PRESETS["base"], decoded)
        arch = engine.model.arch.model_copy(update={"quiet_noise": False})  # a factor, which counts nothing
        small_frames = sampled(arch, PRESETS["mini"], {"codec": small})[1]
    figures = {"step_guided_tflop": round(step, 2)}
    figures |= {f"frame_{name}_tflop": round(cost, 3) for name, cost in frames.items()}
    return figures | {f"mini_frame_{name}_tflop": round(cost, 4) for name, cost in small_frames.items()}


def sampled(
    arch: Architecture, presets: dict[str, Preset], decoded: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """TFLOP of a guided step, and of a delivered frame by preset, whose windows are `decoded` for so much."""
    latent, heard = (arch.latent_channels, arch.latent_px, arch.latent_px), arch.window + arch.audio_context - 1
    model = LinguaLinker(arch).eval()
    portrait, before = torch.empty(1, *latent), torch.empty(1, arch.preceding, *latent)
    masks, background = model.mask_pyramid(torch.empty(1, 3, 512, 512)), torch.ones(1, 1, *latent[1:])
    asked = torch.ones(1, 3)
    clip = ClipConditions(portrait, model.read_portrait(portrait), masks, asked, asked, background)
    window = Windows((0,), (0,), torch.empty(1, heard, arch.speech_dim), before, (False,))
    told, free = window_conditions(model, clip, window)
    noisy, time = torch.empty(1, arch.window, *latent), torch.empty(1)
    single, guided = (counted(partial(model.denoise, noisy, time, *halves)) for halves in ((told,), (told, free)))
    once = counted(partial(window_conditions, model, clip, window))
    frames = {}
    for name, preset in presets.items():
        step = single if preset.guidance_scale == 1 else guided
        decoding = decoded[preset.decoder] * (1 + 1 / arch.window)
        frames[name] = (once + preset.steps * step + decoding) / arch.window
    return guided, frames
