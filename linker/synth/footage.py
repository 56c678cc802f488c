"""Footage as a camera would have taken it: a drawn person who speaks, not yet cut to a crop; clean, or with a fault."""

from __future__ import annotations

import numpy as np

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.synth import speech as speech_module
from linker.synth import visemes
from linker.synth.defects import Footage, plant
from linker.synth.portrait import STYLES, Truth, draw_portrait

SECONDS = (3.6, 4.4)
GRAIN = 2.0  # deviation of the noise, grey levels


def draw_footage(seed: int, size_px: int = 320, seconds: tuple[float, float] = SECONDS) -> Footage:
    """One clean video; styles take turns, everything else is drawn from `seed`."""
    speech = speech_module.random_speech(seed, duration_s=seconds)
    count = len(speech.samples) * FPS // SAMPLE_RATE_HZ
    motion = visemes.motion(speech, seed)[:count]
    portrait = draw_portrait(seed, STYLES[seed % len(STYLES)], size_px)
    samples = speech.samples[: count * SAMPLE_RATE_HZ // FPS]
    return Footage(filmed(portrait.render(motion), seed), samples, face_boxes(portrait.truth(motion)))


def filmed(frames: np.ndarray, seed: int) -> np.ndarray:
    """With a sensor's noise: no two frames of a camera are equal, even when nothing moves."""
    rng = np.random.default_rng([seed, 37])
    height, width = frames.shape[1:3]
    grain = (rng.standard_normal((2 * height, 2 * width, 1)) * GRAIN).astype(np.float32)
    noisy = np.empty_like(frames)
    for i, frame in enumerate(frames):
        y, x = int(rng.integers(height)), int(rng.integers(width))
        noisy[i] = np.clip(frame + grain[y : y + height, x : x + width], 0, 255)
    return noisy


def draw_defect(seed: int, kind: str, strength: float, size_px: int = 320) -> Footage:
    """The same video with a fault of DEFECTS in it."""
    return plant(kind, draw_footage(seed, size_px), draw_footage(seed + 500_000, size_px), strength, seed)


def face_boxes(truth: Truth) -> np.ndarray:
    """(T, 4) x0, y0, x1, y1 of the face without its hair, from where eyes and mouth are."""
    outlines = truth.outlines()
    eyes = (outlines["left"].mean(1) + outlines["right"].mean(1)) / 2
    mouth = outlines["mouth"].mean(1)
    middle, unit = (eyes + mouth) / 2, np.linalg.norm(mouth - eyes, axis=1)[:, None]
    return np.concatenate([middle - unit * (1.0, 1.35), middle + unit * (1.0, 1.2)], 1).astype(np.float32)
