"""The lock of a results folder: who holds it, who may take it over, and what becomes of who lost it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from linker import lock
from linker.errors import EnvironmentError
from linker.lock import LOCK, STALE_S, held
from linker.process import start_time

ROOT = Path(__file__).resolve().parent.parent


def elsewhere(results: Path, age_s: float) -> Path:
    """The lock of a run on another host, renewed a while ago."""
    path = results / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": 1, "start": "1", "host": "another"}))
    now = time.time()
    os.utime(path, (now - age_s, now - age_s))
    return path


def test_a_lock_of_another_host_is_respected_while_it_is_renewed(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, age_s=STALE_S / 2)
    with (
        pytest.raises(EnvironmentError, match=r"in use by process 1 on another.*5 minutes after it died"),
        held(tmp_path),
    ):
        pass
    assert "another" in path.read_text()
    assert [one.name for one in path.parent.iterdir()] == [LOCK.name]


def test_a_dead_run_of_another_host_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = elsewhere(tmp_path, age_s=STALE_S * 2)
    with held(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "no sign of life for 10 minutes: taken over" in capsys.readouterr().err
    assert not path.exists()


def test_a_held_lock_stays_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.02)
    with held(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        end = time.monotonic() + 20
        while (tmp_path / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_who_lost_the_lock_ends_and_leaves_it_to_its_successor(tmp_path: Path) -> None:
    """As a run whose host slept; what it submitted is attached to by the other."""
    code = (
        "import sys, time; from pathlib import Path; from linker import lock; lock.RENEW_S = 0.05\n"
        "with lock.held(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stdout
        first.stdout.readline()
        path = elsewhere(tmp_path, age_s=0)
        _, told = first.communicate(timeout=30)
    assert first.returncode == 3
    assert "another run has taken over" in told
    assert "another" in path.read_text()


def of_process(pid: int, start: str) -> str:
    """The lock of a run on this host."""
    return json.dumps({"pid": pid, "start": start, "host": socket.gethostname()})


def test_a_lock_is_never_there_without_its_content(tmp_path: Path) -> None:
    """Whatever line a command has reached: another that reads an empty lock would take its owner for dead."""
    seen: set[str] = set()

    def look(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename == lock.__file__ and (tmp_path / LOCK).exists():
            seen.add((tmp_path / LOCK).read_text())
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        with held(tmp_path):
            pass
    finally:
        sys.settrace(before)
    assert [json.loads(text)["pid"] for text in seen] == [os.getpid()]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_that_judge_a_dead_lock_one_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """The other one was faster, and its lock is there when the dead one's was to be removed."""
    path, judge = tmp_path / LOCK, lock._refuse_living
    path.parent.mkdir()
    path.write_text(of_process(os.getpid(), "1"))
    others = of_process(os.getppid(), start_time(os.getppid()))

    def judge_slowly(*words: Any) -> None:
        judge(*words)
        path.unlink()
        path.write_text(others)

    def link(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock, "_refuse_living", judge_slowly)
    if not has_links:
        monkeypatch.setattr(os, "link", link)
    with pytest.raises(EnvironmentError, match=f"in use by process {os.getppid()}"), held(tmp_path):
        pass
    assert path.read_text() == others
    assert [one.name for one in path.parent.iterdir()] == [LOCK.name]


def test_an_empty_lock_is_given_the_time_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without hard links, where making and writing it are two."""
    path = tmp_path / LOCK
    path.parent.mkdir()
    path.touch()
    monkeypatch.setattr(time, "sleep", lambda _: path.write_text(of_process(os.getpid(), start_time(os.getpid()))))
    with pytest.raises(EnvironmentError, match="in use by process"), held(tmp_path):
        pass
