"""collect: a row gets its clip, or fails alone with its refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from linker.collect import collect
from linker.config import GenerateSettings
from linker.errors import EnvironmentError, RowsFailed
from linker.keys import key_of
from linker.records import Refusal, Row, write_json
from linker.shards import row_token

GENERATION = row_token(Row("good", Path("/p.png"), Path("/a.wav"), 2), GenerateSettings())


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "shards" / "s000" / "ledger.json"
    refusal = Refusal("no_face", "found no face", "crop_face").to_json()
    rows = {
        "good": {"state": "done", "refusal": None, "video": "shards/s000/good.mkv"},
        "bad": {"state": "refused", "refusal": refusal, "video": ""},
        "lost": {"state": "done", "refusal": None, "video": "shards/s000/lost.mkv"},
    }
    write_json(path, {"rows": {clip: {**row, "key": key_of(tmp_path, GENERATION)} for clip, row in rows.items()}})
    (path.parent / "good.mkv").write_bytes(b"frames")
    os.utime(path.parent / "good.mkv", (1, 1))
    return path


def test_a_good_row_gets_its_clip_dated_now(ledger: Path, tmp_path: Path) -> None:
    target = tmp_path / "clips" / "good" / "generated.mkv"
    collect(ledger, "good", target, GENERATION)
    assert target.read_bytes() == b"frames"
    assert target.stat().st_mtime > 1000
    assert [path.name for path in target.parent.iterdir()] == ["generated.mkv"]


def test_without_hard_links_the_clip_is_copied(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    collect(ledger, "good", tmp_path / "generated.mkv", GENERATION)
    assert (tmp_path / "generated.mkv").stat().st_nlink == 1
    assert (tmp_path / "generated.mkv").read_bytes() == b"frames"


def test_a_refused_row_fails_with_its_reason(ledger: Path, tmp_path: Path) -> None:
    with pytest.raises(RowsFailed, match=r"^bad: crop_face: no_face: found no face$"):
        collect(ledger, "bad", tmp_path / "generated.mkv", GENERATION)
    assert not (tmp_path / "generated.mkv").exists()


@pytest.mark.parametrize("clip", ["lost", "unknown"])
def test_a_clip_that_is_not_there_is_the_machines_fault(ledger: Path, tmp_path: Path, clip: str) -> None:
    with pytest.raises(EnvironmentError, match=clip):
        collect(ledger, clip, tmp_path / "generated.mkv", GENERATION)


def test_without_a_ledger_too(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError, match="has no line"):
        collect(tmp_path / "shards" / "s000" / "ledger.json", "good", tmp_path / "generated.mkv", GENERATION)


def test_a_clip_of_other_settings_or_inputs_is_never_handed_on(ledger: Path, tmp_path: Path) -> None:
    """Generation that fails leaves its ledger as it was, and the rows in it as they were before the change."""
    row = Row("good", Path("/p.png"), Path("/a.wav"), 2)
    for changed in (GenerateSettings(steps=9), GenerateSettings(background_strength=0.5)):
        with pytest.raises(EnvironmentError, match="made from other inputs, settings or weights"):
            collect(ledger, "good", tmp_path / "generated.mkv", row_token(row, changed))
    write_json(tmp_path / "portraits" / row.portrait_id / "face.png", {"another": "face"})
    with pytest.raises(EnvironmentError, match="made from other inputs"):
        collect(ledger, "good", tmp_path / "generated.mkv", GENERATION)
    assert not (tmp_path / "generated.mkv").exists()


@pytest.mark.parametrize("content", [b"", b'{"duration_s": 1', b"\0\0\0\0"])
def test_a_damaged_sidecar_is_as_one_that_is_not_there(tmp_path: Path, content: bytes) -> None:
    absent = key_of(tmp_path, GENERATION)
    for name in json.loads(GENERATION)[0]["crop"], json.loads(GENERATION)[0]["loudness"]:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    assert key_of(tmp_path, GENERATION) == absent
