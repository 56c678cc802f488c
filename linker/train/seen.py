"""What is seen of a window: its most telling frames as the codec draws them, and how far they are from the true ones.

What an encoder writes of the same mouth or lids differs from face to face, though a decoder draws them of less: a loss
on latents asks for all of it, a loss on pixels for what is seen (decision 0018).

Shape suffixes: B = samples, F = frames, C = channels, h x w = a latent's sides, S = a picture's.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from linker.config import REGIONS
from linker.model.architecture import Architecture
from linker.model.codec import decode_pixels, load_codec
from linker.model.motion_codec import Appearance, MotionCodec
from linker.train.losses import blinking, masked_mean

MOUTH, EYES = REGIONS.index("mouth"), REGIONS.index("eyes")


class Seen:
    """Compares latents, as the nets model them, by the pictures that the codec in `folder` draws of them."""

    def __init__(self, folder: Path, arch: Architecture, device: torch.device) -> None:
        codec = load_codec(folder, arch.latent_channels).to(device)
        self.codec = codec.to(memory_format=torch.channels_last).requires_grad_(False)
        channels = arch.latent_channels
        self.mean = torch.tensor(arch.latent_mean or (0.0,) * channels, device=device).view(-1, 1, 1)
        self.std = torch.tensor(arch.latent_std or (1.0,) * channels, device=device).view(-1, 1, 1)

    def losses(
        self, made_BFChw: Tensor, true_BFChw: Tensor, portrait_B3SS: Tensor, masks_B3hw: Tensor, blink_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean difference of the pixels at the mouth and at the eyes, 0..2, each (B,): of the frame of each sample that
        tells most of the one, and of that which tells most of the other."""
        with torch.no_grad():
            appearance = self.codec.read(portrait_B3SS) if isinstance(self.codec, MotionCodec) else None
        at_mouth = telling(true_BFChw, masks_B3hw[:, MOUTH], torch.zeros_like(blink_BF))
        at_eyes = telling(true_BFChw, masks_B3hw[:, EYES], blink_BF)
        parts = []
        for region, frame_B in ((MOUTH, at_mouth), (EYES, at_eyes)):
            made_BChw, true_BChw = (each[torch.arange(len(each)), frame_B] for each in (made_BFChw, true_BFChw))
            with torch.no_grad():
                true_B3SS = self.drawn(true_BChw, appearance)
            off_BSS = (self.drawn(made_BChw, appearance) - true_B3SS).abs().mean(1)
            parts.append(masked_mean(off_BSS[:, None], F.interpolate(masks_B3hw, off_BSS.shape[1:])[:, region]))
        return parts[0], parts[1]

    def drawn(self, latent_BChw: Tensor, appearance: Appearance | None) -> Tensor:
        """Pictures (B, 3, S, S) in -1..1, their paint as the codec learnt it: what is decided has no gradient."""
        return decode_pixels(self.codec, latent_BChw * self.std + self.mean, appearance, shown=False)


def telling(latents_BFChw: Tensor, mask_Bhw: Tensor, blink_BF: Tensor) -> Tensor:
    """The frame of each sample that is least like the mean of its frames within the mask, (B,); those whose lids the
    speech shuts count more."""
    change_BFhw = (latents_BFChw - latents_BFChw.mean(1, keepdim=True)).square().mean(2)
    return (blinking(change_BFhw, blink_BF) * mask_Bhw[:, None]).sum((2, 3)).argmax(1)
