"""generate with a tiny real checkpoint: exact length, resume after a kill, rows alone redone, refusals carried."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import write_tiny

from linker import generate as room
from linker.config import GenerateSettings
from linker.errors import EnvironmentError
from linker.generate import generate
from linker.media import probe, read_frames, write_wav
from linker.records import read_json, write_json

DURATION_S = 1.3  # 32.5 frames: three windows, the last one cut


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def settings(weights: Path) -> GenerateSettings:
    return GenerateSettings(weights=str(weights), preset="draft", steps=2, guidance_scale=2.0, dtype="float32")


class Folder:
    """A results folder with one prepared portrait and audio, and listings of rows that use them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        (root / "portraits/p").mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(root / "portraits/p/face.png")
        write_json(root / "portraits/p/crop.json", {"refusal": None})
        head = np.zeros((64, 64), np.float16)
        head[16:48, 16:48] = 1
        np.savez(root / "portraits/p/masks.npz", head=head, mouth=0 * head, eyes=0 * head)
        write_wav(root / "audio.wav", rng.standard_normal(round(DURATION_S * 16_000)).astype(np.float32) / 8, 16_000)
        write_json(root / "loudness.json", {"refusal": None, "duration_s": DURATION_S})
        self.listing, self.ledger = root / "shards/s000.json", root / "shards/s000/ledger.json"

    def rows(self, *changes: dict[str, Any]) -> None:
        row = {
            "clip": "a", "face": "portraits/p/face.png", "crop": "portraits/p/crop.json",
            "masks": "portraits/p/masks.npz", "driver": "audio.wav", "loudness": "loudness.json", "seed": 1,
            "scales": [1.0, 1.0, 1.0], "ranges": [1.0, 1.0, 1.0], "preset": "draft",
        }  # fmt: skip
        write_json(self.listing, {"shard": "s000", "rows": [row | change for change in changes]})

    def make(self, settings: GenerateSettings) -> dict[str, Any]:
        generate(shard=self.listing, ledger=self.ledger, settings=settings)
        return dict(read_json(self.ledger)["rows"])

    def digest(self, entry: dict[str, Any]) -> str:
        return hashlib.sha256(b"".join(f.tobytes() for f in read_frames(self.root / entry["video"]))).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_row_has_exactly_its_frames(folder: Folder, settings: GenerateSettings) -> None:
    folder.rows({})
    entry = folder.make(settings)["a"]
    assert entry["state"] == "done"
    assert entry["frames"] == round(DURATION_S * 25) == sum(1 for _ in read_frames(folder.root / entry["video"]))
    assert probe(folder.root / entry["video"]).video.fps == 25


def test_the_same_row_gives_the_same_frames(folder: Folder, settings: GenerateSettings, tmp_path: Path) -> None:
    folder.rows({}, {"clip": "b"})
    entries = folder.make(settings)
    assert folder.digest(entries["a"]) == folder.digest(entries["b"])


def test_a_killed_row_goes_on_at_its_window(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rows({})
    whole = folder.digest(folder.make(settings)["a"])
    folder.ledger.unlink()
    next(folder.ledger.parent.glob("*.mkv")).unlink()
    store, stored = room.store_window, []

    def killed(windows: Path, window: int, latents: Any) -> None:
        if window == 2:
            raise KeyboardInterrupt
        stored.append(window)
        store(windows, window, latents)

    monkeypatch.setattr(room, "store_window", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.make(settings)
    monkeypatch.setattr(room, "store_window", store)
    entry = folder.make(settings)["a"]
    assert stored == [0, 1]
    assert entry["windows_made"] == 1
    assert folder.digest(entry) == whole
    assert not list(folder.ledger.parent.glob("*.windows"))


def test_a_finished_shard_loads_no_model_again(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rows({}, {"clip": "b"})
    before = folder.make(settings)
    old_frames = folder.digest(before["b"])
    made = []
    real = room.make_clip
    monkeypatch.setattr(room, "make_clip", lambda *words: made.append(words[2].clip) or real(*words))
    assert folder.make(settings) == before
    folder.rows({}, {"clip": "b", "scales": [1.0, 0.5, 1.0]})
    after = folder.make(settings)
    assert made == ["b"]
    assert after["a"] == before["a"]
    assert folder.digest(after["b"]) != old_frames
    assert len(list(folder.ledger.parent.glob("*.mkv"))) == 2  # the old clip of b is swept away


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"ranges": [0.5, 1.0, 1.0]}, {"scales": [0.0, 0.0, 0.0]}, {"preset": "balanced"}]
)
def test_every_field_of_a_row_decides_its_key(
    folder: Folder, settings: GenerateSettings, change: dict[str, Any]
) -> None:
    folder.rows({}, {"clip": "b", **change})
    loose = settings.model_copy(update={"steps": None, "guidance_scale": None})
    entries = folder.make(loose)
    assert entries["a"]["key"] != entries["b"]["key"]
    assert folder.digest(entries["a"]) != folder.digest(entries["b"])


def test_a_refused_portrait_refuses_its_rows_alone(folder: Folder, settings: GenerateSettings) -> None:
    refusal = {"kind": "no_face", "reason": "no face was found", "step": "crop_face"}
    write_json(folder.root / "bad.json", {"refusal": refusal})
    folder.rows({"clip": "bad", "crop": "bad.json"}, {})
    entries = folder.make(settings)
    assert (entries["bad"]["state"], entries["bad"]["refusal"]) == ("refused", refusal)
    assert entries["a"]["state"] == "done"


@pytest.mark.parametrize("damage", ["missing", "truncated", "nan", "other", "pickle"])
def test_bad_weights_are_named(weights: Path, tmp_path: Path, damage: str) -> None:
    import pickle
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(weights, tmp_path / "w")
    path = tmp_path / "w" / "linker.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        tensors[name] = torch.full_like(tensors[name], torch.nan) if damage == "nan" else torch.zeros(3)
        save_file(tensors, path)
    with pytest.raises(EnvironmentError, match=r"linker\.safetensors"):
        room.load_engine(GenerateSettings(weights=str(tmp_path / "w")))


def test_a_folder_without_a_card_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError, match=r"no lingualinker\.json"):
        room.load_engine(GenerateSettings(weights=str(tmp_path)))


def test_a_checkpoint_round_trips_bit_for_bit(weights: Path, tmp_path: Path) -> None:
    import torch

    from linker.model.lingualinker import LinguaLinker

    model = LinguaLinker.from_pretrained(weights)
    model.save_pretrained(tmp_path, {}, torch.float32)
    again = LinguaLinker.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
