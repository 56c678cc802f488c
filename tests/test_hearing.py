"""The audio projector's warm-up: what is heard around a frame comes to tell what the face does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from linker.model.audio_context import AudioProjector, pad_context
from linker.train.hearing import heard_and_done, warm_up


def write_encoded(folder: Path, curves: bool = True) -> None:
    """Videos in which a lid shuts two frames after a sound ends, and the mouth opens by how loud it is."""
    for number in range(24):
        rng = np.random.default_rng(number)
        speech = rng.standard_normal((50, 8)).astype(np.float32)
        mouth = np.abs(speech[:, 0])
        lid = np.r_[0, 0, (speech[:-2, 1] > 0)] * 1.0
        known = {"curves": np.stack([mouth, lid], 1)} if curves else {}
        np.savez(folder / f"{number:06d}.npz", speech=speech.astype(np.float16), **known)


def test_a_frame_hears_its_neighbours(tmp_path: Path) -> None:
    write_encoded(tmp_path)
    heard, done = heard_and_done(tmp_path, 5)
    assert heard.shape == (24 * 50, 5, 8)
    assert torch.equal(heard[10, 4], heard[12, 2])
    torch.testing.assert_close(done.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(done.std(0), torch.ones(2), atol=1e-3, rtol=0)


def test_the_projector_comes_to_tell_what_is_done(tmp_path: Path) -> None:
    write_encoded(tmp_path)
    projectors = []
    for _ in range(2):
        torch.manual_seed(0)
        projectors.append(AudioProjector(8, 32, 5))
        assert warm_up(projectors[-1], tmp_path, seed=3) < 0.5
    assert all(torch.equal(a, b) for a, b in zip(*(p.parameters() for p in projectors), strict=True))


def test_footage_leaves_the_projector_as_it_is(tmp_path: Path) -> None:
    write_encoded(tmp_path, curves=False)
    projector = AudioProjector(8, 32, 5)
    before = [value.clone() for value in projector.parameters()]
    assert warm_up(projector, tmp_path, seed=0) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, projector.parameters(), strict=True))


def test_tokens_of_single_frames_are_those_of_the_whole() -> None:
    projector, speech = AudioProjector(8, 32, 5), torch.randn(1, 12, 8)
    heard = pad_context(speech, 5)
    frames = heard[0].unfold(0, 5, 1).transpose(1, 2)
    torch.testing.assert_close(projector(heard)[0], projector.tokens(frames))


@pytest.mark.parametrize("context", [3, 5])
def test_nothing_to_hear_is_no_fault(tmp_path: Path, context: int) -> None:
    assert heard_and_done(tmp_path, context)[0].shape[:2] == (0, context)
