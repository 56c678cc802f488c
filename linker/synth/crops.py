"""Spoken crops, with what the mouth says and how the face moves: what the small speech encoder is warmed up on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from linker.config import SAMPLE_RATE_HZ
from linker.records import atomic
from linker.synth.beside import side_by_side
from linker.synth.speech import random_speech
from linker.synth.visemes import motion, viseme_classes

CROP_S = 2.0
RATE_HZ = 50  # of the encoder's states
MOVES = ("open", "width", "teeth", "blink", "brow", "yaw_deg", "pitch_deg", "roll_deg")  # curves of Motion it tells


def write_pool(path: Path, count: int, seed: int, processes: int = 1) -> None:
    """Speak `count` utterances once, CROP_S seconds of each, in so many processes."""
    spoken = side_by_side(speak, range(seed, seed + count), place=path, processes=processes, chunk=16)
    samples, classes, moves = (np.stack(column) for column in zip(*spoken, strict=True))
    with atomic(path) as temporary:
        np.savez(temporary, samples=samples, classes=classes, moves=moves)


def speak(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One utterance as a pool has it: samples, classes and moves."""
    samples = np.zeros(round(CROP_S * SAMPLE_RATE_HZ), np.float16)
    classes = np.zeros(round(CROP_S * RATE_HZ), np.int8)
    moves = np.zeros((len(classes), len(MOVES)), np.float16)
    speech = random_speech(seed, duration_s=(CROP_S, CROP_S + 0.2))
    moved = motion(speech, seed, fps=RATE_HZ)
    fill(samples, speech.samples)
    fill(classes, viseme_classes(speech))
    fill(moves, np.stack([getattr(moved, name) for name in MOVES], axis=1))
    return samples, classes, moves


def fill(row: np.ndarray, found: np.ndarray) -> None:
    """As much of what was found as the row holds; what is shorter leaves its rest as it is."""
    length = min(len(row), len(found))
    row[:length] = found[:length]
