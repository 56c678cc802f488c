"""The mini model's codec (model/motion_codec.py), trained on pairs of frames of the training videos.

256 x 256 pictures become 16 x 16 latents of 16 channels: a latent place is a mini U-Net's finest token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linker.model.motion_codec import MotionCodec, laid, moved
from linker.synth.video import TWINS
from linker.train.ahead import Ahead
from linker.train.fit import Plan, Show, fit
from linker.train.ranks import Ranks, mixed, training_dtype

LATENT_NOISE = 0.2  # deviation added to latents in training (they are held near 1), so that neighbours decode alike
RESTING_SHARE = 0.8  # of portraits are a video's first frame, mouth closed, as portraits mostly are
WEIGHTS = (1.0, 6.0, 3.0)  # of head, mouth and eyes beside the 1 that every pixel has
CHOICES = 2  # frames of which the one with the wider mouth, or with lids more closed, is shown: both are rare
TEAR = 0.3  # weight of the flow's changes from place to place, pixels: what it cannot move is painted, not torn
LOOKS = 2  # colourings of a pair: the encoder never sees the one that the decoder must draw
ASTRAY = 0.1  # weight of how far tracked points are from where the flow takes them, pixels (decision 0023)
PAINTED_FROM = 0.25  # share of the steps before which nothing is painted, so that no paint hides a flow that fails
CROSSED = 0.75  # share of couples of twins in which each is moved by what was seen of the other (decision 0016)
MEASURED = 40  # draws that tell how the finished codec's latents vary
ALIKE = 0.1  # weight of how far twins' latents are apart
CPU = torch.device("cpu")


def frame_files(videos: Path) -> list[Path]:
    """Frames of the whole videos in a folder, in the order of their names."""
    return [path.with_suffix(".frames.npy") for path in sorted(videos.glob("*.npz"))]


@dataclass(frozen=True)
class Pairs:
    """Portraits and frames (LOOKS, batch, 3, H, W) in -1..1, each look in colours of its own; the frames' `weight`
    (batch, 1, h, w), and where `tracked` points are in the frame and in the portrait, (batch, 2, n, 2) in -1..1. Twins,
    who do the same, lie beside each other; `mover` (batch,) is whose latents move whom, `videos` (batch,) their
    numbers."""

    portraits: Tensor
    frames: Tensor
    weight: Tensor
    tracked: Tensor
    mover: Tensor
    videos: Tensor


@dataclass(frozen=True)
class Sheets:
    """Pictures (H, W, 3) uint8 of what a codec in training makes, one `every` so many steps; 0 = none."""

    made: Callable[[MotionCodec], np.ndarray]
    every: int

    def show(self, net: MotionCodec) -> Show:
        return lambda step, journal: journal.show(step, "samples", self.made(net))


def twins_of(files: list[Path]) -> list[list[Path]]:
    """The videos in which all TWINS are there, by what they do (synth/video.py)."""
    groups = [list(group) for _, group in groupby(files, lambda path: number_of(path) // TWINS)]
    return [group for group in groups if len(group) == TWINS]


def number_of(frames_file: Path) -> int:
    """The number that a video is named by."""
    return int(frames_file.name.split(".")[0])


def names_of(videos: Tensor) -> list[str]:
    """Videos as people are told of them, by their numbers."""
    return [f"video {number}" for number in videos.tolist()]


def draw_pairs(twins: list[list[Path]], step: int, batch: int, device: torch.device = CPU) -> Pairs:
    """`batch` pairs, all of the twins that are drawn; a function of `step`."""
    rng = np.random.default_rng(step)
    columns, mover, videos = list[tuple[np.ndarray, ...]](), list[int](), list[int]()
    for first in range(0, batch, TWINS):
        chosen = twins[rng.integers(len(twins))]
        videos += map(number_of, chosen)
        columns += draw_twins(chosen, rng)
        turned = 1 if rng.random() < CROSSED else 0
        mover += list(np.roll(np.arange(first, first + TWINS), turned))
    parts = (torch.from_numpy(np.stack(each)).to(device) for each in zip(*columns, strict=True))
    pictures, lights, weight, tracked = parts
    portraits, frames = coloured(pictures, lights)
    numbers = (torch.tensor(each, device=device) for each in (mover, videos))
    return Pairs(portraits, frames, weight.float(), tracked, *numbers)


def draw_twins(files: list[Path], rng: np.random.Generator) -> list[tuple[np.ndarray, ...]]:
    """Of each twin, its pair (2, H, W, 3) of the same two moments, the LOOKS lights that they are seen in, the weights
    (1, h, w) of the frame, and the points tracked in frame and portrait, (2, n, 2)."""
    mirror, truths = int(rng.choice([-1, 1])), [np.load(path.with_suffix("").with_suffix(".npz")) for path in files]
    rare = truths[0][("opening_px", "blink")[rng.integers(2)]]
    shown = int(max(rng.integers(len(rare), size=CHOICES), key=lambda frame: rare[frame]))
    still = 0 if rng.random() < RESTING_SHARE else int(rng.integers(len(rare)))
    columns = list[tuple[np.ndarray, ...]]()
    for path, truth in zip(files, truths, strict=True):
        frames = np.load(path, mmap_mode="r")
        pair, lights = frames[[still, shown]][:, :, ::mirror], np.stack([draw_light(rng) for _ in range(LOOKS)])
        weight = 1 + np.tensordot(WEIGHTS, truth["masks"][shown].astype(np.float32), 1)[None, :, ::mirror]
        columns.append((pair, lights, weight, tracked_at(truth, [shown, still], frames.shape[1], mirror)))
        truth.close()
    return columns


def tracked_at(truth: Mapping[str, np.ndarray], moments: list[int], side_px: int, mirror: int) -> np.ndarray:
    """Where tracked points are at some moments, (moments, n, 2) float32, the picture's sides at -1 and 1."""
    points = truth["tracked"][moments] / np.float32(side_px / 2) - 1
    return points * np.float32([mirror, 1])


def draw_light(rng: np.random.Generator) -> np.ndarray:
    """A light (10,): gain and offset (in 0..255) of each channel, the channels' order, mostly as it is, and a gamma."""
    cast = [rng.uniform(0.75, 1.15, 3), rng.uniform(-25, 25, 3)]
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    return np.concatenate([*cast, order, [rng.uniform(0.75, 1.3)]]).astype(np.float32)


def coloured(pictures_BNHW3: Tensor, lights_BLK: Tensor) -> Tensor:
    """Pictures, 0..255, in other lights: (N, L, B, 3, H, W) in -1..1, as they lie in memory channels last."""
    gain, offset, order, gamma = lights_BLK.transpose(0, 1)[:, :, None, None, None].split((3, 3, 3, 1), -1)
    cast = (pictures_BNHW3 * gain + offset).clamp(0, 255) / 255
    cast = torch.take_along_dim(cast, order.long(), -1) ** gamma
    return cast.permute(2, 0, 1, 5, 3, 4) * 2 - 1


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


def flow_loss(flow_B2hw: Tensor, tracked_B2n2: Tensor, side_px: int) -> tuple[Tensor, float]:
    """What a flow costs that loses tracked points or tears; by how many pixels it loses them."""
    off_px = astray(flow_B2hw, tracked_B2n2, side_px)
    return ASTRAY * off_px + TEAR * roughness(flow_B2hw) * side_px / 2, off_px.item()


def astray(flow_B2hw: Tensor, tracked_B2n2: Tensor, side_px: int) -> Tensor:
    """How far, in pixels, tracked points of frames are taken from where they are in the portraits: the mean over those
    that are seen in both, x and y added."""
    here, there = tracked_B2n2.unbind(1)
    seen = (tracked_B2n2.abs() < 1).all(-1).all(1)  # NaN is not
    here, wanted = here.nan_to_num(), (there - here).nan_to_num()
    told = F.grid_sample(flow_B2hw, here[:, :, None], align_corners=False)[..., 0].transpose(1, 2)
    off = ((told - wanted).abs().sum(-1) * seen).sum() / seen.sum().clamp(min=1)
    return off * side_px / 2


def roughness(flow: Tensor) -> Tensor:
    """Mean change of a flow (B, 2, h, w) between neighbouring places, in its unit."""
    return flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean()


def train_codec(
    videos: Path,
    folder: Path,
    steps: int,
    batch: int = 8,
    data: str = "",
    sheets: Sheets | None = None,
) -> MotionCodec:
    """The codec, trained on the videos' frames, its latents evened out. `data` tells the videos from others; `sheets`
    are in `folder`/samples."""
    torch.manual_seed(0)
    device = Ranks.join().device
    net = MotionCodec().to(device, memory_format=torch.channels_last)
    net.lids.requires_grad_(False)  # the pattern of shut lids has a part of its own (lids.py)
    twins = twins_of(frame_files(videos))

    every = sheets.every if sheets else 0
    plan = Plan(steps=steps, learning_rate=6e-4, warmup=100, ema=0.995, weight_decay=0.0, show_every=every)
    with Ahead(lambda n: draw_pairs(twins, n, batch, device)) as draws:

        def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
            noise = torch.Generator().manual_seed(number)
            return codec_loss(net, draws(number), noise, paints=number >= PAINTED_FROM * steps)

        def names_of_draw(number: int) -> list[str]:
            return names_of(draw_pairs(twins, number, batch).videos)

        fit(net, loss_of_draw, plan, folder, names_of_draw, sheets.show(net) if sheets else None, data)
    even_out(net, covariance(net, twins, steps, batch))
    return net.requires_grad_(True)


def codec_loss(
    net: MotionCodec, pairs: Pairs, noise: torch.Generator, paints: bool = True
) -> tuple[Tensor, dict[str, float]]:
    """How far the drawn frames are off, moved alone and painted, and how far twins' latents are from being the same."""
    target = pairs.frames[1]
    with mixed(target.device, training_dtype("auto", target.device)):
        latent = net.encode(pairs.frames[0], pairs.portraits[0])
        noisy = latent + LATENT_NOISE * torch.randn(latent.shape, generator=noise).to(latent)
        made, shifted, flow = drawn(net, noisy[pairs.mover], pairs.portraits[1], paints)
    loss = picture_loss(made, target, pairs.weight)
    if paints:
        loss = loss + 0.5 * picture_loss(shifted, target, torch.ones_like(pairs.weight))
    strayed, off_px = flow_loss(flow, pairs.tracked, target.shape[-1])
    wide = (latent.square().mean((0, 2, 3)) - 1).abs().mean()
    differing = apart(latent)
    told = {"l1": made - target, "moved": shifted - target, "still": pairs.portraits[1] - target}
    parts = {name: error.detach().abs().mean().item() for name, error in told.items()} | {"apart": differing.item()}
    return loss + strayed + 0.01 * wide + ALIKE * differing, parts | {"astray_px": off_px}


def drawn(
    net: MotionCodec, latent_BChw: Tensor, portraits_B3HW: Tensor, paints: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Portraits as latents have them: moved and painted (or only moved), moved alone, each (B, 3, H, W), and the flow
    (B, 2, h, w)."""
    seen = net.read(portraits_B3HW.contiguous(memory_format=torch.channels_last))
    features = net.mover(latent_BChw, seen.maps)
    flow = net.flow_of(features)
    shifted = moved(seen.pixels, flow)
    made = laid(shifted, *net.painted(shifted, features)) if paints else shifted
    return made, shifted, flow


@torch.no_grad()
def covariance(net: MotionCodec, twins: list[list[Path]], first: int, batch: int) -> Tensor:
    """Of the latents' channels against zero (the portrait's own latent), (C, C) float64, over draws from `first` on."""
    device, found = next(net.parameters()).device, []
    for number in range(first, first + MEASURED):
        pairs = draw_pairs(twins, number, batch, device)
        latent = net.encode(pairs.frames[0], pairs.portraits[0]).double()
        found.append(torch.einsum("nihw,njhw->ij", latent, latent) / latent[:, 0].numel())
    return torch.stack(found).mean(0)


@torch.no_grad()
def even_out(net: MotionCodec, covariance_CC: Tensor) -> None:
    """Turn and stretch the latents' axes so that they vary alike along each: by (covariance + noise^2)^-1/2, which the
    encoder's last convolution takes in and the mover's first undoes. Frames are drawn as before. Without it the head's
    few directions hold nearly all of the variance, and a loss on latents hardly sees a lid (decision 0016)."""
    level, axes = torch.linalg.eigh(covariance_CC + LATENT_NOISE**2 * torch.eye(len(covariance_CC)).to(covariance_CC))
    there, back = ((axes * level**power) @ axes.T for power in (-0.5, 0.5))
    last, first = net.motion[-1], net.mover.start
    last.weight.copy_(torch.einsum("ij,jabc->iabc", there, last.weight.double()))
    last.bias.copy_(there @ last.bias.double())
    first.weight.copy_(torch.einsum("ojab,ji->oiab", first.weight.double(), back))


def apart(latent: Tensor) -> Tensor:
    """Squared difference of twins' latents against all that is in them: 0 where they are the same, 1 where they have
    nothing in common."""
    twins = latent.unflatten(0, (-1, TWINS))
    return (twins - twins.mean(1, keepdim=True)).square().mean() * (TWINS / (TWINS - 1)) / latent.square().mean()
