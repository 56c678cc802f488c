"""Portraits and frames to latents and back, with a codec that arrives as an argument.

Two kinds are known. A diffusers autoencoder gives every picture a latent of its own; a MotionCodec gives a frame its
difference from the portrait, and draws it by moving the portrait's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from linker import backends
from linker.model.motion_codec import Appearance, MotionCodec

FINEST = 2


@dataclass(frozen=True)
class Portrait:
    """What a codec reads of a portrait once. `latent` (1, C, h, w): what the reference net is shown; `still`
    (1, C, h, w): the latent of a frame that is the portrait; `side_px` of the frames that decoding makes;
    `appearance`: what it needs besides latents."""

    latent: Tensor
    still: Tensor
    side_px: int
    appearance: Appearance | None = None


def load_codec(folder: Path, channels: int | None = None) -> nn.Module:
    """The codec of a checkpoint, whose latents have `channels`. Raises EnvironmentError where it does not load."""
    net: nn.Module = backends.load_codec(folder, MotionCodec, channels)
    return net


def read_portrait(codec: nn.Module, picture_SS3: np.ndarray, sample_px: int) -> Portrait:
    """(S, S, 3) uint8 RGB -> what is told of it, latents as the codec gives them. The nets see it `sample_px` large; a
    MotionCodec draws frames with its finer pixels, up to FINEST times as large."""
    picture = resized(picture_SS3, sample_px)
    if isinstance(codec, MotionCodec):
        side = min(max(len(picture_SS3) // 2 * 2, sample_px), FINEST * sample_px)
        fine = to_pixels(codec, resized(picture_SS3, side)[None])
        appearance = codec.read(to_pixels(codec, picture[None]), fine)
        return Portrait(appearance.latent, torch.zeros_like(appearance.latent), side, appearance)
    latent = plain_latents(codec, picture[None])
    return Portrait(latent, latent, sample_px)


def resized(picture_SS3: np.ndarray, side: int) -> np.ndarray:
    """A square picture at another size; the same where it has it."""
    if len(picture_SS3) == side:
        return picture_SS3
    return np.array(Image.fromarray(picture_SS3).resize((side, side), Image.Resampling.LANCZOS))


def encode_frames(codec: nn.Module, frames_THW3: np.ndarray, portrait: Portrait) -> Tensor:
    """(T, H, W, 3) uint8 RGB -> (T, C, h, w) float32 latents as the codec gives them (KL codecs: their mean)."""
    if isinstance(codec, MotionCodec):
        assert portrait.appearance is not None
        return codec.encode(to_pixels(codec, frames_THW3), portrait.appearance.pixels)
    return plain_latents(codec, frames_THW3)


def plain_latents(codec: nn.Module, frames_THW3: np.ndarray) -> Tensor:
    """The latents of pictures by themselves."""
    encoded = codec.encode(to_pixels(codec, frames_THW3))
    latent = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    return latent.float()


def decode_frames(codec: nn.Module, latents_TChw: Tensor, appearance: Appearance | None = None) -> np.ndarray:
    """(T, C, h, w) latents of the codec -> (T, H, W, 3) uint8 RGB."""
    shown = appearance.repeated(len(latents_TChw)) if appearance else None
    return to_pictures(decode_pixels(codec, latents_TChw, shown))


def decode_pixels(
    codec: nn.Module, latents_BChw: Tensor, appearance: Appearance | None = None, shown: bool = True
) -> Tensor:
    """Latents of the codec -> pictures (B, 3, H, W) in -1..1; `appearance`: a MotionCodec's, of as many portraits;
    `shown`: as its pictures are shown, and not as it learns from them."""
    latents = latents_BChw.contiguous(memory_format=torch.channels_last)
    moves = isinstance(codec, MotionCodec)
    pixels = codec.decode(latents, appearance, shown) if moves else codec.decode(latents).sample
    return pixels.float()


def to_pixels(codec: nn.Module, frames_THW3: np.ndarray) -> Tensor:
    """uint8 pictures -> (T, 3, H, W) in -1..1 where the codec is."""
    device = next(codec.parameters()).device
    pixels = torch.from_numpy(frames_THW3).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def to_pictures(pixels_T3HW: Tensor) -> np.ndarray:
    """(T, 3, H, W) in -1..1 -> (T, H, W, 3) uint8 RGB."""
    scaled = ((pixels_T3HW + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
