"""The small speech encoder's warm-up: what it is taught, and how its loss is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linker.errors import Diverged
from linker.synth.crops import CROP_S, MOVES, RATE_HZ, write_pool
from linker.synth.speech import random_speech
from linker.synth.visemes import N_VISEMES, motion, viseme_classes
from linker.train import speech as speech_module
from linker.train.speech import Listener, Pool, read_pool, speech_loss


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    path = tmp_path_factory.mktemp("pool") / "pool.npz"
    write_pool(path, count=6, seed=40)
    return read_pool(path)


def test_a_crop_has_the_sound_the_classes_and_the_moves_of_its_speech(pool: Pool) -> None:
    assert pool.samples.shape == (6, CROP_S * 16_000)
    assert pool.classes.shape == (6, CROP_S * RATE_HZ)
    assert pool.moves.shape == (6, CROP_S * RATE_HZ, len(MOVES))
    speech = random_speech(43, duration_s=(CROP_S, CROP_S + 0.2))
    known = pool.classes.shape[1]
    np.testing.assert_allclose(pool.samples[3], speech.samples[: pool.samples.shape[1]], atol=1e-3)
    np.testing.assert_array_equal(pool.classes[3], viseme_classes(speech)[:known])
    told, opening = pool.moves[3, :, MOVES.index("open")].float(), motion(speech, 43, fps=RATE_HZ).open[:known]
    np.testing.assert_allclose(told * float(opening.max()) / float(told.max()), opening, atol=2e-3)


def test_a_pool_that_is_spoken_in_two_processes_is_the_same(pool: Pool, tmp_path: Path) -> None:
    write_pool(tmp_path / "pool.npz", count=6, seed=40, processes=2)
    for name, part in vars(read_pool(tmp_path / "pool.npz")).items():
        assert torch.equal(part, getattr(pool, name)), name


def test_moves_are_in_units_of_their_deviation(pool: Pool) -> None:
    np.testing.assert_allclose(pool.moves.float().std((0, 1)), 1, atol=0.02)


def test_a_move_that_nobody_makes_stays_zero(tmp_path: Path) -> None:
    moves = np.zeros((2, 4, len(MOVES)), np.float16)
    np.savez(tmp_path / "pool.npz", samples=np.zeros((2, 32)), classes=np.zeros((2, 4), np.int8), moves=moves)
    assert not read_pool(tmp_path / "pool.npz").moves.any()


def test_the_loss_is_what_names_and_moves_lack(pool: Pool) -> None:
    logits = 30 * F.one_hot(pool.classes, N_VISEMES).float()
    loss, parts = speech_loss(logits, pool.moves.float(), pool)
    assert loss == pytest.approx(0, abs=1e-6)
    assert parts["accuracy"] == 1
    wrong = pool.moves.float()
    wrong[..., MOVES.index("blink")] += 2
    loss, parts = speech_loss(logits, wrong, pool)
    assert loss == pytest.approx(4 / len(MOVES), rel=1e-3)
    assert (parts["off/blink"], parts["off/open"]) == (pytest.approx(4, rel=1e-3), 0)


def test_a_loss_that_is_not_finite_names_its_utterances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(speech_module, "speech_loss", lambda *_: (lost * 1, {}))
    first = torch.randint(4, (2,), generator=torch.Generator().manual_seed(0)).tolist()
    with pytest.raises(Diverged, match=f"; its batch: utterance {first[0]}, utterance {first[1]}; "):
        speech_module.train_speech(tmp_path / "state", tmp_path / "speech", count=4, steps=2, batch=2)


def test_states_that_lack_a_frame_are_held_against_the_first_ones(pool: Pool) -> None:
    short = Pool(pool.samples, pool.classes[:, :-1], pool.moves[:, :-1])
    logits = 30 * F.one_hot(pool.classes, N_VISEMES).float()
    assert speech_loss(logits, pool.moves.float(), short)[0] == pytest.approx(0, abs=1e-6)
    assert speech_loss(logits[:, :-1], pool.moves[:, :-1].float(), pool)[0] == pytest.approx(0, abs=1e-6)


def test_gradients_reach_the_encoder_from_both_heads(pool: Pool) -> None:
    torch.manual_seed(0)
    for head in range(2):
        listener = Listener()
        listener(pool.samples[:1].float())[head].square().mean().backward()
        first = listener.encoder.feature_extractor.conv_layers[0].conv.weight.grad
        assert first is not None
        assert first.abs().sum() > 0
