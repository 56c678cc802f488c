"""Training on footage of one's own: shards as curate writes them, good and broken, through both stages."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, write_tiny

from linker.config import SAMPLE_RATE_HZ, GenerateSettings, Settings, TrainSettings
from linker.encode import Target, encode
from linker.engine import load_engine
from linker.errors import EnvironmentError, SettingsError
from linker.media import write_wav
from linker.synth.footage import draw_footage
from linker.train import footage as footage_room
from linker.train import steps
from linker.train.footage import attempt, decode_segment, decoded, pooled, read_segments
from linker.train.mapped import mapped
from linker.train.presets import chosen, refuse_useless_training

SIDE = 96


def members(key: str, frames: np.ndarray, samples: np.ndarray, folder: Path) -> dict[str, bytes]:
    """A segment's files by name; its mask of the mouth is the lower half, the head's the upper one."""
    picture, sound, masks = folder / "a.mp4", folder / "a.wav", io.BytesIO()
    encode(frames, [Target(picture, (SIDE, SIDE), crf=12)], None, len(frames))
    write_wav(sound, samples, SAMPLE_RATE_HZ)
    stored = np.zeros((len(frames), 3, 64, 64), np.uint8)
    stored[:, 0, :32], stored[:, 1, 32:] = 255, 255
    np.save(masks, stored)
    files = {"mp4": picture.read_bytes(), "wav": sound.read_bytes(), "masks.npy": masks.getvalue(), "json": b"{}"}
    return {f"{key}.{kind}": content for kind, content in files.items()}


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def encoding(encoded: Path, key: str) -> Path:
    """The encoded segment of a key."""
    (path,) = encoded.parent.glob(f"{key}.*.npz")
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawn person, cut twice for training and once to be held out; a broken segment, and a hostile name."""
    folder = tmp_path_factory.mktemp("shards")
    footage = draw_footage(9_700_100, SIDE, (1.8, 2.0))
    parts = [(footage.frames[i : i + 20], footage.samples[i * 640 : (i + 20) * 640]) for i in (0, 20)]
    good = [members(f"anna-0000000{i}-0000", *part, folder) for i, part in enumerate(parts)]
    broken = {name.replace("anna", "bert"): content for name, content in good[0].items()}
    broken["bert-00000000-0000.mp4"] = broken["bert-00000000-0000.mp4"][:900]
    hostile = {f"../../{name}": content for name, content in good[0].items()}
    write_shard(folder / "train-000000.tar", good[0] | broken | hostile)
    write_shard(folder / "train-000001.tar", good[1])
    write_shard(folder / "validation-000000.tar", {n.replace("anna", "carl"): c for n, c in good[1].items()})
    return folder


def test_a_segment_is_decoded_at_the_models_size(shards: Path) -> None:
    (first, second) = read_segments([shards / "train-000000.tar"])
    assert (first.key, second.key) == ("anna-00000000-0000", "bert-00000000-0000")
    found = decode_segment(first, 32, 8)
    footage = draw_footage(9_700_100, SIDE, (1.8, 2.0))
    assert found.frames.shape == (20, 32, 32, 3)
    shrunk = footage.frames[7].reshape(32, 3, 32, 3, 3).mean((1, 3))
    assert np.abs(found.frames[7] - shrunk).mean() < 4
    assert np.abs(found.samples[:12_000] - footage.samples[:12_000]).max() < 1e-3
    assert (found.masks[:, 0, :4] == 1).all()
    assert (found.masks[:, 0, 4:] == 0).all()
    assert "train-000000.tar: bert-00000000-0000: " in attempt(second, 32, 8)


def test_a_decoder_that_is_killed_is_the_machines_fault(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage_room, "attempt", killed)
    with pytest.raises(
        EnvironmentError, match=r"train-000001\.tar: anna-.*was killed, mostly because memory was short"
    ):
        list(decoded(read_segments([shards / "train-000001.tar"]), 32, 8, 1))


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_masks_are_pooled_by_area() -> None:
    masks = np.zeros((1, 3, 8, 8), np.uint8)
    masks[0, 1, 0, 0] = 255
    assert pooled(masks, 4)[0, 1, 0, 0] == 0.25
    assert pooled(masks, 8)[0, 1, 0, 0] == 1


def test_both_stages_train_on_shards_from_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    start = write_tiny(tmp_path / "start") / "lingualinker.json"
    card = json.loads(start.read_text())
    start.write_text(json.dumps(card | {"training": {"stage": 0, "sources": {"unet": {"used": 686}}}}))
    settings = TrainSettings(
        start=str(start.parent), shards=str(shards), stage1_steps=1, stage2_steps=1, stage1_batch=1, stage2_batch=1,
    )  # fmt: skip
    encoded, stage1 = tmp_path / "footage/encoded.json", tmp_path / "stage1/lingualinker.json"
    steps.encode_footage(sorted(shards.glob("*.tar")), start, encoded)
    told = json.loads(encoded.read_text())
    assert (told["segments"], len(told["skipped"])) == (2, 1)
    with np.load(encoding(encoded, "anna-00000001-0000")) as arrays:
        assert arrays["latents"].shape == (20, TINY.latent_channels, TINY.latent_px, TINY.latent_px)
        assert arrays["speech"].shape == (20, TINY.speech_dim)
        assert arrays["masks"].shape == (20, 3, TINY.latent_px, TINY.latent_px)
    assert [path.name for path in (encoded.parent / "held_out").glob("*.npz")] == ["carl-00000001-0000.npz"]
    weights, codec, speech = (
        tmp_path / "base/lingualinker.json",
        *(start.parent / part / "config.json" for part in ("codec", "speech")),
    )
    steps.train_stage1(encoded, stage1, codec, speech, settings, [start])
    beside = [weights.with_name(name) for name in ("record.json", "curves.png")]
    steps.train_stage2(encoded, stage1, codec, speech, weights, *beside, settings)
    engine = load_engine(GenerateSettings(weights=str(weights.parent)))
    assert engine.model.arch == TINY
    assert json.loads(beside[0].read_text())["start"]
    for card in (stage1, weights):
        assert json.loads(card.read_text())["training"]["sources"] == {"unet": {"used": 686}}


def test_what_other_networks_encoded_is_encoded_anew(shards: Path, tmp_path: Path) -> None:
    encoded = tmp_path / "footage" / "encoded.json"
    latents = []
    for seed in (0, 1):
        start = write_tiny(tmp_path / f"start{seed}", seed)
        steps.encode_footage([shards / "train-000001.tar"], start / "lingualinker.json", encoded)
        latents.append(encoding(encoded, "anna-00000001-0000").stat().st_mtime_ns)
        assert not list(encoded.parent.glob("anna-00000000-0000*"))
    assert latents[0] != latents[1]


def test_a_segment_that_was_aligned_anew_is_encoded_anew(shards: Path, tmp_path: Path) -> None:
    """The same segment by name, length and picture, with its sound 40 ms later; what is as it was is kept."""
    encoded, start = tmp_path / "footage" / "encoded.json", write_tiny(tmp_path / "start") / "lingualinker.json"
    shard = tmp_path / "train-000000.tar"
    with tarfile.open(shards / "train-000001.tar") as tar:
        anna = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    dora = {name.replace("anna", "dora"): content for name, content in anna.items()}
    key, sound = "anna-00000001-0000", anna["anna-00000001-0000.wav"]
    told = []
    for heard in (sound, sound[:44] + bytes(1280) + sound[44:-1280]):
        write_shard(shard, anna | {f"{key}.wav": heard} | dora)
        steps.encode_footage([shard], start, encoded)
        times = [encoding(encoded, name).stat().st_mtime_ns for name in (key, key.replace("anna", "dora"))]
        told.append((json.loads(encoded.read_text())["made_of"], encoding(encoded, key).name, *times))
    assert [one == other for one, other in zip(*told, strict=True)] == [False, False, False, True]


def test_training_that_lacks_something_is_refused_before_it_starts(tmp_path: Path, shards: Path) -> None:
    start = str(write_tiny(tmp_path / "start"))
    with pytest.raises(SettingsError, match=r"train\.start is empty; preset base starts"):
        refuse_useless_training(TrainSettings(preset="base"))
    with pytest.raises(SettingsError, match=r"train\.start is empty; footage"):
        refuse_useless_training(TrainSettings(shards=str(shards)))
    with pytest.raises(EnvironmentError, match=r"train\.start: .*no lingualinker\.json there"):
        refuse_useless_training(TrainSettings(start=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"train\.shards is empty; preset base needs footage"):
        refuse_useless_training(TrainSettings(preset="base", start=start))
    with pytest.raises(EnvironmentError, match=r"found no train-\*\.tar"):
        refuse_useless_training(TrainSettings(start=start, shards=str(tmp_path)))
    with pytest.raises(SettingsError, match=r"holds a model of size mini, train\.preset is base: give --preset mini"):
        refuse_useless_training(TrainSettings(preset="base", start="mini", shards=str(shards)))
    with pytest.raises(SettingsError, match=r"model of \d+ px, drawn videos are made for 256 px: give train\.shards"):
        refuse_useless_training(TrainSettings(start=start))
    refuse_useless_training(TrainSettings(start="mini"))
    refuse_useless_training(TrainSettings(preset="base", start=start, shards=str(shards)))
    refuse_useless_training(Settings().train)


def test_base_is_trained_as_the_paper_says() -> None:
    base = chosen(TrainSettings(preset="base"))
    assert (base.learning_rate, base.only_new, base.full_noise) == (1e-5, True, 0.0)
    assert chosen(TrainSettings(preset="base", learning_rate=2e-5)).learning_rate == 2e-5


def test_encoded_videos_are_mapped_as_they_lie_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = {"latents": rng.random((5, 3, 4)).astype(np.float16), "masks": np.asfortranarray(rng.random((3, 7)))}
    np.savez(tmp_path / "a.npz", **stored, number=np.int64(7))
    found = mapped(tmp_path / "a.npz")
    assert all(
        np.array_equal(found[name], values) and found[name].dtype == values.dtype for name, values in stored.items()
    )
    assert found["number"] == 7
    np.savez_compressed(tmp_path / "b.npz", **stored)
    with pytest.raises(ValueError, match=r"latents\.npy is compressed"):
        mapped(tmp_path / "b.npz")
