"""What a run tells while it trains: metrics.jsonl, TensorBoard's event files, machine.json. Times are wall seconds."""

from __future__ import annotations

import json
import os
import platform
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from linker.records import atomic, read_json, write_json

METRICS, MACHINE, EVENTS = "metrics.jsonl", "machine.json", "tensorboard"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy")


class Tally:
    """Means of whatever was measured since the last line; a name need not be measured in every step."""

    def __init__(self, sums: dict[str, list[float]] | None = None) -> None:
        self.sums = sums or {}  # name -> [sum, count]

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, [0.0, 0.0])
            self.sums[name] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        """In the order of the names, so that a line looks like the next one."""
        return {name: total / count for name, (total, count) in sorted(self.sums.items())}

    @staticmethod
    def together(tallies: list[dict[str, list[float]]]) -> Tally:
        """The tally of several processes."""
        joint = Tally()
        for sums in tallies:
            for name, (total, count) in sums.items():
                before = joint.sums.get(name, [0.0, 0.0])
                joint.sums[name] = [before[0] + total, before[1] + count]
        return joint


class Journal:
    """Writes a run's lines and events in `folder`; those after `step`, of a start that was killed, are forgotten."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        with atomic(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and one event a value."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **{name: rounded(value) for name, value in values.items()}}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()

    def show(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 in the folder `name`, and among the events."""
        with atomic(self.path.parent / name / f"{step:07d}.png") as temporary:
            Image.fromarray(picture).save(temporary)
        with warnings.catch_warnings():  # tensorboard's own use of what pillow gives up
            warnings.simplefilter("ignore", DeprecationWarning)
            self.events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.events.close()


def rounded(value: float) -> float:
    """Five digits are enough for a curve, of small numbers too."""
    return float(f"{value:.5g}")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run, in order; [] before the first. A line that a crash cut short is left out."""
    path, lines = folder / METRICS, []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def note_machine(folder: Path, step: int, processes: int) -> None:
    """Write down which machine goes on from `step`; where others took part before, all `machines` in their order."""
    path, now = folder / MACHINE, machine(processes)
    before = read_json(path) if step and path.is_file() else now
    others = [each for each in before.pop("machines", [before]) if each != now]
    write_json(path, now | ({"machines": [*others, now]} if others else {}))


def machine(processes: int) -> dict[str, Any]:
    """What a run's speed and bits depend on beside its settings."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "processes": processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def processor() -> str:
    """The processor's name as Linux tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
