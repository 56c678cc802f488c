"""What benchmarks share: a stopwatch, and a clip whose values do not change its cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from linker.config import GenerateSettings
from linker.engine import Engine, load_engine
from linker.model.codec import Portrait
from linker.model.masks import background_of
from linker.model.sample import ClipConditions, Windows, preceding_frames

Figures = dict[str, float]
SD_CODEC: dict[str, Any] = {  # Stable Diffusion 1.5's autoencoder
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
XLS_R: dict[str, Any] = {  # facebook/wav2vec2-xls-r-300m
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "feat_proj_dropout": 0.1,
    "num_codevectors_per_group": 320, "codevector_dim": 768, "proj_codevector_dim": 768,
}  # fmt: skip


def seconds(engine: Engine, action: Callable[[], Any], repeats: int = 2) -> float:
    """Wall seconds of the fastest of `repeats` calls, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        engine.synchronize()
        began = time.perf_counter()
        action()
        engine.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def grey_portrait(engine: Engine) -> Portrait:
    """A grey picture, read."""
    side = engine.model.arch.sample_px
    return engine.read_portrait(np.full((side, side, 3), 128, np.uint8))


def grey_clip(engine: Engine, rows: int = 1) -> tuple[ClipConditions, Windows]:
    """Clips and their first windows: a grey portrait and noise for speech."""
    model, arch, device = engine.model, engine.model.arch, engine.device
    masks, portrait = torch.full((3, 64, 64), 0.3), grey_portrait(engine)
    heard = (1, arch.window + arch.audio_context - 1, arch.speech_dim)
    speech = torch.randn(heard, generator=torch.Generator().manual_seed(0)).to(device)
    with engine.autocast():
        reference = model.read_portrait(portrait.latent)
    clip = ClipConditions(
        still=portrait.still,
        reference=reference,
        masks=model.mask_pyramid(masks[None].to(device)),
        scales=torch.ones(1, 3, device=device),
        ranges=torch.ones(1, 3, device=device),
        background=background_of(masks, arch.latent_px).to(device),
    )
    window = Windows((0,), (0,), speech, preceding_frames(model, portrait.still, None), (False,))
    return ClipConditions.together([clip] * rows), Windows.together([window] * rows)


@cache
def mini() -> Engine:
    """The embedded weights, loaded once."""
    return load_engine(GenerateSettings())
