"""Measure this machine: what a frame costs, by part and by preset. Figures of one run compare; those of two do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.utils.flop_counter import FlopCounterMode

from linker import bench_workflow
from linker.config import GenerateSettings
from linker.errors import SettingsError
from linker.generate import PRESETS, Engine, load_engine
from linker.model.architecture import BASE
from linker.model.audio_context import encode_speech, pad_context
from linker.model.codec import decode_frames, encode_frames
from linker.model.lingualinker import LinguaLinker
from linker.model.masks import background_of
from linker.model.sample import ClipConditions, Sampling, sample_window, window_conditions
from linker.records import write_json

Figures = dict[str, float]


def seconds(action: Callable[[], Any], repeats: int = 2) -> float:
    """Wall seconds of the fastest of `repeats` calls, after one that warms up."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


def grey_clip(engine: Engine) -> ClipConditions:
    """Conditions of one window: a grey portrait and noise for speech; the values do not change the cost."""
    model, arch = engine.model, engine.model.arch
    picture = np.full((1, arch.sample_px, arch.sample_px, 3), 128, np.uint8)
    portrait = model.normalise(encode_frames(engine.codec, picture))
    masks = torch.full((3, 64, 64), 0.3)
    speech = encode_speech(engine.speech, torch.randn(16_000), arch.window)
    return ClipConditions(
        still=model.to_change(portrait, portrait),
        reference=model.read_portrait(portrait),
        masks=model.mask_pyramid(masks[None].to(engine.device)),
        scales=torch.ones(1, 3, device=engine.device),
        speech=pad_context(speech, arch.audio_context),
        background=background_of(masks, arch.latent_px).to(engine.device),
    )


@cache
def mini() -> Engine:
    """The embedded weights, loaded once."""
    return load_engine(GenerateSettings())


@torch.inference_mode()
def frames() -> Figures:
    """Milliseconds a frame of each preset's sampling, and of the codec's two halves."""
    engine = mini()
    arch = engine.model.arch
    with engine.autocast():
        clip = grey_clip(engine)
        before = clip.still[:, None].expand(-1, arch.preceding, -1, -1, -1)
        pictures = np.full((arch.window, arch.sample_px, arch.sample_px, 3), 128, np.uint8)
        latents = encode_frames(engine.codec, pictures)
        cost = {"encode": seconds(lambda: encode_frames(engine.codec, pictures))}
        cost["decode"] = seconds(lambda: decode_frames(engine.codec, latents))
        for name, (steps, guidance) in PRESETS.items():
            how = Sampling(steps, guidance)
            cost[name] = seconds(partial(sample_window, engine.model, clip, before, 0, 0, how))
    return {f"{name}_ms_a_frame": round(1000 * value / arch.window, 1) for name, value in cost.items()}


@torch.inference_mode()
def caches() -> Figures:
    """What computing once saves: a window's step against the work that is shared by its steps."""
    engine = mini()
    arch = engine.model.arch
    with engine.autocast():
        clip = grey_clip(engine)
        before = clip.still[:, None].expand(-1, arch.preceding, -1, -1, -1)
        once = seconds(lambda: engine.model.read_preceding(before)) + seconds(
            lambda: engine.model.read_portrait(clip.still)
        )
        few = seconds(lambda: sample_window(engine.model, clip, before, 0, 0, Sampling(2, 2.0)))
        more = seconds(lambda: sample_window(engine.model, clip, before, 0, 0, Sampling(4, 2.0)))
    step = (more - few) / 2
    return {"step_ms": round(1000 * step, 1), "reference_passes_share_of_a_step": round(once / step, 3)}


def counted(action: Callable[[], Any]) -> float:
    """TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops() / 1e12


@torch.no_grad()
def flops() -> Figures:
    """TFLOP at base size, 12 + 4 frames of 512 x 512, counted on tensors without data: exact, the same everywhere.

    A guided step is two passes; a draft frame is 4 steps without guidance, what a window computes once, and decoding.
    """
    latent = (BASE.latent_channels, BASE.latent_px, BASE.latent_px)
    with torch.device("meta"):
        model, decoder = LinguaLinker(BASE).eval(), AutoencoderTiny()
        portrait, speech = (
            torch.empty(1, *latent),
            torch.empty(1, BASE.window + BASE.audio_context - 1, BASE.speech_dim),
        )
        reference, masks = model.read_portrait(portrait), model.mask_pyramid(torch.empty(1, 3, 512, 512))
        clip = ClipConditions(portrait, reference, masks, torch.ones(1, 3), speech, torch.ones(1, 1, *latent[1:]))
        before, noisy = torch.empty(1, BASE.preceding, *latent), torch.empty(1, BASE.window, *latent)
        told, free = window_conditions(model, clip, before, 0)
        single, unguided = (counted(partial(model.denoise, noisy, torch.empty(1), half)) for half in (told, free))
        once = counted(partial(window_conditions, model, clip, before, 0))
        decoded = counted(partial(decoder.decode, torch.empty(BASE.window, *latent)))
    draft = (once + 4 * single + decoded) / BASE.window
    return {"step_guided_tflop": round(single + unguided, 2), "frame_draft_tflop": round(draft, 3)}


BENCHMARKS: dict[str, Callable[[], Figures]] = {
    **{"frames": frames, "caches": caches, "flops": flops},
    **{"overhead": bench_workflow.overhead, "launch": bench_workflow.launch},
}


def main(names: list[str], target: Path | None) -> None:
    """Run the named benchmarks (all without names), print a table, and write one JSON object a name to `target`."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise SettingsError(f"bench {unknown[0]}: found no such benchmark; there are {', '.join(BENCHMARKS)}")
    results = {}
    for name in names or list(BENCHMARKS):
        results[name] = BENCHMARKS[name]()
        for figure, value in results[name].items():
            print(f"{name:10} {figure:36} {value:>10}")
    if target:
        write_json(target, results)
