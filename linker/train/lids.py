"""What in the latents shuts the lids: a linear reading of them, found in drawn videos, that a loss can hold a net to.

A blink is one direction of many at the eyes and is there in a tenth of the frames: of the latents' variance it holds a
fortieth, and a loss on latents is content without it (decision 0017).

Shape suffixes: B = samples, F = frames, T = frames of a video, C = channels, h x w = a latent's sides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linker.config import REGIONS
from linker.train.dataset import Windows, acting_of

EYES = REGIONS.index("eyes")
REACH = 3  # places a side of an eye's surroundings that are read
READ = 800  # videos that the reading is found in
RIDGE = 1e-3  # of the features' mean variance
LEAST = 1e-4  # variance of the lids under which videos tell nothing of them


class LidReading:
    """`kernel` (1, C, 3, 3): laid over latents and averaged over the eyes it tells how far the lids are shut, beyond
    the portrait's, in deviations of what videos do; None where no video tells (footage)."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        found = found_reading(windows)
        self.kernel = None if found is None else found.to(device)

    def loss(self, error_BFChw: Tensor, eyes_Bhw: Tensor) -> Tensor:
        """How far the lids are off, squared, a sample (B,); `eyes`: masks over the samples' frames."""
        if self.kernel is None:
            return error_BFChw.new_zeros(len(error_BFChw))
        read = F.conv2d(error_BFChw.flatten(0, 1), self.kernel, padding=REACH // 2).unflatten(0, error_BFChw.shape[:2])
        weight = eyes_Bhw / eyes_Bhw.sum((1, 2), keepdim=True).clamp(min=1e-3)
        return (read[:, :, 0] * weight[:, None]).sum((2, 3)).square().mean(1)


def found_reading(windows: Windows) -> Tensor | None:
    """The kernel, by ridge regression within each of the first READ videos; None where lids are not told."""
    features = windows.arch.latent_channels * REACH**2
    square, product, level, frames = np.zeros((features, features)), np.zeros(features), 0.0, 0
    for path in windows.files[:READ]:
        video = windows.open(path)
        if "blink" in video:
            seen, shut = around_eyes(windows.normal(video["latents"]), video["masks"]), performed_blink(video)
            seen, shut = seen - seen.mean(0), shut - shut.mean()
            square, product = square + seen.T @ seen, product + seen.T @ shut
            level, frames = level + float(shut @ shut), frames + len(shut)
    if level < LEAST * frames or not frames:
        return None
    kernel = np.linalg.solve(square + RIDGE * np.trace(square) / features * np.eye(features), product)
    return torch.from_numpy(kernel / np.sqrt(level / frames)).float().view(1, -1, REACH, REACH)


def around_eyes(latents_TChw: np.ndarray, masks_T3hw: np.ndarray) -> np.ndarray:
    """Means over the eyes of the latents at, left of, above ... each place, (T, C x 9) float64."""
    eyes = masks_T3hw[:, EYES].astype(np.float32).max(0).ravel()
    near = F.unfold(torch.from_numpy(latents_TChw), REACH, padding=REACH // 2)  # (T, C x 9, h x w)
    return (near.double() @ torch.from_numpy(eyes / max(eyes.sum(), 1e-3)).double()).numpy()


def performed_blink(video: Mapping[str, np.ndarray]) -> np.ndarray:
    """How far the lids of a drawn video are shut, (T,) in 0..1: what the speech asks, as it is acted."""
    scales, ranges = acting_of(video)
    return np.clip(video["blink"].astype(np.float64) * float(scales[EYES] * ranges[EYES]), 0, 1)
