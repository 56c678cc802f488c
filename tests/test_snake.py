"""Snakemake is asked for its own command line's settings, but for one."""

from __future__ import annotations

from threading import Lock, Semaphore
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.cli import parse_args

from linker import snake


def test_snakemake_limits_no_jobs_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(snake, "args_to_api", lambda options, parser: given.append(options) or True)
    words = ["--cores", "2", "--snakefile", "Snakefile"]
    assert snake.main(words) == 0
    limited = vars(parse_args(words)[1])
    assert limited.pop("max_jobs_per_timespan") is not None  # or this module is needed no more
    free = vars(given[0])
    assert free.pop("max_jobs_per_timespan") is None
    assert {key: value for key, value in free.items() if key in ("cores", "snakefile", "jobs", "scheduler")} == {
        key: limited[key] for key in ("cores", "snakefile", "jobs", "scheduler")
    }


def test_sigterm_in_the_middle_of_anything_is_no_deadlock() -> None:
    """The thread that the signal interrupts holds Snakemake's lock."""
    scheduler = SimpleNamespace(_lock=Lock(), _open_jobs=Semaphore(0), _user_kill=None)
    with scheduler._lock:
        snake._exit_from_a_thread(scheduler, 15, None)
    assert scheduler._open_jobs.acquire(timeout=5)
    assert scheduler._user_kill == "graceful"


def test_a_wrong_word_is_told_and_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert snake.main(["--snakefile", "nowhere/Snakefile", "--cores", "1"]) == 1
    assert "nowhere/Snakefile" in capfd.readouterr().err
