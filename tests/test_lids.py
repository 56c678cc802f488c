"""Shut lids are one pattern upon open moments: which moments those are, what is written, and what learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SMALL_CODEC, small_motion_codec

from linker.backends import load_speech_encoder
from linker.config import MINI_DIR
from linker.errors import Diverged
from linker.model.codec import load_codec
from linker.model.motion_codec import LIDS_REACH, MotionCodec
from linker.synth.speech import random_speech
from linker.synth.video import make_video, save_video
from linker.train import lids
from linker.train.codec import twins_of
from linker.train.dataset import encode_video
from linker.train.lids import OPEN, Shown, course_of, draw_shown, lids_loss, teach_lids, written

BLINK = np.array([0, 0, 0.4, 1, 0.6, 0, 0], np.float32)
COUNT = 10
CURVES = st.lists(st.sampled_from([0.0, 0.02, 0.3, 0.8, 1.0]), min_size=1, max_size=30)


@pytest.fixture
def codec() -> MotionCodec:
    return small_motion_codec()


def write_blinking_twins(folder: Path) -> list[list[Path]]:
    """Two grey faces whose eyes' pixels are dark where the lids are open."""
    shut = np.array([0, 0, 0, 0.5, 1, 1, 0.5, 0, 0, 0], np.float32)
    masks, eyes = np.zeros((COUNT, 3, 4, 4), np.float16), np.zeros((COUNT, 4, 4), np.float16)
    masks[:, 2, 1, 1:3] = eyes[:, 1, 1:3] = 1
    for number, name in enumerate(("000006", "000007")):
        frames = np.full((COUNT, 64, 64, 3), 120 + 60 * number, np.uint8)
        frames[:, 16:32, 16:48] = (frames[:, 16:32, 16:48] * shut[:, None, None, None]).astype(np.uint8)
        np.save(folder / f"{name}.frames.npy", frames)
        truth = {"acted_blink": shut, "opening_px": np.zeros(COUNT), "masks": masks, "acted_eyes": eyes}
        np.savez(folder / f"{name}.npz", **truth, tracked=np.full((COUNT, 3, 2), 32, np.float32))
    return twins_of(sorted(folder.glob("*.frames.npy")))


@settings(max_examples=200)
@given(CURVES)
def test_every_frame_has_open_moments_about_it(curve: list[float]) -> None:
    shut = np.array(curve, np.float32)
    if (shut >= OPEN).all():
        with pytest.raises(ValueError, match="never open"):
            course_of(shut)
        return
    course, frames = course_of(shut), np.arange(len(shut))
    assert (shut[course.before] < OPEN).all()
    assert (shut[course.after] < OPEN).all()
    assert ((course.share >= 0) & (course.share <= 1)).all()
    inside = (course.before <= frames) & (course.after >= frames)
    between = course.before + course.share * (course.after - course.before)
    np.testing.assert_allclose(between[inside], frames[inside], atol=1e-4)
    opens = shut < OPEN
    assert (course.before[opens] == frames[opens]).all()
    for frame in frames[inside & ~opens]:
        assert (shut[course.before[frame] + 1 : course.after[frame]] >= OPEN).all()


@torch.no_grad()
def test_a_blink_is_the_pattern_upon_the_open_moments(codec: MotionCodec) -> None:
    eyes = torch.zeros(7, 8, 8)
    eyes[:, 1, 1:3] = 1
    open_course = torch.arange(7.0)[:, None, None, None] * torch.randn(1, 4, 8, 8)
    blinks = torch.from_numpy(BLINK >= OPEN)[:, None, None, None]
    latents = torch.where(blinks, 100.0, open_course)  # what the encoder wrote of them about the eyes does not matter
    shut = codec.shut(eyes[:, None], torch.from_numpy(BLINK))
    assert shut[3].abs().max() > 0.01
    torch.testing.assert_close(shut[2], 0.4 * shut[3])
    found = written(codec, latents, eyes, BLINK)
    about, beyond = np.s_[:, :, : 2 + LIDS_REACH, : 3 + LIDS_REACH], np.s_[:, :, 2 + LIDS_REACH :]
    torch.testing.assert_close(found[about], (open_course + shut)[about], atol=1e-4, rtol=1e-4)
    assert torch.equal(found[beyond], latents[beyond])  # a mouth goes on while lids are shut
    assert torch.equal(found[:, :, :, 3 + LIDS_REACH :], latents[:, :, :, 3 + LIDS_REACH :])


@torch.no_grad()
def test_without_eyes_nothing_is_shut(codec: MotionCodec) -> None:
    assert codec.shut(torch.zeros(1, 1, 4, 4), torch.ones(1)).abs().max() == 0


def test_what_is_shown_is_a_function_of_the_step(tmp_path: Path) -> None:
    twins = write_blinking_twins(tmp_path)
    one, again, other = (draw_shown(twins, step, 4) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(again).values(), strict=True))
    assert not torch.equal(one.portraits, other.portraits)
    assert one.frames.shape == one.before.shape == (2, 4, 3, 64, 64)
    assert torch.equal(one.shut[::2], one.shut[1::2])  # twins do the same
    shut = torch.cat([draw_shown(twins, step, 4).shut for step in range(40)])
    assert 0.4 < (shut >= OPEN).float().mean() < 0.8
    weights = [draw_shown(twins, step, 4) for step in range(10)]
    assert all((w.weight.amax((1, 2, 3)) > 9.9).tolist() == (w.shut > 0.45).tolist() for w in weights)


def test_decoder_and_pattern_learn_and_the_encoder_does_not(codec: MotionCodec, tmp_path: Path) -> None:
    shown = draw_shown(write_blinking_twins(tmp_path), 0, 8)
    assert (shown.shut > 0.5).any()
    loss, parts = lids_loss(codec, shown, torch.Generator().manual_seed(0))
    loss.backward()
    learns = {name.partition(".")[0] for name, value in codec.named_parameters() if value.grad is not None}
    assert learns == {"lids", "mover", "reader", "flow_out", "paint"}
    assert set(parts) == {"l1", "astray_px", "shut", "open"}


def test_taught_lids_shut_and_open(codec: MotionCodec, tmp_path: Path) -> None:
    """From no pattern, as after the codec's own training; without it shut lids stay open."""
    twins, before = write_blinking_twins(tmp_path), [value.clone() for value in codec.motion.parameters()]
    torch.nn.init.zeros_(codec.lids.weight)
    draws = [draw_shown(twins, step, 8) for step in range(900, 904)]
    unknown = [replace(drawn, shut=torch.where(drawn.shut > 0.5, 0.51, drawn.shut)) for drawn in draws]

    @torch.no_grad()
    def off(shown: list[Shown]) -> tuple[float, float]:
        told = [lids_loss(codec, each, torch.Generator().manual_seed(0))[1] for each in shown]
        shut, opened = ([parts[name] for parts in told if name in parts] for name in ("shut", "open"))
        return float(np.mean(shut)), float(np.mean(opened))

    first = off(draws)
    teach_lids(codec, twins, tmp_path / "state", steps=150)
    shut, opened = off(draws)
    assert shut < 0.6 * first[0]
    assert opened < first[0]
    assert off(unknown)[0] > 1.1 * shut  # it is the pattern that tells how far
    assert all(torch.equal(a, b) for a, b in zip(before, codec.motion.parameters(), strict=True))


def test_a_killed_teaching_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twins, real = write_blinking_twins(tmp_path), lids.draw_shown

    def taught(state: str, kill_at: int = -1) -> MotionCodec:
        torch.manual_seed(0)
        codec = MotionCodec(**SMALL_CODEC)

        def draw(twins: list[list[Path]], step: int, batch: int, device: torch.device) -> Shown:
            if step == kill_at:
                raise KeyboardInterrupt
            return real(twins, step, batch, device)

        monkeypatch.setattr(lids, "draw_shown", draw)
        monkeypatch.setattr(lids, "SAVE_EVERY", 4)
        teach_lids(codec, twins, tmp_path / state, steps=10, batch=2)
        return codec

    whole = taught("whole")
    with pytest.raises(KeyboardInterrupt):
        taught("killed", kill_at=6)
    resumed = taught("killed")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_loss_that_is_not_finite_names_its_videos(
    codec: MotionCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(lids, "lids_loss", lambda *_: (lost * 1, {}))
    with pytest.raises(Diverged, match="; its batch: video 6, video 7; "):
        teach_lids(codec, write_blinking_twins(tmp_path), tmp_path / "state", steps=5, batch=2)


def test_a_drawn_videos_blinks_are_written(tmp_path: Path) -> None:
    codec = load_codec(MINI_DIR / "codec")
    seed = next(seed for seed in range(100) if blinks(seed))
    save_video(make_video(seed), tmp_path, f"{seed:06d}")
    found = encode_video(codec, load_speech_encoder(MINI_DIR / "speech"), tmp_path / f"{seed:06d}.frames.npy")
    with np.load(tmp_path / f"{seed:06d}.npz") as truth:
        shut, eyes = truth["acted_blink"], torch.from_numpy(truth["acted_eyes"].astype(np.float32))
    course, latents = course_of(shut), found["latents"].astype(np.float32)
    share = course.share[:, None, None, None]
    upon = latents - (1 - share) * latents[course.before] - share * latents[course.after]
    pattern = codec.shut(eyes[:, None], torch.from_numpy(shut)).detach().numpy()
    whole = (eyes > 0.99).numpy() & (shut >= OPEN)[:, None, None]  # where the mask is 1 the encoder has no share
    upon, pattern = (each.transpose(0, 2, 3, 1) for each in (upon, pattern))
    assert whole.any()
    np.testing.assert_allclose(upon[whole], pattern[whole], atol=0.02)


def blinks(seed: int) -> bool:
    from linker.synth.acting import draw_acting
    from linker.synth.visemes import motion

    spoken = motion(random_speech(seed, duration_s=(1.9, 2.5)), seed)
    return bool(draw_acting(seed).performed(spoken).blink[:40].max() > 0.9)
