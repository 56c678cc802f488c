"""Shut lids, written alike for everybody: the second part of a codec's training, and what it makes of encoded videos.

An encoder writes a blink differently for each face, and a decoder draws it as a smear: too rare, too small. Here the
latents of a blink are, about the eyes, those of the open moments around it, and upon them one pattern, the same for
all, as far as the lids are shut; decoder and pattern are trained on that (decision 0019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linker.model.motion_codec import LIDS_REACH, MotionCodec
from linker.train.ahead import Ahead
from linker.train.codec import (
    CPU,
    CROSSED,
    LOOKS,
    RESTING_SHARE,
    WEIGHTS,
    Sheets,
    coloured,
    draw_light,
    drawn,
    flow_loss,
    names_of,
    number_of,
    picture_loss,
    tracked_at,
)  # fmt: skip
from linker.train.fit import Plan, fit
from linker.train.ranks import mixed, training_dtype

OPEN = 0.05  # lids shut by less are open
SHUT_SHARE = 0.6  # of the frames shown, those whose lids are shut or on their way
SHUT_WEIGHT = 12.0  # of a shut eye's pixels beside the 1 that every pixel has, and what its region has anyway
SAVE_EVERY = 200  # steps
NOISE = 0.15  # deviation added to latents: what is generated is never quite what was encoded


@dataclass(frozen=True)
class Course:
    """The open moments about each frame: `before` and `after` (T,), and how near the latter is, `share` (T,), 0..1."""

    before: np.ndarray
    after: np.ndarray
    share: np.ndarray


def course_of(shut_T: np.ndarray) -> Course:
    """Of lids that are shut by so much; a frame whose lids are open is its own neighbour. Raises ValueError for lids
    that never open."""
    opens = np.flatnonzero(shut_T < OPEN)
    if not len(opens):
        raise ValueError("lids that never open have no open moments")
    frames = np.arange(len(shut_T))
    before = opens[np.clip(np.searchsorted(opens, frames, side="right") - 1, 0, None)]
    after = opens[np.clip(np.searchsorted(opens, frames), None, len(opens) - 1)]
    span = np.where(after > before, after - before, 1)
    return Course(before, after, np.clip((frames - before) / span, 0, 1).astype(np.float32))


def written(net: MotionCodec, latents_TChw: Tensor, eyes_Thw: Tensor, shut_T: np.ndarray) -> Tensor:
    """Latents (T, C, h, w) whose blinks are, about the eyes, the codec's pattern upon the open moments."""
    course, masks_T1hw = course_of(shut_T), eyes_Thw[:, None]
    share, shut = (torch.from_numpy(each).to(latents_TChw) for each in (course.share, shut_T))
    opened = opened_at(masks_T1hw, latents_TChw, latents_TChw[course.before], latents_TChw[course.after], share)
    return opened + net.shut(masks_T1hw, shut)


def opened_at(eyes_B1hw: Tensor, latent: Tensor, before: Tensor, after: Tensor, share_B: Tensor) -> Tensor:
    """Latents (B, C, h, w) that about the eyes, as far as the pattern reaches, are what they were between the moments
    before and after; elsewhere as they are."""
    about = F.max_pool2d(eyes_B1hw, 2 * LIDS_REACH + 1, stride=1, padding=LIDS_REACH)
    return torch.lerp(latent, torch.lerp(before, after, share_B[:, None, None, None]), about)


@dataclass(frozen=True)
class Shown:
    """portraits, frames, and the open moments before and after, (LOOKS, batch, 3, H, W) in -1..1; weight
    (batch, 1, h, w) of the frame; tracked (batch, 2, n, 2) as Pairs has them; eyes (batch, 1, h, w): its mask of them;
    share and shut (batch,); mover (batch,): whose latents move whom; videos (batch,): their numbers."""

    portraits: Tensor
    frames: Tensor
    before: Tensor
    after: Tensor
    weight: Tensor
    tracked: Tensor
    eyes: Tensor
    share: Tensor
    shut: Tensor
    mover: Tensor
    videos: Tensor


def draw_shown(twins: list[list[Path]], step: int, batch: int, device: torch.device = CPU) -> Shown:
    """`batch` frames, all of the twins that are drawn; a function of `step`."""
    rng = np.random.default_rng([step, 17])
    columns, mover, videos = list[tuple[np.ndarray, ...]](), list[int](), list[int]()
    while len(columns) < batch:
        twin = twins[rng.integers(len(twins))]
        turned = 1 if rng.random() < CROSSED else 0
        mover += list(len(columns) + np.roll(np.arange(len(twin)), turned))
        videos += map(number_of, twin)
        columns += draw_moment(twin, rng)
    parts = (torch.from_numpy(np.stack(column)).to(device) for column in zip(*columns, strict=True))
    pictures, lights, weight, tracked, eyes, share, shut = parts
    portraits, frames, before, after = coloured(pictures, lights)
    told = (weight.float(), tracked, eyes, share, shut.float())
    numbers = (torch.tensor(each, device=device) for each in (mover, videos))
    return Shown(portraits, frames, before, after, *told, *numbers)


def draw_moment(files: list[Path], rng: np.random.Generator) -> list[tuple[np.ndarray, ...]]:
    """Of each twin the same moment: pictures (4, H, W, 3) of portrait, frame and the open moments about it, the LOOKS
    lights that they are seen in, and weight, tracked, eyes, share and shut as Shown has them."""
    truths = [np.load(path.with_suffix("").with_suffix(".npz")) for path in files]
    shut, opening = truths[0]["acted_blink"], truths[0]["opening_px"]
    course, mirror = course_of(shut), int(rng.choice([-1, 1]))
    blinks, opens = np.flatnonzero(shut >= OPEN), np.flatnonzero(shut < OPEN)
    if len(blinks) and rng.random() < SHUT_SHARE:
        shown = int(rng.choice(blinks))
    else:
        shown = int(max(rng.choice(opens, 2), key=lambda frame: opening[frame]))
    still = 0 if rng.random() < RESTING_SHARE else int(rng.choice(opens))
    columns = list[tuple[np.ndarray, ...]]()
    for path, truth in zip(files, truths, strict=True):
        frames = np.load(path, mmap_mode="r")
        four = frames[[still, shown, course.before[shown], course.after[shown]]][:, :, ::mirror]
        masks, eyes = (truth[name][shown].astype(np.float32)[..., ::mirror] for name in ("masks", "acted_eyes"))
        weight = 1 + np.tensordot(WEIGHTS, masks, 1) + SHUT_WEIGHT * shut[shown] * eyes
        lights = np.stack([draw_light(rng) for _ in range(LOOKS)])
        tracked = tracked_at(truth, [shown, still], frames.shape[1], mirror)
        columns.append((four, lights, weight[None], tracked, eyes[None], course.share[shown], shut[shown]))
        truth.close()
    return columns


def teach_lids(
    net: MotionCodec,
    twins: list[list[Path]],
    folder: Path,
    steps: int,
    batch: int = 8,
    data: str = "",
    sheets: Sheets | None = None,
) -> None:
    """Train the decoder and the pattern of shut lids; the encoder stays as it is."""
    net.motion.requires_grad_(False)
    device = next(net.parameters()).device

    every = sheets.every if sheets else 0
    plan = Plan(steps, learning_rate=6e-4, ema=0.99, weight_decay=0.0, save_every=SAVE_EVERY, show_every=every)
    with Ahead(lambda n: draw_shown(twins, n, batch, device)) as draws:

        def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
            return lids_loss(net, draws(number), torch.Generator().manual_seed(number))

        def names_of_draw(number: int) -> list[str]:
            return names_of(draw_shown(twins, number, batch, device).videos)

        fit(net, loss_of_draw, plan, folder, names_of_draw, sheets.show(net) if sheets else None, data)
    net.motion.requires_grad_(True)


def lids_loss(net: MotionCodec, shown: Shown, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """How far frames are off that are drawn of open latents and the pattern upon them."""
    target = shown.frames[1]
    with mixed(target.device, training_dtype("auto", target.device)):
        with torch.no_grad():
            moments = (shown.frames[0], shown.before[0], shown.after[0])
            own, before, after = (net.encode(each, shown.portraits[0])[shown.mover] for each in moments)
            opened = opened_at(shown.eyes, own, before, after, shown.share)
        latent = opened + net.shut(shown.eyes, shown.shut)
        latent = latent + NOISE * torch.randn(latent.shape, generator=noise).to(latent)
        made, shifted, flow = drawn(net, latent, shown.portraits[1])
    loss = picture_loss(made, target, shown.weight) + 0.25 * picture_loss(shifted, target, shown.weight)
    strayed, off_px = flow_loss(flow, shown.tracked, target.shape[-1])
    off = (made - target).detach().abs().mean(1, keepdim=True)
    return loss + strayed, {"l1": off.mean().item(), "astray_px": off_px} | at_eyes(off, shown)


def at_eyes(off_B1HW: Tensor, shown: Shown) -> dict[str, float]:
    """Mean error at the eyes of frames whose lids are shut, and of the others, where there are any."""
    mask = F.interpolate(shown.eyes, off_B1HW.shape[-2:], mode="bilinear", align_corners=False)
    error = (off_B1HW * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1e-3)
    shut = shown.shut > 0.5
    return {name: error[some].mean().item() for name, some in (("shut", shut), ("open", ~shut)) if some.any()}
