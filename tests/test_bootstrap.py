"""The bootstrap: what decides that something must be installed, and what a start costs when nothing must."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from linker import bootstrap

ROOT = Path(__file__).resolve().parent.parent


def pins(path: Path) -> list[str]:
    return [line.split("#")[0].strip() for line in path.read_text().splitlines() if line and not line.startswith("#")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A bootstrap whose lists and environment are under `tmp_path`; what it would have run is recorded instead."""
    lists = tmp_path / "requirements"
    lists.mkdir()
    for name in ("run.txt", "nodeps.txt", "test.txt", "constraints.txt"):
        (lists / name).write_text("torch==2.13.0\n" if name == "run.txt" else "")
    calls: list[tuple[str, ...]] = []

    def make(python: Path) -> None:
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(bootstrap, "LISTS", lists)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / "venv")
    monkeypatch.setattr(bootstrap, "_make_venv", make)
    monkeypatch.setattr(bootstrap, "_pip", lambda python, words: calls.append(tuple(words)))
    for name in ("LINKER_NO_VENV", "LINKER_TORCH_INDEX", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_a_second_start_installs_nothing(workplace: list[tuple[str, ...]], tmp_path: Path) -> None:
    assert bootstrap.prepare(extras=False) == tmp_path / "venv" / "bin" / "python"
    assert len(workplace) == 2
    assert workplace[1][0] == "--no-deps"
    bootstrap.prepare(extras=False)
    assert len(workplace) == 2


def test_the_tests_add_their_extras_once(workplace: list[tuple[str, ...]], tmp_path: Path) -> None:
    bootstrap.prepare(extras=False)
    bootstrap.prepare(extras=True)
    bootstrap.prepare(extras=True)
    assert len(workplace) == 3
    assert workplace[2][:2] == ("-r", str(tmp_path / "requirements" / "test.txt"))


@pytest.mark.parametrize("name", ["run.txt", "nodeps.txt", "constraints.txt"])
def test_a_changed_list_is_installed(workplace: list[tuple[str, ...]], tmp_path: Path, name: str) -> None:
    bootstrap.prepare(extras=False)
    with (tmp_path / "requirements" / name).open("a") as stream:
        stream.write("numpy==2.4.6\n")
    bootstrap.prepare(extras=False)
    assert len(workplace) == 4


def test_an_installation_that_broke_off_is_continued(
    workplace: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(python: Path, words: list[str]) -> None:
        raise bootstrap.SetupError("pip failed")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_pip", fail)
        with pytest.raises(bootstrap.SetupError):
            bootstrap.prepare(extras=False)
    assert (tmp_path / "venv" / "bin" / "python").exists()
    bootstrap.prepare(extras=False)
    assert len(workplace) == 2


def test_torch_comes_from_its_own_index(workplace: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.prepare(extras=False)
    monkeypatch.setenv("LINKER_TORCH_INDEX", "https://example.org/cpu")
    bootstrap.prepare(extras=False)
    assert workplace[2] == ("--index-url", "https://example.org/cpu", "--no-deps", "torch==2.13.0")


def test_an_interpreter_may_be_used_as_it_is(workplace: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINKER_NO_VENV", "1")
    assert bootstrap.prepare(extras=True) == Path(sys.executable)
    assert workplace == []


def test_only_the_active_conda_environment_counts() -> None:
    assert bootstrap.in_conda({"CONDA_PREFIX": sys.prefix})
    assert not bootstrap.in_conda({"CONDA_PREFIX": "/somewhere/else"})
    assert not bootstrap.in_conda({})


def test_without_ensurepip_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"apt install python3\.\d+-venv"):
        bootstrap._make_venv(tmp_path / "bin" / "python")


def test_the_door_is_quick_and_works_from_any_folder(tmp_path: Path) -> None:
    began = time.monotonic()
    environment = {**os.environ, "LINKER_NO_VENV": "1"}
    words = [sys.executable, str(ROOT / "linker"), "--help"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(verb in done.stdout for verb in ("demo", "test", "plan", "run", "status", "retry", "verify"))
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


def test_every_pin_is_exact_and_locked() -> None:
    locked = dict(line.split("==") for line in pins(bootstrap.LISTS / "constraints.txt"))
    for name in ("run.txt", "test.txt"):
        for pin in pins(bootstrap.LISTS / name):
            package, version = pin.split("==")
            assert locked[package] == version
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins(bootstrap.LISTS / "nodeps.txt"))


def test_the_conda_door_has_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert listed == pins(bootstrap.LISTS / "run.txt")
    words = (ROOT / "environment.post-deploy.sh").read_text().split()
    assert [word for word in words if "==" in word] == pins(bootstrap.LISTS / "nodeps.txt")
