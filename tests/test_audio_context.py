"""Audio tokens: each frame hears itself and its neighbours, at the right time, however long the recording."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_speech
from torch.utils._python_dispatch import TorchDispatchMode

from linker.backends import load_speech_encoder
from linker.config import MINI_DIR
from linker.model.audio_context import (
    AudioProjector,
    SpeechTrack,
    encode_speech,
    normalise_samples,
    pad_context,
    speech_chunks,
    speech_states,
    to_frames,
)


@given(st.integers(1, 30), st.sampled_from([1, 3, 5, 7]))
def test_a_frame_gets_its_neighbours_in_order(frames: int, context: int) -> None:
    numbers = torch.arange(frames, dtype=torch.float32)[None, :, None]
    blocks = pad_context(numbers, context).unfold(1, context, 1)[0, :, 0]
    for frame in range(frames):
        wanted = [min(max(frame + offset, 0), frames - 1) for offset in range(-(context // 2), context // 2 + 1)]
        assert blocks[frame].tolist() == wanted


def test_blocks_have_the_papers_shape() -> None:
    projector = AudioProjector(24, 12, 5)
    assert projector(pad_context(torch.randn(2, 9, 24), 5)).shape == (2, 9, 5, 12)


def test_a_moved_context_gives_moved_blocks() -> None:
    projector = AudioProjector(24, 12, 5)
    speech = torch.randn(1, 20, 24)
    whole, part = projector(speech), projector(speech[:, 4:])
    torch.testing.assert_close(whole[:, 4:], part)


def test_even_the_average_of_a_context_tells_before_from_after() -> None:
    projector = AudioProjector(24, 12, 5)
    heard = torch.randn(1, 5, 24)
    there, back = projector(heard).mean(2), projector(heard.flip(1)).mean(2)
    assert (there - back).abs().max() > 0.1


@given(st.integers(2, 400), st.integers(1, 200))
def test_interpolation_keeps_time(states: int, frames: int) -> None:
    ramp = (torch.arange(states, dtype=torch.float32)[None, :, None] + 0.5) / states
    found = to_frames(ramp, frames)[0, :, 0]
    wanted = ((torch.arange(frames) + 0.5) / frames).clamp(0.5 / states, 1 - 0.5 / states)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


def whole_states(encoder: Any, samples: np.ndarray) -> torch.Tensor:
    return speech_states(encoder, normalise_samples(torch.from_numpy(samples)[None]))


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32)


@pytest.mark.parametrize("which", ["tiny", "mini"])
@torch.no_grad()
def test_chunks_are_the_whole(which: str) -> None:
    """100 s are heard in four chunks; the states are those of one hearing, as nothing is heard from further away than a
    chunk's context."""
    encoder = tiny_speech() if which == "tiny" else load_speech_encoder(MINI_DIR / "speech")
    samples = noise(100)
    chunks = list(speech_chunks(encoder, samples))
    found, whole = torch.cat(chunks, dim=1), whole_states(encoder, samples)
    assert len(chunks) == 4
    assert found.shape == whole.shape == (1, 4999, encoder.config.hidden_size)
    assert (found - whole).norm() < 1e-5 * whole.norm()
    assert (found - whole).abs().max() < 1e-4 * whole.abs().max()


@torch.no_grad()
def test_short_speech_is_heard_as_the_published_class_hears_it() -> None:
    encoder, samples = tiny_speech(), noise(3)
    found = whole_states(encoder, samples)
    encoder.set_attn_implementation("sdpa")
    hidden = encoder(normalise_samples(torch.from_numpy(samples)[None]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, torch.stack(hidden[1:]).mean(0))


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, words: Any = (), named: Any = None) -> Any:
        made = function(*words, **(named or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            self.numbers = max(self.numbers, value.numel() if isinstance(value, torch.Tensor) else 0)
        return made


@torch.no_grad()
def test_no_attention_map_is_kept() -> None:
    """The largest tensor that attention makes over 100 s is far below heads x states x states."""
    encoder = tiny_speech()
    with Largest() as largest:
        whole_states(encoder, noise(100))
    assert largest.numbers < 4999 * 4999 / 5


@torch.no_grad()
def test_a_long_recording_is_heard_in_the_memory_of_a_shorter_one() -> None:
    encoder, found = tiny_speech(), []
    for seconds in (150, 300):
        with Largest() as largest:
            for _ in speech_chunks(encoder, noise(seconds)):
                pass
        found.append(largest.numbers)
    assert found[0] == found[1]


@given(st.integers(2, 400), st.integers(1, 200), st.integers(-4, 200), st.integers(1, 20))
def test_a_track_gives_the_frames_of_the_whole(states: int, frames: int, first: int, count: int) -> None:
    """Any stretch of frames, read from a file, is that of the interpolated whole with its ends repeated."""
    values = torch.randn(1, states, 3, generator=torch.Generator().manual_seed(states))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.speech"
        values[0].numpy().tofile(path)
        found = SpeechTrack(path, 3, frames).window(first, count)
    wanted = to_frames(values, frames)[:, torch.arange(first, first + count).clamp(0, frames - 1)]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_tenth_of_a_second_is_enough() -> None:
    with torch.no_grad():
        assert encode_speech(tiny_speech(), noise(0.04), 1).shape == (1, 1, 24)
