"""Benchmarks: counted figures hold their bounds; timed ones are never tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from linker.bench import BENCHMARKS, main
from linker.errors import SettingsError


def test_a_base_step_and_frame_cost_at_most_what_was_promised(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["flops"], tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())["flops"]
    assert 20 < found["step_guided_tflop"] <= 31
    assert 3 < found["frame_draft_tflop"] <= 5.5
    assert "step_guided_tflop" in capsys.readouterr().out


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(SettingsError, match=", ".join(BENCHMARKS)):
        main(["speed"], None)
