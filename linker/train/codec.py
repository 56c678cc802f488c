"""The mini model's image codec: a small diffusers autoencoder, trained on frames of the training videos.

256 x 256 pictures become 16 x 16 latents of 32 channels: a latent place is a mini U-Net's finest token.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from torch import Tensor, nn

from linker.model.codec import encode_frames
from linker.train.fit import Plan, fit

LATENT_NOISE = 0.02  # deviation added to latents in training (they are held near 1), so that neighbours decode alike


def small_codec() -> AutoencoderDC:
    """AutoencoderDC's residual pixel shuffles with 3.6 M parameters and a factor of 16."""
    widths, layers = (32, 32, 64, 128, 128), (0, 1, 1, 2, 2)
    return AutoencoderDC(
        in_channels=3, latent_channels=32, attention_head_dim=32,
        encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        encoder_layers_per_block=layers, decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 5, decoder_qkv_multiscales=((),) * 5,
        upsample_block_type="pixel_shuffle", downsample_block_type="pixel_unshuffle",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=1.0,
    )  # fmt: skip


def frame_files(videos: Path) -> list[Path]:
    """Frames of the whole videos in a folder, in the order of their names."""
    return [path.with_suffix(".frames.npy") for path in sorted(videos.glob("*.npz"))]


def draw_crops(files: list[Path], step: int, batch: int, side: int) -> Tensor:
    """(batch, 3, side, side) in -1..1: random crops, flips and colour casts of random frames; a function of `step`."""
    rng = np.random.default_rng(step)
    crops = []
    for _ in range(batch):
        frames = np.load(files[rng.integers(len(files))], mmap_mode="r")
        top, left = rng.integers(0, frames.shape[1] - side + 1, 2)
        crop = np.array(frames[rng.integers(len(frames)), top : top + side, left : left + side], np.float32)
        crop = crop[:, :: rng.choice([-1, 1])] * rng.uniform(0.7, 1.15, 3) + rng.uniform(-25, 25, 3)
        crops.append(np.clip(crop[..., rng.permutation(3)] if rng.random() < 0.3 else crop, 0, 255))
    return torch.from_numpy(np.stack(crops)).float().permute(0, 3, 1, 2) / 127.5 - 1


def picture_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the picture and of its gradients at three sizes: edges stay sharp without a pretrained network."""
    loss = (made - wanted).abs().mean()
    for _ in range(3):
        for axis in (2, 3):
            loss = loss + 0.5 * (made.diff(dim=axis) - wanted.diff(dim=axis)).abs().mean()
        made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
    return loss


def train_codec(videos: Path, folder: Path, codec: Path, steps: int, batch: int = 8) -> None:
    """Train the image codec on the videos' frames; writes a diffusers folder `codec`."""
    warnings.filterwarnings("ignore", message=".*channels_last.*")
    torch.manual_seed(0)
    net = small_codec().to(memory_format=torch.channels_last)

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = torch.Generator().manual_seed(step)
        wanted = draw_crops(frame_files(videos), step, batch, 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            latent = net.encode(wanted).latent
            noisy = latent + LATENT_NOISE * torch.randn(latent.shape, generator=rng)
            made = net.decode(noisy).sample.float()
        spread = latent.float().square().mean((0, 2, 3))
        loss = picture_loss(made, wanted) + 0.01 * (spread - 1).abs().mean()
        return loss, {"l1": (made - wanted).abs().mean().item(), "spread": spread.mean().item()}

    fit(net, loss_of_step, Plan(steps=steps, learning_rate=1e-3, warmup=100, ema=0.995, weight_decay=0.0), folder)
    net.save_pretrained(codec)


@torch.no_grad()
def latent_statistics(net: nn.Module, videos: Path, count: int = 64) -> tuple[list[float], list[float]]:
    """Per-channel mean and deviation of the latents of `count` videos' middle frames."""
    latents = []
    for path in frame_files(videos)[:count]:
        frames = np.load(path, mmap_mode="r")
        latents.append(encode_frames(net, np.array(frames[len(frames) // 2][None])))
    latent = torch.cat(latents)
    return latent.mean((0, 2, 3)).tolist(), latent.std((0, 2, 3)).tolist()
