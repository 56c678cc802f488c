"""What a net in training makes of people it is not trained on: a grid and short videos, through the real sampler."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from linker.backends import load_speech_encoder
from linker.config import FPS, PRESETS, SAMPLE_RATE_HZ, GenerateSettings
from linker.encode import Target, encode
from linker.engine import Engine, Recipe
from linker.media import write_wav
from linker.model.audio_context import encode_speech
from linker.model.codec import Portrait, load_codec
from linker.model.lingualinker import LinguaLinker
from linker.model.masks import background_of
from linker.model.sample import ClipConditions, Sampling, Windows, preceding_frames, sample_windows
from linker.train.codec import frame_files
from linker.train.dataset import acting_of, ranged, union
from linker.train.fit import Show
from linker.train.journal import Journal

WINDOWS = 2  # of each video
SHOWN = 6  # frames of each video in the grid


@dataclass(frozen=True)
class HeldOut:
    """A video that is not trained on: its first frames (T, S, S, 3), its region masks (3, h, w), its scales and ranges
    (3,), its speech (n,) at 16 kHz, and the same to be heard."""

    name: str
    frames: np.ndarray
    masks: Tensor
    scales: Tensor
    ranges: Tensor
    samples: np.ndarray
    wav: Path


def shower(
    model: LinguaLinker,
    held_out: Path,
    parts: Path,
    folder: Path,
    dtype: torch.dtype,
    encoder: nn.Module | None = None,
) -> Show | None:
    """What shows the state of `model` in `folder`/samples, by the videos in `held_out` and the codec and speech encoder
    in `parts` (or the `encoder` that is trained along); None where nothing is held out."""
    device, frames = next(model.parameters()).device, WINDOWS * model.arch.window
    engine = engine_of(model, parts, device, dtype, encoder)
    files = [path for path in frame_files(held_out) if len(np.load(path, mmap_mode="r")) >= frames]
    videos = [read_held_out(path, frames, engine, folder / "samples") for path in files]
    if not videos:
        print(f"no samples are shown: {held_out} holds no video of {frames} frames", file=sys.stderr)
        return None

    def show(step: int, journal: Journal) -> None:
        made = [sampled(video, engine) for video in videos]
        for video, frames in zip(videos, made, strict=True):
            target = Target(folder / "samples" / f"{step:07d}-{video.name}.mp4", size_of(frames), crf=18)
            encode(np.concatenate([video.frames, frames], axis=2), [target], video.wav, len(frames))
        journal.show(step, "samples", grid_of(videos, made))

    return show


def engine_of(
    model: LinguaLinker, parts: Path, device: torch.device, dtype: torch.dtype, encoder: nn.Module | None = None
) -> Engine:
    """The net in training, as generation uses a finished one."""
    codec = load_codec(parts / "codec", model.arch.latent_channels).to(device).to(memory_format=torch.channels_last)
    speech = encoder or load_speech_encoder(parts / "speech", model.arch.speech_dim).to(device).requires_grad_(False)
    recipe = Recipe(parts, "", model.arch, device, dtype, 1, GenerateSettings())
    return Engine(recipe, model, codec.requires_grad_(False), speech)


@torch.no_grad()
def read_held_out(path: Path, frames: int, engine: Engine, folder: Path) -> HeldOut:
    """The first frames of a video, and their sound as a file in `folder`."""
    name = path.name.removesuffix(".frames.npy")
    with np.load(path.with_name(f"{name}.npz")) as truth:
        scales, ranges = acting_of(truth)
        masks = ranged(union(truth["masks"][:frames].astype(np.float32)), ranges)
        samples = truth["samples"].astype(np.float32)[: frames * SAMPLE_RATE_HZ // FPS]
    folder.mkdir(parents=True, exist_ok=True)
    write_wav(folder / f"{name}.wav", samples, SAMPLE_RATE_HZ)
    shown = np.array(np.load(path, mmap_mode="r")[:frames])
    regions, often, far = (torch.from_numpy(values).to(engine.device) for values in (masks, scales, ranges))
    return HeldOut(name, shown, regions, often, far, samples, folder / f"{name}.wav")


@torch.no_grad()
def sampled(video: HeldOut, engine: Engine) -> np.ndarray:
    """The video as the net makes it of its first frame and its speech, (T, S, S, 3) uint8."""
    model, arch = engine.model, engine.model.arch
    preset = PRESETS["base" if arch.size == "base" else "mini"]["balanced"]
    how = Sampling(preset.steps, preset.guidance_scale, preset.sampler)
    portrait = engine.read_portrait(video.frames[0])
    conditions = clip_conditions(portrait, video, engine)
    speech = encode_speech(engine.speech, video.samples, len(video.frames))[0]
    reach, previous, pictures = arch.audio_context // 2, None, []
    for number in range(WINDOWS):
        heard = torch.arange(number * arch.window - reach, (number + 1) * arch.window + reach)
        window = Windows(
            numbers=(number,),
            seeds=(0,),
            speech=speech[heard.clamp(0, len(speech) - 1)][None],
            preceding=preceding_frames(model, conditions.still, previous),
            follows=(previous is not None,),
        )
        with engine.autocast():
            previous = sample_windows(model, conditions, window, how).float()
        pictures.append(engine.pictures(previous[0], portrait, "codec"))
    return np.concatenate(pictures)


def clip_conditions(portrait: Portrait, video: HeldOut, engine: Engine) -> ClipConditions:
    """What the net is told through the whole video."""
    model = engine.model
    with engine.autocast():
        seen = model.read_portrait(portrait.latent)
    return ClipConditions(
        still=portrait.still,
        reference=seen,
        masks=model.mask_pyramid(video.masks[None]),
        scales=video.scales[None],
        ranges=video.ranges[None],
        background=background_of(video.masks, model.arch.latent_px).to(engine.device),
    )


def size_of(frames: np.ndarray) -> tuple[int, int]:
    """Of the truth and what is made, side by side."""
    return 2 * frames.shape[2], frames.shape[1]


def grid_of(videos: list[HeldOut], made: list[np.ndarray]) -> np.ndarray:
    """Two rows a video, its frames and those that were made of them, (H, W, 3) uint8; the first is the portrait."""
    rows = []
    for video, frames in zip(videos, made, strict=True):
        chosen = np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)
        rows += [np.concatenate(list(shown[chosen]), axis=1) for shown in (video.frames, frames)]
    return np.concatenate(rows)
