"""Curation as a user runs it: footage in; verdicts, a funnel and shards out; faults found, nothing touched."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_language import write_checkpoint

from linker.config import FACE_PX, FPS, SAMPLE_RATE_HZ
from linker.curate.segments import in_step
from linker.encode import Target, encode
from linker.media import read_frames, write_wav
from linker.synth.defects import PER_FRAME, Footage, plant
from linker.synth.footage import draw_footage
from linker.ticks import ticks

ROOT = Path(__file__).resolve().parent.parent
SEED, OTHER = 9_700_003, 9_700_011


def save(footage: Footage, path: Path, sound: bool = True) -> None:
    height, width = footage.frames.shape[1:3]
    wav = path.with_suffix(".wav")
    write_wav(wav, footage.samples, SAMPLE_RATE_HZ)
    encode(footage.frames, [Target(path, (width, height), crf=20)], wav if sound else None, len(footage.frames))
    wav.unlink()


def curate(folder: Path, results: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = ("curate", str(folder), "--results", str(results), "--cores", "2", *words)
    command = [sys.executable, "-P", "-m", "linker.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of footage and its results beside it."""
    folder = tmp_path_factory.mktemp("curation")
    raw = folder / "raw"
    raw.mkdir()
    own, other = draw_footage(SEED, 256), draw_footage(OTHER, 256)
    save(own, raw / "clean.mp4")
    save(replace(own, samples=np.roll(own.samples, 2 * PER_FRAME)), raw / "two frames late.mp4")
    for kind in ("hand", "hard_cut", "late_sound", "shake"):
        save(plant(kind, own, other, 0.8, 5), raw / f"{kind}.mp4")
    save(own, raw / "mute.mp4", sound=False)
    (raw / "text.mp4").write_text("this is no video")
    (raw / "empty.mp4").write_bytes(b"")
    whole = (raw / "clean.mp4").read_bytes()
    (raw / "broken.mp4").write_bytes(whole[: len(whole) // 3])
    shutil.copy(raw / "clean.mp4", raw / "twice.mp4")
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    done = curate(raw, folder / "out")
    assert done.returncode == 0, done.stderr
    assert "refused: 3 of 11 videos" in done.stdout
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before  # the footage is never touched
    return folder


def verdicts(curated: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Name of the file -> stage -> verdict (of its first segment)."""
    names = {
        video["id"]: Path(video["path"]).stem
        for video in json.loads((curated / "out/footage.json").read_text())["videos"]
    }
    told: dict[str, dict[str, dict[str, object]]] = {}
    for line in (curated / "out" / "verdicts.jsonl").read_text().splitlines():
        verdict = json.loads(line)
        told.setdefault(names[verdict["video"]], {}).setdefault(verdict["stage"], verdict)
    return told


def test_clean_footage_is_kept_and_each_fault_is_found_by_its_stage(curated: Path) -> None:
    told = verdicts(curated)
    for name in ("clean", "two frames late", "twice"):
        assert all(verdict["kept"] for verdict in told[name].values()), told[name]
    for name, stage in {"hand": "occlusion", "hard_cut": "scene", "late_sound": "sync", "shake": "coherence"}.items():
        assert not told[name][stage]["kept"], name
        assert told[name][stage]["reason"]
        assert told[name][stage]["frames"]
    assert told["mute"]["sync"]["kind"] == "silent"
    assert [told[name]["cut"]["kind"] for name in ("text", "empty")] == ["undecodable", "empty"]
    assert told["broken"]["cut"]["kind"] in ("undecodable", "truncated")


def test_the_funnel_counts_hours_in_the_papers_order(curated: Path) -> None:
    rows = list(csv.DictReader((curated / "out" / "funnel.csv").open()))
    assert [row["stage"] for row in rows] == ["origin", "cut", "occlusion", "scene", "sync", "coherence"]
    hours = [float(row["hours"]) for row in rows]
    assert hours == sorted(hours, reverse=True)
    assert int(rows[-1]["segments"]) == 3


def test_shards_hold_frame_exact_segments_in_step(curated: Path) -> None:
    import webdataset

    shards = sorted(str(path) for path in (curated / "out" / "dataset").glob("*-0*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(samples) == 3
    facts = {
        json.loads(sample["json"])["video"].split(".")[0]: (sample, json.loads(sample["json"])) for sample in samples
    }
    sample, told = facts["clean"]
    assert {"language", "licence", "source", "identity"} <= set(told)
    count, box = told["frames"], told["box"]
    (curated / "segment.mp4").write_bytes(sample["mp4"])
    crops = np.stack(list(read_frames(curated / "segment.mp4")))
    assert crops.shape == (count, FACE_PX, FACE_PX, 3)
    masks, points = (np.load(io.BytesIO(sample[f"{name}.npy"])) for name in ("masks", "landmarks"))
    assert masks.shape == (count, 3, 64, 64)
    assert points.shape == (count, 478, 2)
    frames = [tick.frame for tick in ticks(curated / "raw" / "clean.mp4")]
    inside = (slice(max(0, -box[1]), None), slice(max(0, -box[0]), None))
    first = told["segment"]["first"]
    for offset in (0, count - 1):  # the right frame is nearer than its neighbours
        wanted = [
            np.abs(_crop(frames[first + i], box) - crops[offset].astype(float))[inside].mean() for i in (offset, 40)
        ]
        assert wanted[0] < wanted[1]
    _late, told_late = facts["two-frames-late"]
    assert abs(told_late["offset"] - 2) <= 1


def _crop(frame: np.ndarray, box: list[int]) -> np.ndarray:
    from linker.pictures import cut_square

    return cut_square(frame, (box[0], box[1], box[2], box[3]), FACE_PX).astype(float)


def test_the_data_set_tells_where_it_comes_from(curated: Path) -> None:
    folder = curated / "out" / "dataset"
    rows = list(csv.DictReader((folder / "segments.csv").open()))
    assert len({row["identity"] for row in rows}) == 1  # one person, so one split
    assert len({row["split"] for row in rows}) == 1
    assert [row["double_of"] != "" for row in rows] == [False, True, True]
    card = (folder / "README.md").read_text()
    assert "| coherence | 3 |" in card
    assert (folder / "sheets" / "kept.jpg").stat().st_size > 5000
    assert (folder / "dropped.png").stat().st_size > 5000


def test_nothing_is_done_twice_and_a_moved_threshold_decodes_nothing(curated: Path) -> None:
    home = curated / "out" / "footage"
    cut = sorted(home.rglob("segments/*.tar"))
    assert len(cut) == 3
    before = {path: path.stat().st_mtime_ns for path in [*home.rglob("measures.npz"), *cut]}
    again = curate(curated / "raw", curated / "out")
    assert again.returncode == 0, again.stderr
    moved = curate(curated / "raw", curated / "out", "--set", "curate.occlusion=0.19")
    assert moved.returncode == 0, moved.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what is kept is not cut again
    shards = sorted((curated / "out" / "dataset").glob("*-0*.tar"))
    with tarfile.open(shards[0]) as tar:
        told = [json.loads(tar.extractfile(m).read()) for m in tar if m.name.endswith(".json")]  # type: ignore[union-attr]
    assert [one["verdicts"]["occlusion"]["threshold"] for one in told] == [0.19] * 3
    weights = write_checkpoint(curated / "w.pt", {"fr": 20.0})
    heard = curate(
        curated / "raw", curated / "out", "--set", f"language.whisper={weights}", "--set", "language.min_speech_s=1"
    )
    assert heard.returncode == 0, heard.stderr
    rows = list(csv.DictReader((curated / "out" / "dataset" / "segments.csv").open()))
    assert [row["language"] for row in rows] == ["fr"] * 3
    stricter = curate(curated / "raw", curated / "out", "--set", "curate.min_face_px=2000")
    assert stricter.returncode == 0, stricter.stderr
    rows = list(csv.DictReader((curated / "out" / "funnel.csv").open()))
    assert int(rows[1]["segments"]) == 0
    assert not list(home.rglob("segments/*.tar"))


def test_a_folder_without_videos_is_a_wrong_order(tmp_path: Path) -> None:
    done = curate(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert "found no video" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("first", "offset"), [(0, 0), (0, -3), (5, 2), (48, 4)])
def test_sound_is_cut_in_step(first: int, offset: int) -> None:
    samples = np.arange(50 * PER_FRAME, dtype=np.float32) + 1
    cut = in_step(samples, first, 2, offset)
    assert len(cut) == 2 * PER_FRAME
    wanted = np.arange((first + offset) * PER_FRAME, (first + offset + 2) * PER_FRAME) + 1.0
    assert np.array_equal(cut, np.where((wanted >= 1) & (wanted <= len(samples)), wanted, 0))


def test_drawn_footage_is_the_same_every_time() -> None:
    one, two = draw_footage(SEED, 96, (1.0, 1.1)), draw_footage(SEED, 96, (1.0, 1.1))
    assert np.array_equal(one.frames, two.frames)
    assert len(one.samples) == len(one.frames) * SAMPLE_RATE_HZ // FPS
