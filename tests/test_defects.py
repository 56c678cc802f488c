"""Planted faults: the same seed plants the same one, and outside it nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.synth.defects import DEFECTS, Footage, plant

SIZE, COUNT = 96, 90


def footage(seed: int) -> Footage:
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8), COUNT, 0)
    samples = rng.standard_normal(COUNT * SAMPLE_RATE_HZ // FPS).astype(np.float32) * 0.1
    return Footage(frames, samples, np.tile(np.array([30, 25, 66, 75], np.float32), (COUNT, 1)))


@pytest.mark.parametrize("kind", sorted(DEFECTS))
def test_a_fault_is_planted_where_it_says(kind: str) -> None:
    own, other = footage(1), footage(2)
    before = own.frames.copy(), own.samples.copy()
    planted, again = (plant(kind, own, other, 0.5, 7) for _ in range(2))
    assert np.array_equal(planted.frames, again.frames)
    assert np.array_equal(planted.samples, again.samples)
    assert np.array_equal(own.frames, before[0])
    assert np.array_equal(own.samples, before[1])
    assert planted.frames.dtype == np.uint8
    assert len(planted.samples) == len(planted.frames) * SAMPLE_RATE_HZ // FPS
    assert len(planted.face) == len(planted.frames)
    first, last = planted.touched
    assert 0 <= first < last <= len(planted.frames)
    if DEFECTS[kind][0] == "sync":
        assert not np.array_equal(planted.samples, own.samples)
        assert np.array_equal(planted.frames, own.frames)
    elif kind != "freeze":  # these frames are all equal anyway
        assert any(not np.array_equal(planted.frames[i], own.frames[i]) for i in range(first, last))


@pytest.mark.parametrize("kind", ["hand", "microphone", "thing", "caption"])
def test_what_covers_a_face_comes_and_goes(kind: str) -> None:
    own = footage(1)
    planted = plant(kind, own, footage(2), 1.0, 3)
    changed = (planted.frames != own.frames).any((1, 2, 3))
    assert not changed[:10].any()
    assert not changed[-10:].any()
    x0, y0, x1, y1 = own.face[0].astype(int)
    middle = sum(planted.touched) // 2
    over = (planted.frames[middle] != own.frames[middle]).any(-1)[y0:y1, x0:x1]
    assert over.mean() > 0.1


def test_frozen_frames_are_equal_and_late_sound_is_late() -> None:
    own = footage(1)
    moving = np.stack([np.roll(frame, i, 0) for i, frame in enumerate(own.frames)])
    frozen = plant("freeze", Footage(moving, own.samples, own.face), own, 0.5, 1)
    first, last = frozen.touched
    assert all(np.array_equal(frozen.frames[first], frozen.frames[i]) for i in range(first, last))
    late = plant("late_sound", own, own, 0.5, 1).samples
    shifts = [np.corrcoef(np.roll(own.samples, s * 640), late)[0, 1] for s in range(-14, 15)]
    assert abs(int(np.argmax(shifts)) - 14) == 10
