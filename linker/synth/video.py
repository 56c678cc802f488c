"""Talking videos with known truth: a drawn portrait, a spoken text and the motion that says it, from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.records import atomic
from linker.synth import speech as speech_module
from linker.synth import visemes
from linker.synth.acting import Acting, draw_acting, leaned, leaned_outlines
from linker.synth.motion import Curve, Motion
from linker.synth.portrait import STYLES, Portrait, draw_portrait
from linker.synth.regions import region_masks
from linker.synth.warp import StillPortrait

STILLS = 0.4  # share of videos that set a still in motion, where there are any
KIND = 2  # of drawn videos; raise it when what they hold changes: folders of another kind are drawn anew
TWINS = 2  # training videos, their seeds one after the other, in which other faces do the same (decision 0016)
MASK_PX = 16  # side of the stored region masks; a latent of the mini model has as many places


@dataclass(frozen=True)
class Video:
    """frames (T, H, W, 3) uint8 RGB; samples (n,) float32 at 16 kHz; masks (T, 3, 16, 16) of head, mouth, eyes
    as plain speech moves them (what acting adds, `ranges` tell); classes (m,) viseme of each 20 ms; opening_px (T,)
    true mouth opening; blink (T,) how far plain speech shuts the lids."""

    frames: NDArray[np.uint8]
    samples: NDArray[np.float32]
    masks: NDArray[np.float32]
    classes: NDArray[np.int64]
    opening_px: NDArray[np.float32]
    motion: Motion
    blink: Curve
    acting: Acting
    language: str
    style: str


def make_video(
    seed: int,
    size_px: int = 256,
    duration_s: tuple[float, float] = (1.9, 2.5),
    stills: Sequence[StillPortrait] = (),
    does: int | None = None,
) -> Video:
    """Draw and speak one video; styles take turns, everything else is drawn from `seed`; what is said and done from
    `does`, where it is given. Of `stills`, pictures of `size_px`, some are set in motion instead."""
    does = seed if does is None else does
    speech = speech_module.random_speech(does, duration_s=duration_s)
    frames = round(len(speech.samples) / SAMPLE_RATE_HZ * FPS)
    plain, acting = visemes.motion(speech, does)[:frames], draw_acting(does)
    motion = acting.performed(plain)
    style, portrait = who(seed, size_px, stills)
    outlines = leaned_outlines(portrait.outlines(plain), size_px, acting.lean_deg)
    return Video(
        frames=leaned(portrait.render(motion), acting.lean_deg),
        samples=speech.samples,
        masks=region_masks(outlines, size_px, MASK_PX),
        classes=visemes.viseme_classes(speech),
        opening_px=portrait.mouth_opening_px(motion),
        motion=motion,
        blink=plain.blink,
        acting=acting,
        language=speech.language,
        style=style,
    )


def who(seed: int, size_px: int, stills: Sequence[StillPortrait]) -> tuple[str, Portrait | StillPortrait]:
    """The style and the face of video `seed`."""
    rng = np.random.default_rng([seed, 13])
    if stills and rng.random() < STILLS:
        return "still", stills[int(rng.integers(len(stills)))]
    style = STYLES[seed % len(STYLES)]
    return style, draw_portrait(seed, style, size_px, cropped=True)


def save_video(video: Video, folder: Path, name: str) -> None:
    """Write {name}.frames.npy (raw, so that it can be memory-mapped), then {name}.npz with everything else: a video
    whose npz exists is whole."""
    with atomic(folder / f"{name}.frames.npy") as path:
        np.save(path, video.frames)
    with atomic(folder / f"{name}.npz") as path:
        np.savez(
            path,
            samples=video.samples,
            masks=video.masks.astype(np.float16),
            classes=video.classes.astype(np.int8),
            opening_px=video.opening_px,
            blink=video.blink,
            scales=video.acting.scales,
            ranges=video.acting.ranges,
            language=video.language,
            style=video.style,
        )


def draw_videos(
    folder: Path, count: int, first_seed: int = 0, size_px: int = 256, stills: Sequence[StillPortrait] = ()
) -> None:
    """Draw `count` videos that are not there yet, TWINS of each speech; what a killed run left whole is kept."""
    for seed in range(first_seed, first_seed + count):
        name = f"{seed:06d}"
        if not (folder / f"{name}.npz").exists():
            save_video(make_video(seed, size_px, stills=stills, does=seed // TWINS * TWINS), folder, name)
