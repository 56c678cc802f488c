"""Talking videos with known truth: a drawn portrait, a spoken text and the motion that says it, from one seed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linker.config import FPS, REGIONS, SAMPLE_RATE_HZ
from linker.records import atomic
from linker.synth import speech as speech_module
from linker.synth import visemes
from linker.synth.acting import Acting, draw_acting, leaned, leaned_outlines
from linker.synth.beside import side_by_side
from linker.synth.motion import Curve, Motion
from linker.synth.portrait import STYLES, Portrait, draw_portrait
from linker.synth.regions import region_masks
from linker.synth.warp import StillPortrait

STILLS = 0.4  # share of videos that set a still in motion, where there are enough of them
STILL = 0.1  # most of the videos that set the same still in motion
TWINS = 2  # training videos, their seeds one after the other, in which other faces do the same (decision 0016)
MASK_PX = 16  # side of the stored region masks; a latent of the mini model has as many places


@dataclass(frozen=True)
class Video:
    """frames (T, H, W, 3) uint8 RGB; samples (n,) float32 at 16 kHz; masks (T, 3, 16, 16) of head, mouth, eyes
    as plain speech moves them (what acting adds, `ranges` tell); acted_eyes (T, 16, 16) where the eyes are; classes
    (m,) viseme of each 20 ms; opening_px (T,) true mouth opening; tracked (T, n, 2) of lips, lids and skin, pixels,
    NaN where there is none; blink (T,) how far plain speech shuts the lids."""

    frames: NDArray[np.uint8]
    samples: NDArray[np.float32]
    masks: NDArray[np.float32]
    acted_eyes: NDArray[np.float32]
    classes: NDArray[np.int64]
    opening_px: NDArray[np.float32]
    tracked: NDArray[np.float32]
    motion: Motion
    blink: Curve
    acting: Acting
    phonemes: tuple[speech_module.Phoneme, ...]
    language: str
    style: str


def make_video(
    seed: int,
    size_px: int = 256,
    duration_s: tuple[float, float] = (1.9, 2.5),
    still: StillPortrait | None = None,
    does: int | None = None,
) -> Video:
    """Draw and speak one video; styles take turns, everything else is drawn from `seed`; what is said and done from
    `does`, where it is given. A `still`, a picture of `size_px`, is set in motion instead."""
    does = seed if does is None else does
    speech = speech_module.random_speech(does, duration_s=duration_s)
    frames = round(len(speech.samples) / SAMPLE_RATE_HZ * FPS)
    plain, acting = visemes.motion(speech, does)[:frames], draw_acting(does)
    motion = acting.performed(plain)
    style, portrait = who(seed, size_px, still)
    masks, acted_masks = (
        region_masks(leaned_outlines(portrait.outlines(moves), size_px, acting.lean_deg), size_px, MASK_PX)
        for moves in (plain, motion)
    )
    return Video(
        frames=leaned(portrait.render(motion), acting.lean_deg),
        samples=speech.samples,
        masks=masks,
        acted_eyes=acted_masks[:, REGIONS.index("eyes")],
        classes=visemes.viseme_classes(speech),
        opening_px=portrait.mouth_opening_px(motion),
        tracked=leaned_outlines({"all": portrait.tracked(motion)}, size_px, acting.lean_deg)["all"],
        motion=motion,
        blink=plain.blink,
        acting=acting,
        phonemes=speech.phonemes,
        language=speech.language,
        style=style,
    )


def still_of(seed: int, stills: Sequence[StillPortrait]) -> StillPortrait | None:
    """The picture that video `seed` sets in motion, if it does."""
    rng = np.random.default_rng([seed, 13])
    share = min(STILLS, STILL * len(stills))
    return stills[int(rng.integers(len(stills)))] if stills and rng.random() < share else None


def who(seed: int, size_px: int, still: StillPortrait | None) -> tuple[str, Portrait | StillPortrait]:
    """The style and the face of video `seed`."""
    style = STYLES[seed % len(STYLES)]
    return ("still", still) if still else (style, draw_portrait(seed, style, size_px, cropped=True))


def save_video(video: Video, folder: Path, name: str) -> None:
    """Write {name}.frames.npy (raw, so that it can be memory-mapped), then {name}.npz with everything else: a video
    whose npz exists is whole. acted_{curve} is what is drawn, by Motion's names: mouth, lids, gaze, pose."""
    with atomic(folder / f"{name}.frames.npy") as path:
        np.save(path, video.frames)
    with atomic(folder / f"{name}.npz") as path:
        np.savez(
            path,
            samples=video.samples,
            masks=video.masks.astype(np.float16),
            acted_eyes=video.acted_eyes.astype(np.float16),
            classes=video.classes.astype(np.int8),
            opening_px=video.opening_px,
            tracked=video.tracked,
            blink=video.blink,
            scales=video.acting.scales,
            ranges=video.acting.ranges,
            lean_deg=video.acting.lean_deg,
            phonemes=[phoneme.name for phoneme in video.phonemes],
            phoneme_ends_s=np.array([phoneme.end_s for phoneme in video.phonemes], np.float32),
            **{f"acted_{field.name}": getattr(video.motion, field.name) for field in fields(Motion)},
            language=video.language,
            style=video.style,
        )


def draw_videos(
    folder: Path,
    count: int,
    first_seed: int = 0,
    size_px: int = 256,
    stills: Sequence[StillPortrait] = (),
    processes: int = 1,
) -> None:
    """Draw `count` videos that are not there yet, TWINS of each speech, in so many processes; what a killed run left
    whole is kept, what is none of them is deleted. Raises EnvironmentError when a process is killed."""
    seeds = {f"{seed:06d}": seed for seed in range(first_seed, first_seed + count)}
    for path in folder.glob("*.np[yz]"):
        if path.name.split(".")[0] not in seeds:
            path.unlink()
    missing = [seed for name, seed in seeds.items() if not (folder / f"{name}.npz").exists()]
    draw, chosen = partial(draw_video, folder, size_px), (still_of(seed, stills) for seed in missing)
    several = min(processes, max(len(missing), 1))
    for number, _ in enumerate(side_by_side(draw, missing, chosen, place=folder, processes=several)):
        if number % 50 == 0:
            print(f"draw_videos {number}/{len(missing)}", file=sys.stderr)


def draw_video(folder: Path, size_px: int, seed: int, still: StillPortrait | None) -> None:
    """Draw video `seed`, which does what its twin does."""
    video = make_video(seed, size_px, still=still, does=seed // TWINS * TWINS)
    save_video(video, folder, f"{seed:06d}")
