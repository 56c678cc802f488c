"""FLOPs at base size, counted on tensors without data: exact, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.utils.flop_counter import FlopCounterMode

from linker.bench.common import SD_CODEC, Figures
from linker.config import PRESETS
from linker.model.architecture import BASE
from linker.model.lingualinker import LinguaLinker
from linker.model.sample import ClipConditions, Windows, window_conditions


def counted(action: Callable[[], Any]) -> float:
    """TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def flops() -> Figures:
    """TFLOP of 12 + 4 frames of 512 x 512: of a guided step, which is two passes, and of a delivered frame by preset,
    with what a window computes once and decoding."""
    latent, heard = (BASE.latent_channels, BASE.latent_px, BASE.latent_px), BASE.window + BASE.audio_context - 1
    with torch.device("meta"):
        model, decoders = LinguaLinker(BASE).eval(), {"codec": AutoencoderKL(**SD_CODEC), "tiny": AutoencoderTiny()}
        portrait, before = torch.empty(1, *latent), torch.empty(1, BASE.preceding, *latent)
        masks, background = model.mask_pyramid(torch.empty(1, 3, 512, 512)), torch.ones(1, 1, *latent[1:])
        clip = ClipConditions(portrait, model.read_portrait(portrait), masks, torch.ones(1, 3), background)
        window = Windows((0,), (0,), torch.empty(1, heard, BASE.speech_dim), before)
        told, free = window_conditions(model, clip, window)
        noisy, time = torch.empty(1, BASE.window, *latent), torch.empty(1)
        single, unguided = (counted(partial(model.denoise, noisy, time, half)) for half in (told, free))
        once = counted(partial(window_conditions, model, clip, window))
        decoded = {
            name: counted(partial(net.decode, torch.empty(BASE.window, *latent))) for name, net in decoders.items()
        }
    figures = {"step_guided_tflop": round(single + unguided, 2)}
    for name, preset in PRESETS["base"].items():
        step = single if preset.guidance_scale == 1 else single + unguided
        figures[f"frame_{name}_tflop"] = round((once + preset.steps * step + decoded[preset.decoder]) / BASE.window, 3)
    return figures
