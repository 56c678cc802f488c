"""Records: files appear whole or not at all, and names made of paths are safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linker.records import Fault, Refusal, Row, atomic, content_name, read_json, sha256_file, write_json


@given(st.text(min_size=1).filter(lambda text: "/" not in text and "\0" not in text), st.text())
def test_a_content_name_is_one_safe_word(stem: str, extra: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,40}\.[0-9a-f]{8}", content_name(Path("/media", stem), extra))


def test_the_same_portrait_with_another_face_has_another_name() -> None:
    one, two = (Row("a", Path("/p.png"), Path("/a.wav"), 2, face=face) for face in ("", "1"))
    assert one.portrait_id != two.portrait_id
    assert one.audio_id == two.audio_id


def test_an_atomic_file_is_there_only_after_success(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert list(path.parent.iterdir()) == []
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]
    assert path.read_text() == "whole"


def test_a_sidecar_reads_back(tmp_path: Path) -> None:
    value = {"refusal": Refusal("no_face", "found no face; 顔", "crop_face").to_json(), "n": [1, 2.5]}
    write_json(tmp_path / "s.json", value)
    assert read_json(tmp_path / "s.json") == value
    assert Refusal.from_json(value["refusal"]) == Refusal("no_face", "found no face; 顔", "crop_face")
    assert Refusal.from_json(None) is None


def test_a_fault_reads_like_a_compilers_message() -> None:
    assert str(Fault("jobs.csv", 17, "portrait", "is empty")) == "jobs.csv:17:portrait: error: is empty"


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
