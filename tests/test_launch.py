"""launch: the same task here and in submitit's local processes; ids stored before waiting, errors as values."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from linker import launch as launching
from linker.collect import collect
from linker.config import LaunchSettings
from linker.errors import EnvironmentError, RowsFailed
from linker.launch import executor, is_alive, launch
from linker.process import start_time
from linker.records import Refusal, read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LOCAL = LaunchSettings(cluster="local", time_min=5)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger for `collect`, which serves as a task that works or fails."""
    path = tmp_path / "shards" / "s000" / "ledger.json"
    refusal = Refusal("no_face", "found no face", "crop_face").to_json()
    write_json(path, {"rows": {"good": {"video": "good.mkv"}, "bad": {"refusal": refusal}}})
    (tmp_path / "good.mkv").write_bytes(b"frames")
    return path


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("settings", [LaunchSettings(), LOCAL], ids=["debug", "local"])
def test_a_task_is_done_wherever_it_runs(ledger: Path, tmp_path: Path, settings: LaunchSettings) -> None:
    target = tmp_path / "out.mkv"
    launch(partial(collect, ledger=ledger, clip="good", generated=target), settings, tmp_path / "jobs")
    assert target.read_bytes() == b"frames"
    assert not (tmp_path / "jobs" / "job.json").exists()


@pytest.mark.parametrize("settings", [LaunchSettings(), LOCAL], ids=["debug", "local"])
def test_an_expected_error_comes_back_as_itself(ledger: Path, tmp_path: Path, settings: LaunchSettings) -> None:
    with pytest.raises(RowsFailed, match=r"^bad: crop_face: no_face: found no face$"):
        launch(partial(collect, ledger=ledger, clip="bad", generated=tmp_path / "x"), settings, tmp_path / "jobs")


def test_a_bug_in_a_worker_names_where_to_look(tmp_path: Path) -> None:
    broken = tmp_path / "shards" / "s000" / "ledger.json"
    write_json(broken, {"no": "rows"})
    with pytest.raises(EnvironmentError, match=r"failed: KeyError.*; see .*\.err"):
        launch(partial(collect, ledger=broken, clip="a", generated=tmp_path / "x"), LOCAL, tmp_path / "jobs")


def test_a_worker_that_dies_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError, match=r"ended without a result|failed"):
        launch(partial(os.abort), LOCAL, tmp_path / "jobs")


HEAD = """
import subprocess
from functools import partial
from pathlib import Path
from linker.config import LaunchSettings
from linker.launch import launch

def shell(words):
    subprocess.run(["sh", "-c", words], check=True)

if __name__ == "__main__":
    import head
    launch(partial(head.shell, words="sleep 4; echo x >> trace"), LaunchSettings(cluster="local"), Path("jobs"))
"""


def test_a_living_job_is_attached_to_and_not_done_twice(tmp_path: Path) -> None:
    """The head is killed after it submitted; the next start finds the job by its stored id."""
    (tmp_path / "head.py").write_text(HEAD)
    stored = tmp_path / "jobs" / "job.json"
    words, environment = [sys.executable, "head.py"], {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as head:
        end = time.monotonic() + 30
        while not stored.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        head.kill()
    assert is_alive("local", read_json(stored)["job_id"], read_json(stored)["start"])
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "attached to local job" in done.stderr
    assert (tmp_path / "trace").read_text() == "x\n"


def test_a_job_id_that_was_used_again_is_not_alive() -> None:
    own = str(os.getpid())
    assert is_alive("local", own, start_time(os.getpid()))
    assert not is_alive("local", own, "1")
    assert not is_alive("local", own, "")


def test_slurm_is_asked_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LaunchSettings(cluster="slurm", partition="gpu", account="me", gpus=2, cpus=3, memory_gb=7, time_min=8)
    monkeypatch.setattr(launching.submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    made = executor(settings, tmp_path)._executor
    asked = made.parameters
    assert (asked["partition"], asked["account"], asked["time"]) == ("gpu", "me", 8)
    assert (asked["gpus_per_node"], asked["cpus_per_task"], asked["mem"]) == (2, 3, "7GB")
