"""Seconds of the engine on this machine: by part, by preset, and against the same model run plainly."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from linker.bench.common import SD_CODEC, Figures, grey_clip, grey_portrait, mini, seconds
from linker.config import MINI_DIR, PRESETS, GenerateSettings
from linker.engine import Engine, Recipe, job_cores, prepare, resolve_dtype
from linker.model.architecture import BASE, Architecture
from linker.model.codec import Portrait, encode_frames
from linker.model.lingualinker import LinguaLinker
from linker.model.sample import ClipConditions, Sampling, Windows, advance, sample_windows
from linker.model.schedule import make_scheduler
from linker.model.unet import Conditions
from linker.process import keep_freed_memory

GUIDED = Sampling(4, 2.0)
REPEATS = 4  # of which the fastest is taken: other users of a machine slow single ones by a third
REDUCED = BASE.model_copy(
    update={
        "size": "base / 4",
        "sample_px": 256,
        "latent_px": 32,
        "channels": (80, 160, 320, 320),
        "norm_groups": 16,
        "heads": 2,
        "motion_heads": 2,
    }  # heads as wide as base has them
)


@torch.inference_mode()
def frames() -> Figures:
    """Milliseconds a frame of each preset's sampling, and of the codec's two halves, with the embedded weights."""
    engine = mini()
    arch = engine.model.arch
    clip, window = grey_clip(engine)
    pictures = np.full((arch.window, arch.sample_px, arch.sample_px, 3), 128, np.uint8)
    portrait = grey_portrait(engine)
    with engine.coding():
        latents = engine.model.normalise(encode_frames(engine.codec, pictures, portrait))
        cost = {"encode": seconds(engine, lambda: encode_frames(engine.codec, pictures, portrait))}
    cost["decode"] = seconds(engine, lambda: engine.pictures(latents, portrait, "codec"))
    with engine.autocast():
        for name, preset in PRESETS["mini"].items():
            how = engine.recipe.sampling(preset)
            cost[name] = seconds(engine, partial(sample_windows, engine.model, clip, window, how))
    return {f"{name}_ms_a_frame": round(1000 * value / arch.window, 1) for name, value in cost.items()}


@torch.inference_mode()
def caches() -> Figures:
    """What computing once saves: a window's step against the work that is shared by its steps."""
    engine = mini()
    clip, window = grey_clip(engine)
    with engine.autocast():
        once = seconds(engine, lambda: engine.model.read_preceding(window.preceding))
        once += seconds(engine, lambda: engine.model.read_portrait(clip.still))
        few = seconds(engine, lambda: sample_windows(engine.model, clip, window, Sampling(2, 2.0)))
        more = seconds(engine, lambda: sample_windows(engine.model, clip, window, Sampling(4, 2.0)))
    step = (more - few) / 2
    return {"step_ms": round(1000 * step, 1), "reference_passes_share_of_a_step": round(once / step, 3)}


def engine() -> Figures:
    """Seconds a frame of the engine as it runs here against the same model run plainly in float32, at equal steps; and
    how far the engine's latents are from the plain ones, computed in float32 and as it runs.

    The figure without a name is the smaller of the two sizes': mini at full width, base at a quarter.
    """
    found = {"mini": compared("mini"), "base": compared("base")}
    figures = {f"{size}_{key}": value for size, part in found.items() for key, value in part.items()}
    return {
        "speedup_vs_plain": min(part["speedup_vs_plain"] for part in found.values()),
        "max_rel_difference": max(part["max_rel_difference"] for part in found.values()),
        **figures,
    }


@torch.inference_mode()
def compared(size: str) -> Figures:
    """The figures of one size."""
    fast, exact = built(size, "auto"), built(size, "float32")
    clip, window = grey_clip(exact)
    plain = plain_window(exact, clip, window, GUIDED)
    plain_s = seconds(exact, lambda: plain_window(exact, clip, window, GUIDED), REPEATS)
    unhurried = sample_windows(exact.model, clip, window, GUIDED)
    with fast.autocast():
        quick = sample_windows(fast.model, *grey_clip(fast), GUIDED)
        portrait = grey_portrait(fast)
        fast_s = seconds(fast, lambda: one_window(fast, clip, window, portrait), REPEATS)
    frames = fast.model.arch.window
    return {
        "speedup_vs_plain": round(plain_s / fast_s, 2),
        "max_rel_difference": float(f"{relative(unhurried, plain):.2g}"),
        "max_rel_difference_as_run": float(f"{relative(quick.float(), plain):.2g}"),
        "plain_ms_a_frame": round(1000 * plain_s / frames, 1),
        "engine_ms_a_frame": round(1000 * fast_s / frames, 1),
    }


def one_window(engine: Engine, clip: ClipConditions, window: Windows, portrait: Portrait) -> None:
    """What the engine does for a window: denoise and decode it, its last frame first, which is looked at for drift; it
    has read the portrait before."""
    latents = sample_windows(engine.model, clip, window, GUIDED)[0].float()
    engine.pictures(latents[-1:], portrait, "codec")
    engine.pictures(latents, portrait, "codec")


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, in shares of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def built(size: str, dtype: str) -> Engine:
    """The embedded weights, or base at a quarter of its width with random ones, in this precision."""
    settings, device = GenerateSettings(dtype=dtype), torch.device("cpu")
    torch.manual_seed(0)
    torch.set_num_threads(job_cores())
    keep_freed_memory()
    if size == "mini":
        model, codec = LinguaLinker.from_pretrained(MINI_DIR), mini_codec()
    else:
        model = drawn(REDUCED)
        codec = AutoencoderKL(**{**SD_CODEC, "block_out_channels": (32, 64, 128, 128)}).eval()
    recipe = Recipe(Path(), "", model.arch, device, resolve_dtype(dtype, device), 1, settings)
    prepare(model, device, recipe.dtype)
    prepare(codec, device, recipe.codec_dtype)
    return Engine(recipe, model, codec, nn.Identity())


def mini_codec() -> nn.Module:
    from linker.model.codec import load_codec

    codec: nn.Module = load_codec(MINI_DIR / "codec")
    return codec


def drawn(arch: Architecture) -> LinguaLinker:
    """Random weights, those that start at zero too: no path is silent."""
    model = LinguaLinker(arch).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn_like(value))
    return model


def plain_window(engine: Engine, clip: ClipConditions, window: Windows, sampling: Sampling) -> Tensor:
    """The same window without any of the engine's short cuts, decoded: the reference pass again for every window, keys
    and values again at every step, both halves of the guidance whole (what the unconditional one must not know is
    multiplied by zero), the portrait encoded again, the frames before it through the codec and back."""
    model, portrait = engine.model, grey_portrait(engine)
    scheduler = make_scheduler(sampling.sampler, sampling.steps)
    seen = model.reference(portrait.latent, portrait.latent.new_zeros(1))[1].tokens
    before = model.preceding_maps(window.preceding)
    latents = window.noise((model.arch.window, *clip.still.shape[1:]))
    for index, timestep in enumerate(scheduler.timesteps):
        told = Conditions(
            batch=2,
            masks={side: mask.repeat(2, 1, 1) for side, mask in clip.masks.items()},
            scales=clip.scales.repeat(2, 1),
            ranges=model.asked(clip.ranges.repeat(2, 1)),
            reference=[
                t.block.reference_key_value(tokens.repeat(2, 1, 1))
                for t, tokens in zip(model.denoising.transformers(), seen, strict=True)
            ],
            audio=model.hear(window.speech.repeat(2, 1, 1)),
            preceding=model.remember([maps.repeat(2, 1, 1, 1) for maps in before], 2),
            keep=torch.tensor([[1.0, 1.0], [0.0, 0.0]]),
        )
        guided, free = model.denoise(latents.repeat(2, 1, 1, 1, 1), timestep.expand(2), told).chunk(2)
        velocity = free + sampling.guidance_scale * (guided - free)
        latents = advance(scheduler, velocity, timestep, latents, window, index)
    through_codec(engine, latents[0], portrait)
    return latents


def through_codec(engine: Engine, latents_TChw: Tensor, portrait: Portrait) -> None:
    """Decode a window, and encode its last frames for the next one, as pipelines do that keep pictures."""
    pictures = engine.pictures(latents_TChw, portrait, "codec")
    encode_frames(engine.codec, pictures[-engine.model.arch.preceding :], portrait)
