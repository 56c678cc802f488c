"""Base at full size on a GPU, with random weights: the values do not change the cost."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import Wav2Vec2Config, Wav2Vec2Model

from linker.bench.common import SD_CODEC, XLS_R, Figures, grey_clip, grey_portrait, seconds
from linker.bench.counted import flops
from linker.config import FPS, PRESETS, SAMPLE_RATE_HZ, GenerateSettings
from linker.engine import ROWS_ON_GPU, Engine, Recipe, prepare
from linker.media import lossless_writer
from linker.model.architecture import BASE
from linker.model.audio_context import speech_chunks
from linker.model.lingualinker import LinguaLinker
from linker.model.sample import sample_windows


def gpu() -> Figures:
    """Of each preset at 512 x 512, rows together: milliseconds a step, frames a second end to end (speech heard, frames
    denoised, decoded and written, one after the other), TFLOP/s and their share of what this card reaches with bfloat16
    matrices, peak memory. Nothing without a GPU."""
    if not torch.cuda.is_available():
        print("gpu: there is none here; nothing measured", file=sys.stderr)
        return {}
    engine, peak = base_engine(torch.device("cuda")), matrix_tflops()
    figures = {"bf16_peak_tflops": round(peak, 1), "rows_together": engine.recipe.rows}
    counts = flops()
    for name in PRESETS["base"]:
        told = preset_figures(engine, name)
        told["tflops"] = round(told["frames_a_second"] * counts[f"frame_{name}_tflop"], 1)
        told["share_of_peak"] = round(told["tflops"] / peak, 3)
        figures |= {f"{name}_{key}": value for key, value in told.items()}
    return figures


def base_engine(device: torch.device) -> Engine:
    """Base with random weights in bfloat16."""
    recipe = Recipe(Path(), "", BASE, device, torch.bfloat16, ROWS_ON_GPU, GenerateSettings())
    with device:
        nets = LinguaLinker(BASE).eval(), AutoencoderKL(**SD_CODEC).eval(), AutoencoderTiny().eval()
        speech = Wav2Vec2Model(Wav2Vec2Config(**XLS_R)).eval().requires_grad_(False)
    for net in nets:
        prepare(net, device, torch.bfloat16)
    return Engine(recipe, nets[0], nets[1], speech, nets[2])


@torch.inference_mode()
def preset_figures(engine: Engine, name: str) -> Figures:
    """What a preset costs an engine."""
    preset, rows, frames = engine.recipe.preset(name), engine.recipe.rows, engine.model.arch.window
    (clip, window), portrait = grey_clip(engine, rows), grey_portrait(engine)
    heard = np.random.default_rng(0).standard_normal(frames * SAMPLE_RATE_HZ // FPS).astype(np.float32)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def denoise() -> torch.Tensor:
        with engine.autocast():
            return sample_windows(engine.model, clip, window, engine.recipe.sampling(preset))

    def deliver(folder: Path) -> None:
        for _ in range(rows):
            list(speech_chunks(engine.speech, heard))
        for row, latents in enumerate(denoise()):
            pictures = engine.pictures(latents.float(), portrait, preset.decoder)
            with lossless_writer(folder / f"{row}.mkv", portrait.side_px, portrait.side_px) as video:
                for picture in pictures:
                    video.write(picture)

    with tempfile.TemporaryDirectory() as folder:
        denoised_s = seconds(engine, denoise, 1)
        delivered_s = seconds(engine, partial(deliver, Path(folder)), 1)
    return {
        "ms_a_step": round(1000 * denoised_s / preset.steps, 1),
        "frames_a_second": round(rows * frames / delivered_s, 3),
        "peak_memory_mb": engine.peak_memory_mb(),
    }


def matrix_tflops(side: int = 8192) -> float:
    """TFLOP/s of one large bfloat16 product."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    starts, ends = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        a @ a
    starts.record()
    for _ in range(10):
        a @ a
    ends.record()
    torch.cuda.synchronize()
    return 10 * 2 * side**3 / (starts.elapsed_time(ends) / 1000) / 1e12
