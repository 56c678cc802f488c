"""A tiny checkpoint in the real layout, random but written by the real classes, for tests of what uses one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from transformers import Wav2Vec2Config, Wav2Vec2Model

from linker.model.architecture import Architecture
from linker.model.lingualinker import LinguaLinker
from linker.model.motion_codec import MotionCodec
from linker.model.unet import Conditions

TINY = Architecture(
    size="tiny", sample_px=32, latent_px=8, latent_channels=4, channels=(16, 32), attention=(True, True), heads=2,
    norm_groups=8, speech_dim=24, audio_dim=12, motion_heads=2, reference_positions=True, quiet_noise=True,
)  # fmt: skip

SMALL_CODEC = {"latent_channels": 4, "widths": (8, 12, 16), "paint_width": 8}


def tiny_model(seed: int = 0, arch: Architecture = TINY) -> LinguaLinker:
    """Every weight drawn, so that no zero-initialised layer hides a path."""
    torch.manual_seed(seed)
    model = LinguaLinker(arch).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model


def small_motion_codec() -> MotionCodec:
    """Every weight drawn, so that no layer that starts at zero hides a path."""
    torch.manual_seed(0)
    codec = MotionCodec(**SMALL_CODEC).eval()
    with torch.no_grad():
        for value in codec.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return codec


def write_encoded(folder: Path, count: int) -> Path:
    """Encoded videos of noise, as the tiny model reads them, the first channel of whose latents is their number."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        arrays = {"latents": rng.standard_normal((24, 4, 8, 8)), "speech": rng.standard_normal((24, 24))}
        arrays |= {"masks": rng.random((24, 3, 8, 8)) / 3, "still": rng.standard_normal((4, 8, 8))}
        arrays |= {"reference": rng.standard_normal((4, 8, 8))}
        arrays["latents"][:, 0] = number
        arrays["samples"] = 0.1 * rng.standard_normal(24 * 640)
        told = {name: value.astype(np.float16) for name, value in arrays.items()}
        np.savez(folder / f"video{number}.npz", portrait=np.zeros((32, 32, 3), np.uint8), **told)
    return folder


def tiny_codec() -> AutoencoderDC:
    torch.manual_seed(1)
    return AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=8, encoder_block_types="ResBlock",
        decoder_block_types="ResBlock", encoder_block_out_channels=(8, 8, 16), decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(0, 1, 1), decoder_layers_per_block=(0, 1, 1), encoder_qkv_multiscales=((),) * 3,
        decoder_qkv_multiscales=((),) * 3, upsample_block_type="pixel_shuffle",
        downsample_block_type="pixel_unshuffle", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=1.0,
    )  # fmt: skip


def tiny_speech() -> Wav2Vec2Model:
    torch.manual_seed(2)
    config = Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 24),
        conv_kernel=(400, 2), conv_stride=(160, 2), num_feat_extract_layers=2, feat_extract_norm="layer",
        do_stable_layer_norm=True, num_conv_pos_embeddings=7, num_conv_pos_embedding_groups=2, vocab_size=5,
        layerdrop=0.0,
    )  # fmt: skip
    return Wav2Vec2Model(config).eval()


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """A whole checkpoint folder."""
    tiny_codec().save_pretrained(folder / "codec")
    tiny_speech().save_pretrained(folder / "speech")
    tiny_model(seed).save_pretrained(folder, {"steps": 0}, torch.float32)
    return folder


def tiny_conditions(model: LinguaLinker, frames: int = 12, batch: int = 1, seed: int = 3) -> dict[str, torch.Tensor]:
    """Random inputs by name: portrait, preceding, speech, masks (disjoint), scales."""
    rng = torch.Generator().manual_seed(seed)
    arch = model.arch
    latent = (arch.latent_channels, arch.latent_px, arch.latent_px)
    return {
        "portrait": torch.randn((batch, *latent), generator=rng),
        "preceding": torch.randn((batch, arch.preceding, *latent), generator=rng),
        "speech": torch.randn((batch, frames + arch.audio_context - 1, arch.speech_dim), generator=rng),
        "masks": torch.softmax(torch.randn((batch, 4, 32, 32), generator=rng), 1)[:, :3],
        "scales": torch.ones(batch, 3),
    }


def told(model: LinguaLinker, given: dict[str, torch.Tensor]) -> Conditions:
    """The denoising net's conditions out of such inputs."""
    return Conditions(
        len(given["portrait"]),
        model.mask_pyramid(given["masks"]),
        given["scales"],
        model.read_portrait(given["portrait"]),
        model.hear(given["speech"]),
        model.read_preceding(given["preceding"]),
    )
