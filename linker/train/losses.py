"""The loss of section 3.2: min-SNR weighted error over the frame, and again over the mouth and the eyes."""

from __future__ import annotations

import torch
from torch import Tensor

from linker.model.schedule import signal_levels

GAMMA = 5.0
BLINKS = 3.0  # how much more the eyes of a frame count whose lids the speech shuts
CALM = 0.3  # squared change from the portrait, in deviations, under which samples count alike


class Noising:
    """Forward diffusion with the betas that inference uses (zero terminal SNR) and v-prediction targets."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.signal = signal_levels().to(device)

    def add(self, clean: Tensor, noise: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """(noisy latents, velocity) for samples (B, ...) at timesteps (B,)."""
        level = self.signal[timestep_B].view(-1, *[1] * (clean.ndim - 1))
        root, rest = level.sqrt(), (1 - level).sqrt()
        return root * clean + rest * noise, root * noise - rest * clean

    def clean(self, noisy: Tensor, velocity: Tensor, timestep_B: Tensor) -> Tensor:
        """The inverse of `add`: what the noisy latents (B, ...) are without their noise."""
        level = self.signal[timestep_B].view(-1, *[1] * (noisy.ndim - 1))
        return level.sqrt() * noisy - (1 - level).sqrt() * velocity

    def weight(self, timestep_B: Tensor) -> Tensor:
        """min-SNR for v-prediction, floored as velocity needs it: 1 at high noise, gamma / (SNR + 1) at low noise."""
        level = self.signal[timestep_B]
        return torch.clamp(GAMMA * (1 - level), max=1.0)  # 1 - level = 1 / (SNR + 1)


def evened(target_BFChw: Tensor) -> Tensor:
    """Weight of each sample (B,) against how much moves in it: lively videos would drown the calm ones."""
    return 1 / (target_BFChw.square().mean((1, 2, 3, 4)) + CALM)


def masked_mean(error_BFhw: Tensor, mask_Bhw: Tensor) -> Tensor:
    """Mean over the frames and the mask of each sample, (B,); zero where the mask is empty."""
    weight = mask_Bhw[:, None].expand_as(error_BFhw)
    return (error_BFhw * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-3)


def blinking(error_BFhw: Tensor, blink_BF: Tensor) -> Tensor:
    """Errors of frames in which the speech shuts lids count more: a tenth of all, and what shuts is small
    (decisions 0016 and 0019)."""
    return error_BFhw * (1 + BLINKS * blink_BF)[:, :, None, None]


def region_loss(
    error_BFhw: Tensor, masks_B3hw: Tensor, blink_BF: Tensor, weight_B: Tensor, mouth: float, eyes: float
) -> tuple[Tensor, dict[str, float]]:
    """mean over frame + mouth x mean over mouth + eyes x mean over eyes, each sample weighted by itself; blink: how far
    the speech shuts lids, where that is known, else 0."""
    whole, at_mouth = error_BFhw.mean((1, 2, 3)), masked_mean(error_BFhw, masks_B3hw[:, 1])
    at_eyes = masked_mean(blinking(error_BFhw, blink_BF), masks_B3hw[:, 2])
    loss = (weight_B * (whole + mouth * at_mouth + eyes * at_eyes)).mean()
    return loss, {"frame": whole.mean().item(), "mouth": at_mouth.mean().item(), "eyes": at_eyes.mean().item()}


def changes(error_BFChw: Tensor) -> Tensor:
    """How the error changes from each frame to the next; the frame before the first, which a window is given, has
    none. An error that comes slowly is not seen; one that jumps is a flicker, or a seam between two windows."""
    return torch.diff(error_BFChw, dim=1, prepend=torch.zeros_like(error_BFChw[:, :1]))
