"""Measure this machine: what a frame costs, by part and by preset. Figures of one run compare; those of two do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linker.config import GenerateSettings
from linker.errors import SettingsError
from linker.generate import PRESETS, Engine, load_engine
from linker.model.audio_context import encode_speech, pad_context
from linker.model.codec import decode_frames, encode_frames
from linker.model.masks import background_of
from linker.model.sample import ClipConditions, Sampling, sample_window
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


@torch.inference_mode()
def frames(engine: Engine) -> Figures:
    """Milliseconds a frame of each preset's sampling, and of the codec's two halves."""
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
def caches(engine: Engine) -> Figures:
    """What computing once saves: a window's step against the work that is shared by its steps."""
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


BENCHMARKS: dict[str, Callable[[Engine], Figures]] = {"frames": frames, "caches": caches}


def main(names: list[str], target: Path | None) -> None:
    """Run the named benchmarks (all without names), print a table, and write one JSON object a name to `target`."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise SettingsError(f"bench {unknown[0]}: found no such benchmark; there are {', '.join(BENCHMARKS)}")
    engine = load_engine(GenerateSettings())
    results = {}
    for name in names or list(BENCHMARKS):
        results[name] = BENCHMARKS[name](engine)
        for figure, value in results[name].items():
            print(f"{name:10} {figure:36} {value:>10}")
    if target:
        write_json(target, results)
