"""The mini model's codec (model/motion_codec.py), trained on pairs of frames of the training videos.

256 x 256 pictures become 16 x 16 latents of 16 channels: a latent place is a mini U-Net's finest token.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linker.model.motion_codec import MotionCodec, laid, moved
from linker.train.fit import Plan, fit
from linker.train.ranks import Ranks, mixed, training_dtype

LATENT_NOISE = 0.1  # deviation added to latents in training (they are held near 1), so that neighbours decode alike
RESTING_SHARE = 0.8  # of portraits are a video's first frame, mouth closed, as portraits mostly are
WEIGHTS = (1.0, 6.0, 3.0)  # of head, mouth and eyes beside the 1 that every pixel has
CHOICES = 2  # frames of which the one with the wider mouth is shown: speech rests more than it opens
TEAR = 0.3  # weight of the flow's changes from place to place, pixels: what it cannot move is painted, not torn
LOOKS = 2  # colourings of a pair: the encoder never sees the one that the decoder must draw


def frame_files(videos: Path) -> list[Path]:
    """Frames of the whole videos in a folder, in the order of their names."""
    return [path.with_suffix(".frames.npy") for path in sorted(videos.glob("*.npz"))]


def draw_pairs(files: list[Path], step: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Portraits and frames (LOOKS, batch, 3, H, W) in -1..1, and the frames' weights (batch, 1, h, w); a function of
    `step`. Each look has colours of its own."""
    rng = np.random.default_rng(step)
    pictures, weights = [], []
    for _ in range(batch):
        path, mirror = files[rng.integers(len(files))], int(rng.choice([-1, 1]))
        frames = np.load(path, mmap_mode="r")
        with np.load(path.with_suffix("").with_suffix(".npz")) as truth:
            masks, opening = truth["masks"], truth["opening_px"]
        shown = int(max(rng.integers(len(frames), size=CHOICES), key=lambda frame: opening[frame]))
        still = 0 if rng.random() < RESTING_SHARE else int(rng.integers(len(frames)))
        pair = np.stack([frames[still], frames[shown]])[:, :, ::mirror].astype(np.float32)
        pictures.append(np.stack([coloured(pair, rng) for _ in range(LOOKS)]))
        weights.append(1 + np.tensordot(WEIGHTS, masks[shown].astype(np.float32), 1)[None, :, ::mirror])
    portraits, targets = torch.from_numpy(np.stack(pictures)).permute(2, 1, 0, 5, 3, 4) / 127.5 - 1
    return portraits, targets, torch.from_numpy(np.stack(weights)).float()


def coloured(pair: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures in another light: gain and offset of each channel, a gamma, sometimes exchanged channels; 0..255."""
    cast = np.clip(pair * rng.uniform(0.75, 1.15, 3) + rng.uniform(-25, 25, 3), 0, 255).astype(np.float32)
    cast = cast[..., rng.permutation(3)] if rng.random() < 0.3 else cast
    return np.asarray(255 * (cast / 255) ** np.float32(rng.uniform(0.75, 1.3)), np.float32)


def picture_loss(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of the picture and of its gradients at four sizes: edges stay sharp without a pretrained network, and
    coarse sizes pull a flow from afar."""
    loss = made.new_zeros(())
    for _ in range(4):
        error = made - wanted
        share = F.interpolate(weight, error.shape[-2:], mode="bilinear", align_corners=False)
        loss = loss + (error.abs() * share).mean()
        for axis in (2, 3):
            loss = loss + (error.diff(dim=axis).abs() * share.narrow(axis, 0, share.shape[axis] - 1)).mean()
        made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
    return loss


def roughness(flow: Tensor) -> Tensor:
    """Mean change of a flow (B, 2, h, w) between neighbouring places, in its unit."""
    return flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()


def train_codec(videos: Path, folder: Path, codec: Path, steps: int, batch: int = 8) -> None:
    """Train the codec on the videos' frames; writes a diffusers folder `codec`."""
    warnings.filterwarnings("ignore", message=".*channels_last.*")
    torch.manual_seed(0)
    device = Ranks.join().device
    net = MotionCodec().to(device, memory_format=torch.channels_last)
    files = frame_files(videos)

    def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
        portraits, targets, weight = (part.to(device) for part in draw_pairs(files, number, batch))
        with mixed(device, training_dtype("auto", device)):
            latent = net.encode(targets[0], portraits[0])
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(number)).to(device)
            seen = net.read(portraits[1].contiguous(memory_format=torch.channels_last))
            features = net.flow(latent + LATENT_NOISE * noise)
            flow = net.flow_of(features)
            shifted = moved(seen.pixels, flow)
            made = laid(shifted, *net.painted(shifted, features))
        wide = (latent.square().mean((0, 2, 3)) - 1).abs().mean()
        rough = roughness(flow) * targets.shape[-1] / 2
        loss = picture_loss(made, targets[1], weight) + TEAR * rough + 0.01 * wide
        loss = loss + 0.5 * picture_loss(shifted, targets[1], torch.ones_like(weight))
        errors = {name: (x - targets[1]).abs().mean().item() for name, x in (("l1", made), ("moved", shifted))}
        return loss, errors | {"still": (portraits[1] - targets[1]).abs().mean().item()}

    fit(net, loss_of_draw, Plan(steps=steps, learning_rate=1e-3, warmup=100, ema=0.995, weight_decay=0.0), folder)
    net.cpu().save_pretrained(codec)
