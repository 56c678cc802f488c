"""What killed runs and power cuts leave: what is damaged is made again, what is whole or somebody else's stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from linker.records import write_json
from linker.tidy import clear_up, scratch

DAMAGED = [b"", b'{\n "refusal": nu', b"\0" * 40, '{"title": "\u00c9'.encode()[:-1]]
SIDECARS = ["portraits/p/crop.json", "audio/a/loudness.json", "audio/a/language.json", "clips/c/steadiness.json",
            "shards/s000.json", "shards/s000/ledger.json", "footage.json", "footage/v/facts.json"]  # fmt: skip


def delivered(results: Path, clip: str) -> Path:
    """A clip's note, with all that belongs to it."""
    video = results / "videos" / f"{clip}.mp4"
    write_json(video.with_suffix(".json"), {"video": video.name})
    video.write_text("video")
    note = results / "clips" / clip / "delivered.json"
    write_json(note, {"video": video.name})
    return note


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_sidecars_go_and_whole_ones_stay(tmp_path: Path, content: bytes) -> None:
    for name in SIDECARS:
        write_json(tmp_path / name, {})
        clear_up(tmp_path)
        assert (tmp_path / name).is_file()
        (tmp_path / name).write_bytes(content)
        clear_up(tmp_path)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("content", DAMAGED)
def test_a_deliverable_whose_note_or_sidecar_is_damaged_is_made_again(tmp_path: Path, content: bytes) -> None:
    good, note, other = (delivered(tmp_path, clip) for clip in ("good", "note", "sidecar"))
    note.write_bytes(content)
    sidecar = tmp_path / "videos" / "sidecar.json"
    sidecar.write_bytes(content)
    clear_up(tmp_path)
    assert [path.exists() for path in (good, note, other)] == [True, False, False]
    assert sidecar.read_bytes() == content  # a rerun that fails leaves what was delivered


@pytest.mark.parametrize("lost", ["videos/c.mp4", "videos/c.json"])
def test_a_deliverable_that_was_deleted_is_made_again(tmp_path: Path, lost: str) -> None:
    note = delivered(tmp_path, "c")
    clear_up(tmp_path)
    assert note.is_file()
    (tmp_path / lost).unlink()
    clear_up(tmp_path)
    assert not note.exists()


def test_what_killed_steps_left_half_written_goes(tmp_path: Path) -> None:
    """Nothing whole, nothing that others named so, and nothing of a shard, whose workers may live on."""
    gone = [
        "draft/.c.0123abcd.mp4",
        "videos/.c.0123abcd.json",
        "clips/c/.stable.0123abcd.mkv",
        "masters/.c.0123abcd.mov",
    ]
    gone += ["portraits/p/.face.0123abcd.png", "audio/a/.driver.0123abcd.wav", "report/posters/.c.0123abcd.jpg"]
    kept = ["draft/c.mp4", "videos/.hidden", "clips/c/.notes.txt", "shards/s000/rows/c/.tries.0123abcd.json"]
    for name in gone + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clear_up(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    for name in ("jobs.json", "videos/notes.json", "clips/c/notes.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no JSON")
    clear_up(tmp_path)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_what_a_killed_step_needed_meanwhile_goes(tmp_path: Path) -> None:
    killed = "import os, sys; from linker.tidy import *\n"
    killed += "with scratch(Path(sys.argv[1])) as folder: (folder / 'a.wav').touch(); os.abort()"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert len(list(tmp_path.glob(".linker/tmp/*/a.wav"))) == 1
    clear_up(tmp_path)
    assert not (tmp_path / ".linker" / "tmp").exists()


def test_scratch_leads_libraries_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = tempfile.gettempdir()
    with scratch(Path()) as folder:
        assert Path(os.environ["TMPDIR"]) == folder
        assert folder.parent == tmp_path / ".linker" / "tmp"
    assert not folder.exists()
    assert os.environ["TMPDIR"] == before == tempfile.gettempdir()
