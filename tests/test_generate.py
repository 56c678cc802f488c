"""generate with a tiny real checkpoint: exact length, resume after a kill, rows alone redone, refusals carried."""

from __future__ import annotations

import errno
import hashlib
import itertools
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from tiny import write_tiny

from linker import clip as clip_room
from linker import generate as room
from linker.clip import Clip, Workshop
from linker.config import GenerateSettings
from linker.drift import Drift, Guard
from linker.errors import EnvironmentError
from linker.generate import generate
from linker.media import probe, read_frames, write_wav
from linker.records import read_json, write_json
from linker.writing import Film, Writing

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


def kill_at(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """The process ends where a row would store this window."""
    store = Clip.store

    def killed(clip: Clip, latents: Any) -> int:
        if clip.window == window:
            raise KeyboardInterrupt
        return store(clip, latents)

    monkeypatch.setattr(Clip, "store", killed)


def test_a_killed_row_goes_on_at_its_window(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rows({})
    whole = folder.digest(folder.make(settings)["a"])
    folder.ledger.unlink()
    next(folder.ledger.parent.glob("*.mkv")).unlink()
    kill_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        folder.make(settings)
    assert not list(folder.ledger.parent.glob("*.mkv"))
    monkeypatch.undo()
    entry = folder.make(settings)["a"]
    assert entry["windows_made"] == 1
    assert folder.digest(entry) == whole
    assert not list(folder.ledger.parent.glob("rows/*/*/*"))


def test_a_finished_shard_loads_no_model_again(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rows({}, {"clip": "b"})
    before = folder.make(settings)
    old_frames = folder.digest(before["b"])
    made: list[str] = []
    loaded: list[str] = []
    load, begin = room.load_engine, Workshop.begin
    monkeypatch.setattr(room, "load_engine", lambda *given, **how: loaded.append("engine") or load(*given, **how))
    monkeypatch.setattr(
        Workshop, "begin", lambda self, lease, rows: made.append(lease.clip) or begin(self, lease, rows)
    )
    assert folder.make(settings) == before
    assert loaded == []
    folder.rows({}, {"clip": "b", "scales": [1.0, 0.5, 1.0]})
    after = folder.make(settings)
    assert made == ["b"]
    assert loaded == ["engine"]
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


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"clip": f"r{i}", "seed": i, "scales": [1.0, 1.0 - i / 10, 1.0]} for i in range(count)]


def test_rows_side_by_side_are_what_they_are_alone(folder: Folder, settings: GenerateSettings) -> None:
    """Five rows in three places: one that ends is replaced by the next; then each row alone in the same three places,
    and once more with another order and another length beside it."""
    three = settings.model_copy(update={"rows_together": 3})
    folder.rows(*rows_of(5))
    together = {clip: folder.digest(entry) for clip, entry in folder.make(three).items()}
    assert len(set(together.values())) == 5
    for row in rows_of(5)[::2]:
        folder.rows(row)
        assert folder.digest(folder.make(three)[row["clip"]]) == together[row["clip"]]
    write_json(folder.root / "short.json", {"refusal": None, "duration_s": 0.5})
    folder.rows({"clip": "short", "loudness": "short.json"}, *reversed(rows_of(5)))
    entries = folder.make(three)
    assert {clip: folder.digest(entries[clip]) for clip in together} == together
    assert list(entries) == ["short", "r4", "r3", "r2", "r1", "r0"]  # the listing's order, whichever ended first


def test_a_killed_shard_goes_on_at_every_rows_window(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two = settings.model_copy(update={"rows_together": 2})
    folder.rows(*rows_of(3))
    whole = {clip: folder.digest(entry) for clip, entry in folder.make(two).items()}
    shutil.rmtree(folder.ledger.parent)
    kill_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        folder.make(two)
    monkeypatch.undo()
    entries = folder.make(two)
    assert {clip: folder.digest(entry) for clip, entry in entries.items()} == whole
    assert [entries[clip]["windows_made"] for clip in ("r0", "r1", "r2")] == [2, 2, 3]


def test_what_rows_share_is_prepared_once(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, seen = [], []
    hear, see = clip_room.speech_chunks, clip_room.read_face
    monkeypatch.setattr(clip_room, "speech_chunks", lambda *words: heard.append(1) or hear(*words))
    monkeypatch.setattr(clip_room, "read_face", lambda *words: seen.append(1) or see(*words))
    folder.rows(*rows_of(4))
    folder.make(settings)
    assert (len(heard), len(seen)) == (1, 1)
    assert not list(folder.ledger.parent.glob("*.speech"))


@pytest.mark.parametrize("damage", ["face", "masks", "driver", "loudness", "cut"])
def test_a_poisoned_row_is_refused_alone(folder: Folder, settings: GenerateSettings, damage: str) -> None:
    names = {"face": "portraits/p/face.png", "masks": "portraits/p/masks.npz", "driver": "audio.wav"}
    names["loudness"] = "loudness.json"
    name = "driver" if damage == "cut" else damage
    good = (folder.root / names[name]).read_bytes()
    (folder.root / "poison").write_bytes(good[: len(good) // 2] if damage == "cut" else b"poison")
    folder.rows({"clip": "bad", name: "poison"}, {})
    entries = folder.make(settings.model_copy(update={"rows_together": 2}))
    assert entries["bad"]["refusal"]["kind"] == "unreadable"
    assert entries["a"]["state"] == "done"


def test_a_row_that_is_no_picture_is_refused_alone(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latents of one row turn into NaN in its second window; its neighbours' bits stay."""
    two = settings.model_copy(update={"rows_together": 2})
    folder.rows(*rows_of(3))
    whole = {clip: folder.digest(entry) for clip, entry in folder.make(two).items()}
    shutil.rmtree(folder.ledger.parent)
    store = Clip.store

    def poisoned(clip: Clip, latents: Any) -> int:
        number = store(clip, latents)
        if clip.lease.clip == "r1" and clip.previous is not None:
            clip.previous = torch.full_like(clip.previous, torch.nan)
        return number

    monkeypatch.setattr(Clip, "store", poisoned)
    entries = folder.make(two)
    assert entries["r1"]["refusal"]["kind"] == "not_finite"
    assert {clip: folder.digest(entries[clip]) for clip in ("r0", "r2")} == {clip: whole[clip] for clip in ("r0", "r2")}
    assert len(list(folder.ledger.parent.glob("*.mkv"))) == 2


def test_a_full_disk_is_the_machines_fault(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the writing thread ends the shard and leaves no half-written video."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Film, "write", full)
    folder.rows({})
    with pytest.raises(OSError, match="No space left"):
        folder.make(settings)
    assert not list(folder.ledger.parent.glob("*.mkv"))


def test_memory_that_runs_out_halves_the_rows_together(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rows do not fit, two do: the rows are what two together make of them."""
    four, two = (settings.model_copy(update={"rows_together": count}) for count in (4, 2))
    folder.rows(*rows_of(3))
    wanted = {clip: folder.digest(entry) for clip, entry in folder.make(two).items()}
    sample = room.sample_windows

    def small(model: Any, clips: Any, *more: Any) -> Any:
        if len(clips.still) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return sample(model, clips, *more)

    monkeypatch.setattr(room, "sample_windows", small)
    entries = folder.make(four)
    assert {clip: folder.digest(entry) for clip, entry in entries.items()} == wanted
    assert {entry["rows_together"] for entry in entries.values()} == {2}


def test_memory_that_runs_out_while_files_are_finished_leaves_them(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third row begins when the second one waits for nothing but its file."""
    one, two = (settings.model_copy(update={"rows_together": count}) for count in (1, 2))
    sample, finish, failed, calls = room.sample_windows, Writing._finish, threading.Event(), itertools.count(1)

    def small(*given: Any) -> Any:
        if next(calls) == 4:
            failed.set()
            raise torch.OutOfMemoryError("out of memory")
        return sample(*given)

    def finish_later(writing: Writing, clip: Clip) -> None:
        assert clip.lease.clip != "r1" or failed.wait(60)
        finish(writing, clip)

    with monkeypatch.context() as patched:
        patched.setattr(room, "sample_windows", small)
        patched.setattr(Writing, "_finish", finish_later)
        folder.rows(*rows_of(3))
        made = folder.make(two)
    together = [made[clip]["rows_together"] for clip in ("r0", "r1", "r2")]
    assert (together, next(calls)) == ([2, 2, 1], 8)
    again = Folder(folder.root / "again")
    again.rows(*rows_of(3))
    alone = again.make(one)["r2"]
    assert folder.digest(made["r2"]) == again.digest(alone)


def test_rows_of_other_presets_wait_for_their_own_batch(folder: Folder, settings: GenerateSettings) -> None:
    """Each is denoised by its own preset: as alone in the same three places."""
    loose = settings.model_copy(update={"steps": None, "guidance_scale": None, "rows_together": 3})
    rows = [{"clip": f"r{i}", "seed": i, "preset": p} for i, p in enumerate(("draft", "quality", "draft", "balanced"))]
    folder.rows(*rows)
    entries = folder.make(loose)
    assert [entry["sampling"]["steps"] for entry in entries.values()] == [1, 4, 1, 2]
    together = {clip: folder.digest(entry) for clip, entry in entries.items()}
    for row in rows:
        folder.rows(row)
        assert folder.digest(folder.make(loose)[row["clip"]]) == together[row["clip"]], row["clip"]


def test_a_row_that_fits_passes_one_that_does_not(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No seat stays empty while a row waits that could be denoised there."""
    loose = settings.model_copy(update={"steps": None, "guidance_scale": None, "rows_together": 2})
    folder.rows(*({"clip": f"r{i}", "preset": preset} for i, preset in enumerate(("draft", "quality", "draft"))))
    seated: list[set[str]] = []
    denoise = room.Batch.denoise
    monkeypatch.setattr(
        room.Batch,
        "denoise",
        lambda batch, seats: seated.append({clip.lease.clip for clip in seats if clip}) or denoise(batch, seats),
    )
    assert {entry["state"] for entry in folder.make(loose).values()} == {"done"}
    assert seated[:3] == [{"r0", "r2"}] * 3


def test_the_row_says_how_much_memory_was_taken(folder: Folder, settings: GenerateSettings) -> None:
    folder.rows({})
    assert 50 < folder.make(settings)["a"]["peak_memory_mb"] < 100_000


def test_a_net_that_cannot_be_compiled_is_no_rows_fault(
    folder: Folder, settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that fails, then none: the step ends with what is wrong, and the row stays to be made."""

    from torch._dynamo.exc import BackendCompilerFailed

    def fails(*_: object) -> None:
        raise BackendCompilerFailed(fails, RuntimeError("C++ compile error: Python.h is missing"), None)

    folder.rows({})
    compiled = settings.model_copy(update={"compile": True})
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(EnvironmentError, match=r"found no C\+\+ compiler"):
        folder.make(compiled)
    monkeypatch.setattr("linker.engine.compile_nets", lambda model: None)
    sample = room.sample_windows
    monkeypatch.setattr(room, "sample_windows", fails)
    with pytest.raises(EnvironmentError, match=r"compile the nets .*Python\.h is missing"):
        folder.make(compiled)
    monkeypatch.setattr(room, "sample_windows", sample)
    assert folder.make(settings)["a"]["state"] == "done"


def test_the_mini_has_no_tiny_decoder_and_says_so(folder: Folder, settings: GenerateSettings) -> None:
    folder.rows({})
    with pytest.raises(EnvironmentError, match=r"found no folder .*tiny, needed an AutoencoderTiny .* 4 channels"):
        folder.make(settings.model_copy(update={"decoder": "tiny"}))


def test_a_tiny_decoder_beside_the_codec_is_used(
    folder: Folder, settings: GenerateSettings, weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(weights, tmp_path / "w")
    small = AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    small.save_pretrained(tmp_path / "w" / "tiny")
    folder.rows({})
    own = folder.make(settings.model_copy(update={"weights": str(tmp_path / "w")}))["a"]
    first = folder.digest(own)
    entry = folder.make(settings.model_copy(update={"weights": str(tmp_path / "w"), "decoder": "tiny"}))["a"]
    assert entry["decoder"] == "tiny"
    assert folder.digest(entry) != first
    assert entry["frames"] == own["frames"]


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
    from linker.model.lingualinker import LinguaLinker

    model = LinguaLinker.from_pretrained(weights)
    model.save_pretrained(tmp_path, {}, torch.float32)
    again = LinguaLinker.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_window_after_drift_begins_from_the_portrait(
    folder: Folder, settings: GenerateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry says which windows, and they do not follow the ones before them; a killed row is anchored at the same
    ones when it goes on."""
    folder.rows({})
    made, next_window, follows = {}, Clip.next_window, []

    def noting(clip: Clip) -> Any:
        window = next_window(clip)
        follows.extend(window.follows)
        return window

    monkeypatch.setattr(Clip, "next_window", noting)
    for colour, anchored in ((0.0, []), (50.0, [1, 2])):
        monkeypatch.setattr(Guard, "look", lambda guard, frame, colour=colour: Drift(1.0, colour, 1.0))
        entry = folder.make(settings)["a"]
        assert (entry["anchored"], entry["window"]) == (anchored, 12)
        made[colour] = folder.digest(entry)
        shutil.rmtree(folder.ledger.parent)
    assert follows == [False, True, True, False, False, False]
    assert made[0.0] != made[50.0]
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            folder.make(settings)
    entry = folder.make(settings)["a"]
    assert (entry["windows_made"], entry["anchored"]) == (1, [1, 2])
    assert folder.digest(entry) == made[50.0]
