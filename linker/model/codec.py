"""Pictures to latents and back, with a diffusers autoencoder that arrives as an argument."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def encode_frames(codec: nn.Module, frames_THW3: np.ndarray) -> Tensor:
    """(T, H, W, 3) uint8 RGB -> (T, C, h, w) float32 latents as the codec gives them (KL codecs: their mean)."""
    device = next(codec.parameters()).device
    pixels = torch.from_numpy(frames_THW3).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    encoded = codec.encode(pixels.contiguous(memory_format=torch.channels_last))
    latent = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    return latent.float()


def decode_frames(codec: nn.Module, latents_TChw: Tensor) -> np.ndarray:
    """(T, C, h, w) latents of the codec -> (T, H, W, 3) uint8 RGB."""
    pixels = codec.decode(latents_TChw.contiguous(memory_format=torch.channels_last)).sample.float()
    scaled = ((pixels + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
