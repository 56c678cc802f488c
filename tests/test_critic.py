"""The sync critic: it hears which lag belongs to which lips, and says so less surely of a stranger's voice."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from linker.config import CRITIC_DIR, CRITIC_FORM, SAMPLE_RATE_HZ
from linker.errors import Diverged, EnvironmentError
from linker.landmarks import lip_shape
from linker.media import write_wav
from linker.model.critic import MARGIN, REACH, SyncCritic, judge_sync, lag_curve, load_critic, log_mel, save_critic
from linker.synth import visemes
from linker.synth.speech import Speech, random_speech
from linker.train import critic as critic_module
from linker.train.critic import FRAMES, filmed_pieces, lag_loss, seen_lips, train_critic

NEVER_TRAINED = 9_500_000


@pytest.fixture(scope="module")
def critic() -> SyncCritic:
    return load_critic(CRITIC_DIR / "critic.safetensors")


def spoken(seed: int) -> tuple[Speech, np.ndarray]:
    """Speech never trained on, and the lips that say it as landmarks would see them."""
    speech = random_speech(seed, duration_s=(4.0, 4.2))
    return speech, seen_lips(np.stack(visemes.mouth_track(speech), 1), np.random.default_rng(seed))


@pytest.mark.parametrize("shift", [-9, -4, 0, 5, 12])
def test_the_lag_is_found(critic: SyncCritic, shift: int) -> None:
    found = []
    for seed in range(NEVER_TRAINED, NEVER_TRAINED + 4):
        speech, lips = spoken(seed)
        sync = judge_sync(critic, lips, np.roll(speech.samples, shift * SAMPLE_RATE_HZ // 25))
        assert sync is not None
        found.append(abs(sync.offset - shift) <= 1)
    assert sum(found) >= 3


def test_a_strangers_voice_convinces_less(critic: SyncCritic) -> None:
    pairs = [spoken(seed) for seed in range(NEVER_TRAINED, NEVER_TRAINED + 4)]
    own = [judge_sync(critic, lips, speech.samples) for speech, lips in pairs]
    other = [judge_sync(critic, lips, pairs[i - 1][0].samples) for i, (_, lips) in enumerate(pairs)]
    assert min(sync.confidence for sync in own if sync) > max(sync.confidence for sync in other if sync)


def test_unseen_frames_are_bridged_and_too_few_give_no_answer(critic: SyncCritic) -> None:
    speech, lips = spoken(NEVER_TRAINED)
    lips[40:48] = np.nan
    sync = judge_sync(critic, lips, speech.samples)
    assert sync is not None
    assert abs(sync.offset) <= 1
    lips[20:] = np.nan
    assert judge_sync(critic, lips, speech.samples) is None


def test_the_curve_peaks_at_a_planted_lag() -> None:
    track = torch.randn(120, 16, generator=torch.Generator().manual_seed(0))
    for lag in (-REACH, -3, 0, 7, REACH):
        curve = lag_curve(track, torch.roll(track, lag, 0))
        assert int(curve.argmax()) - REACH == lag
        assert curve.max() == pytest.approx(4.0, rel=0.2)  # |x|^2 / sqrt(D) of 16 normal numbers


def test_far_away_frames_change_nothing() -> None:
    torch.manual_seed(0)
    sound = SyncCritic().eval().sound
    mel = torch.randn(1, 40, 400)
    changed = mel.clone()
    changed[..., 300:] = 0
    with torch.no_grad():
        assert torch.allclose(sound(mel)[..., : 75 - MARGIN], sound(changed)[..., : 75 - MARGIN], atol=1e-6)


def test_mel_columns_come_four_a_frame_and_follow_the_sound() -> None:
    samples = torch.zeros(SAMPLE_RATE_HZ)
    samples[8000:8100] = torch.randn(100)
    mel = log_mel(samples, 25)
    assert mel.shape == (100, 40)
    assert abs(int(mel.sum(1).argmax()) - 50) <= 1
    assert log_mel(samples[:100], 25).shape == (100, 40)


def test_the_loss_prefers_the_true_lag() -> None:
    rng = np.random.default_rng(0)
    lips = torch.randn(4, 110, 8) * 3
    right, parts = lag_loss(lips, lips, rng)
    wrong, _ = lag_loss(lips, torch.roll(lips, 5, 1), np.random.default_rng(0))
    assert right < wrong
    assert parts["within_a_frame"] == 1.0


def test_training_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linker.train.fit.Plan.save_every", 2)
    whole = train_critic(tmp_path / "whole", 4, 4, batch=3)
    (tmp_path / "killed").mkdir()
    pool = f"pool.{CRITIC_FORM}.4.npz"
    (tmp_path / "killed" / pool).write_bytes((tmp_path / "whole" / pool).read_bytes())
    train_critic(tmp_path / "killed", 4, 2, batch=3)
    save_critic(whole, tmp_path / "critic.safetensors")
    again = load_critic(tmp_path / "critic.safetensors")
    assert all(torch.equal(a.half(), b.half()) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert (tmp_path / "killed" / "state.pt").exists()


def test_a_loss_that_is_not_finite_names_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic_module, "lag_loss", lambda said, *_: (said.sum() * torch.nan, {}))
    rows = np.random.default_rng([0, 11]).choice(4, 2, replace=False)
    with pytest.raises(Diverged, match=f"; its batch: piece {rows[0]}, piece {rows[1]}; "):
        train_critic(tmp_path, 4, 4, batch=2)


def write_shard(folder: Path, **changed: bytes) -> np.ndarray:
    """One segment of shards, its members but for those `changed`; its landmarks."""
    points = np.random.default_rng(0).uniform(0, 512, (FRAMES + 9, 478, 2)).astype(np.float32)
    stream, wav = io.BytesIO(), folder / "a.wav"
    np.save(stream, points)
    write_wav(wav, np.zeros((FRAMES + 9) * 640, np.float32), SAMPLE_RATE_HZ)
    members = {"landmarks": stream.getvalue(), "wav": wav.read_bytes()} | changed
    with tarfile.open(folder / "train-000000.tar", "w") as tar:
        for name, content in members.items():
            if content:
                member = tarfile.TarInfo({"landmarks": "a.landmarks.npy", "wav": "a.wav"}[name])
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return points


def test_curated_footage_joins_the_training(tmp_path: Path) -> None:
    points = write_shard(tmp_path)
    filmed = filmed_pieces(tmp_path)
    assert filmed.mels.shape == (1, 4 * FRAMES, 40)
    assert np.allclose(filmed.lips[0], lip_shape(points[:FRAMES]), rtol=0.2)  # the unit is the whole segment's
    train_critic(tmp_path / "state", 4, 1, batch=4, shards=tmp_path)
    with pytest.raises(EnvironmentError, match="linker curate"):
        filmed_pieces(tmp_path / "state")


def test_filmed_pieces_are_named_by_what_they_hold(tmp_path: Path) -> None:
    write_shard(tmp_path)
    (one,) = filmed_pieces(tmp_path).names
    write_shard(tmp_path, wav=(tmp_path / "a.wav").read_bytes()[:-2] + b"xy")
    (other,) = filmed_pieces(tmp_path).names
    assert (one != other, one[:2], one[-13:]) == (True, "a.", " from frame 0")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"wav": b""}, r"train-000000\.tar: a has no \.wav; curate"),
        ({"wav": b"no sound at all"}, r"train-000000\.tar: a cannot be read \(Error: "),
        ({"landmarks": b"no array"}, r"train-000000\.tar: a cannot be read \(ValueError: "),
    ],
)
def test_a_broken_segment_is_named(tmp_path: Path, changed: dict[str, bytes], told: str) -> None:
    write_shard(tmp_path, **changed)
    with pytest.raises(EnvironmentError, match=told):
        filmed_pieces(tmp_path)


def test_a_shard_that_was_cut_short_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path)
    shard = tmp_path / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(EnvironmentError, match=r"train-000000\.tar: cannot be read \(.*\); curate the footage again"):
        filmed_pieces(tmp_path)


def test_other_pieces_begin_the_training_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path)
    anew = list[bool]()
    for count, shards in ((4, None), (4, None), (6, None), (6, tmp_path), (6, tmp_path)):
        train_critic(tmp_path / "state", count, 1, batch=4, shards=shards)
        anew.append("starting anew" in capsys.readouterr().err)
    assert anew == [False, False, True, True, False]
    with np.load(tmp_path / "state" / f"pool.{CRITIC_FORM}.6.npz") as pool:
        assert len(pool["mels"]) == 6


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "critic.safetensors").write_bytes(b"not weights")
    with pytest.raises(EnvironmentError, match=r"critic\.safetensors"):
        load_critic(tmp_path / "critic.safetensors")
    with pytest.raises(EnvironmentError, match="is no sync critic"):
        load_critic(tmp_path / "gone.safetensors")
