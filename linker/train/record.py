"""record.json: how a checkpoint's weights came to be. It lies beside them, and their card names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linker.config import TrainSettings
from linker.model.lingualinker import CARD
from linker.records import read_json, sha256_file, write_json
from linker.train.curves import UNSEEN, Lines, thinned
from linker.train.journal import MACHINE, read_metrics, rounded
from linker.train.presets import chosen, start_folder

RECORD = "record.json"
POINTS = 40  # of a recorded curve


def write_record(path: Path, settings: TrainSettings, runs: dict[str, Path], data: str) -> None:
    """Settings and seeds; of each run its machine, versions, hours and curves. `data`: what the stages learnt from;
    `before`: what the record says of the checkpoint that training went on from."""
    start = start_folder(settings)
    before = start / RECORD if start else None
    parts = {name: part_of(folder) for name, folder in runs.items() if read_metrics(folder)}
    write_json(path, {
        "settings": settings.model_dump(mode="json") | chosen(settings)._asdict(),
        "seeds": {"weights, draws and noise": settings.seed, "first drawn video": settings.data_seed},
        "data": data,
        "start": sha256_file(start / CARD) if start else None,
        "before": read_json(before) if before and before.is_file() else None,
        "hours": rounded(sum(part["hours"] for part in parts.values())),
        "parts": parts,
    })  # fmt: skip


def extend_record(path: Path, before: Path, settings: TrainSettings, run: Path, more: dict[str, Any]) -> None:
    """The record `before`, and one more part, with what `more` there is to tell of it."""
    told = read_json(before)
    parts = told["parts"] | {run.name: part_of(run) | more}
    told["settings"] = settings.model_dump(mode="json") | chosen(settings)._asdict()
    write_json(path, told | {"hours": rounded(sum(part["hours"] for part in parts.values())), "parts": parts})


def part_of(folder: Path) -> dict[str, Any]:
    """What a run's folder tells."""
    lines = read_metrics(folder)
    return {
        "steps": lines[-1]["step"],
        "hours": lines[-1]["hours"],
        **{name: lines[-1][name] for name in ("frames_per_s", "data_share") if name in lines[-1]},
        **read_json(folder / MACHINE),
        "curves": curves_of(lines),
    }


def curves_of(lines: Lines) -> dict[str, dict[str, list[float]]]:
    """Every curve, thinned: name -> {step, value}."""
    found = {}
    for name in sorted({name for line in lines for name in line} - set(UNSEEN)):
        steps, values = thinned(lines, name, POINTS)
        found[name] = {"step": [rounded(step) for step in steps], "value": [rounded(value) for value in values]}
    return found
