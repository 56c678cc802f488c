"""Records: files appear whole or not at all, and names made of paths are safe."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linker.records import Fault, Refusal, Row, atomic, content_name, read_json, sha256_file, sweep_up, write_json


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


def test_an_end_by_signal_at_any_moment_leaves_no_temporary(tmp_path: Path) -> None:
    """SystemExit, as `process.leave` raises it, where Python looks for signals: as a function begins, and after each of
    C's, those that open files included."""

    def end_at(moment: int) -> None:
        events = itertools.count()

        def look(_frame: object, event: str, _of: object) -> None:
            if event in ("call", "c_return") and next(events) == moment:
                sys.setprofile(None)
                raise SystemExit(143)

        sys.setprofile(look)
        try:
            write_json(tmp_path / "tries.json", {"starts": 1})
        finally:
            sys.setprofile(None)

    for moment in itertools.count():
        with suppress(SystemExit):
            end_at(moment)
            break
        assert [path.name for path in tmp_path.glob(".*")] == [], f"ended at call {moment}"
    assert moment > 20
    assert read_json(tmp_path / "tries.json") == {"starts": 1}


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    killed = "import os, sys; from linker.records import *\nwith atomic(Path(sys.argv[1])): os.abort()"
    for name in ("tries.json", "000001.npy", "clip.of.two.dots", "plain"):
        subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)], check=False)
    assert len(list(tmp_path.iterdir())) == 4
    kept = [".hidden", ".a.b.json", ".tries.0123abcg.json", "tries.json", "tries.0123abcd.json"]
    for name in kept:
        (tmp_path / name).touch()
    sweep_up(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


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
