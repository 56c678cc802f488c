"""Snakemake is asked for its own command line's settings, but for one."""

from __future__ import annotations

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


def test_a_wrong_word_is_told_and_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert snake.main(["--snakefile", "nowhere/Snakefile", "--cores", "1"]) == 1
    assert "nowhere/Snakefile" in capfd.readouterr().err
