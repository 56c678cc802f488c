"""Curation's check of itself: drawn videos with and without a fault are measured, judged and counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from linker.config import CRITIC_DIR, CurateSettings
from linker.curate.check import Case, cases, check_curation, figures, in_words, measure_check, table
from linker.curate.verdicts import STAGES
from linker.synth.defects import DEFECTS

Result = tuple[Case, dict[str, str]]


def case(kind: str, strength: float = 1.0) -> Case:
    return Case(f"{kind}-{strength}", 0, kind, strength)


RESULTS: list[Result] = [
    (case("hand"), {"occlusion": "covered", "scene": "content"}),  # a hand rightly changes the scene, too
    (case("hand", 0.5), {}),
    (case("hand", 0.25), {}),  # too weak to count
    (case("hard_cut"), {"scene": "cut"}),
    (case("late_sound"), {"sync": "out_of_step", "scene": "jump"}),  # late sound shows in no picture
    (case("clean", 0.0), {"occlusion": "covered"}),
    (case("clean", 0.0), {}),
]


def test_recall_counts_own_faults_and_precision_all_that_was_raised() -> None:
    occlusion, scene = figures("occlusion", RESULTS), figures("scene", RESULTS)
    assert (occlusion["planted"], occlusion["found"], occlusion["recall"]) == (2, 1, 0.5)
    assert (occlusion["raised"], occlusion["right"], occlusion["precision"]) == (2, 1, 0.5)
    assert (occlusion["clean"], occlusion["false_alarms"]) == (2, 1)
    assert (scene["recall"], scene["raised"], scene["right"]) == (1.0, 3, 2)


def test_the_table_has_a_line_a_kind_and_strength() -> None:
    lines = {(line["kind"], line["strength"]): line for line in table(RESULTS)}
    assert len(lines) == 6
    assert (lines["clean", 0.0]["videos"], lines["clean", 0.0]["occlusion"], lines["clean", 0.0]["kept"]) == (2, 1, 1)
    assert lines["hand", 0.5]["kept"] == 1


def test_every_kind_takes_its_turn_and_says_what_it_is() -> None:
    found = cases(400)
    assert len(found) == len({one.name for one in found}) == len({one.seed for one in found}) == 800
    assert {one.kind for one in found} == {*DEFECTS, "clean"}
    assert all(in_words(one.kind, one.strength) for one in found)


def test_a_share_is_measured_once_and_judged(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    measured, confusion = tmp_path / "share0.json", tmp_path / "confusion.csv"
    measure_check(measured, 0, 1, 1)
    dates = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert len(dates) == 2
    measure_check(measured, 0, 1, 1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == dates
    check_curation([measured], CRITIC_DIR / "critic.safetensors", confusion, CurateSettings(), 1)
    planted, clean = csv.DictReader(confusion.read_text().splitlines())
    assert (planted["kind"], planted["occlusion"], planted["kept"]) == ("hand", "1", "0")
    assert (clean["kind"], clean["kept"]) == ("clean", "1")
    assert set(json.loads(confusion.with_suffix(".json").read_text())) == set(STAGES[1:])
