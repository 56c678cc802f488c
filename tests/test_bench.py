"""Benchmarks: counted figures hold their bounds; timed ones are never tested."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from linker.bench import BENCHMARKS, LONG, main, processes
from linker.bench.curation import curation
from linker.bench.workflow import running
from linker.config import PRESETS, ROOT_DIR, GenerateSettings
from linker.errors import SettingsError


def test_a_base_step_and_frame_cost_at_most_what_was_promised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["flops"], tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())["flops"]
    assert 20 < found["step_guided_tflop"] <= 31
    assert 3 < found["frame_draft_tflop"] <= 5.5
    assert "step_guided_tflop" in capsys.readouterr().out
    readme = (ROOT_DIR / "README.md").read_text(encoding="utf-8")
    for size, figure, digits in (("base", "frame_{}_tflop", 1), ("mini", "mini_frame_{}_tflop", 3)):
        for preset in PRESETS[size]:
            (cost,) = re.findall(rf"^\| `{preset}` \| {size} \|.* ([\d.]+) \|[^|]+\|$", readme, re.MULTILINE)
            assert float(cost) == round(found[figure.format(preset)], digits), (size, preset)


def test_the_long_ones_are_run_by_name_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """With next to no rows in place of a thousand."""
    monkeypatch.setitem(LONG, "overhead_1000", lambda: running(2))
    monkeypatch.setattr("linker.bench.BENCHMARKS", {"short": lambda: {"figure": 1.0}})
    main([], None)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["short"]
    main(["overhead_1000"], None)
    figures = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert figures == [f"run_2_rows_{name}" for name in ("s_a_row", "cpu_s_a_row", "mb")]


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(SettingsError, match=", ".join(BENCHMARKS)):
        main(["speed"], None)


def test_what_was_measured_before_a_failure_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("a benchmark's process failed")

    monkeypatch.setitem(BENCHMARKS, "one", lambda: {"seconds": 1.5})
    monkeypatch.setitem(BENCHMARKS, "two", fails)
    with pytest.raises(RuntimeError):
        main(["one", "two"], tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == {"one": {"seconds": 1.5}}


def test_startup_says_when_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "GenerateSettings", lambda: GenerateSettings(weights=str(tmp_path)))
    with pytest.raises(RuntimeError, match=r"exit code 3: .*no lingualinker\.json"):
        processes.startup()


def test_curation_is_measured_with_its_steps_as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = sys.modules["linker.bench.curation"]  # the package has a function of its name
    monkeypatch.setattr(here, "SIDE_PX", 192)
    monkeypatch.setattr(here, "SECONDS", (1.6, 1.7))
    told = curation()
    assert told["startup_cpu_s_per_video"] > 0.1
    assert all(isinstance(value, float) and value > 0 for value in told.values())
