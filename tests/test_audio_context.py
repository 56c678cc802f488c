"""Audio tokens: each frame hears itself and its neighbours, at the right time, however long the recording."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_speech

from linker.model.audio_context import (
    AudioProjector,
    encode_speech,
    normalise_samples,
    pad_context,
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


def test_chunks_join_at_the_right_time() -> None:
    """40 s are heard in two chunks. Attention reaches further than the context, so the two hearings are near, not
    equal; a joint that was one state off would differ by as much as neighbouring states do."""
    encoder = tiny_speech()
    samples = torch.randn(16_000 * 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = encode_speech(encoder, samples, 1999)[0]
        whole = to_frames(speech_states(encoder, normalise_samples(samples[None])), 1999)[0]
    apart = (found - whole).square().mean().sqrt()
    shifted = (whole[1:] - whole[:-1]).square().mean().sqrt()
    assert found.shape == whole.shape == (1999, 24)
    assert apart < 0.1 * shifted


def test_a_tenth_of_a_second_is_enough() -> None:
    with torch.no_grad():
        assert encode_speech(tiny_speech(), torch.randn(600), 1).shape == (1, 1, 24)
