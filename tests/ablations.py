"""What each of the paper's choices is worth: the same budget of training with and without it, measured alike.

PYTHONPATH=.:tests python tests/ablations.py TRAINING --out FOLDER [--steps 400] [--stage1 60] [--only NAME]

TRAINING is a folder that `linker train` left: its encoded/ is trained on, its weights/ lends codec and speech encoder.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import figures
import numpy as np
import torch

from linker import clip
from linker.config import GenerateSettings, TrainSettings
from linker.model.architecture import MINI, Architecture
from linker.model.lingualinker import LinguaLinker
from linker.records import read_json
from linker.train.dataset import Windows
from linker.train.stages import Stage, stage_1, stage_2, train_stage

CONTROLLED, LONG_S = 3, (12.0, 12.5)  # clips with which controls are tried; seconds over which drift is looked for
TRIES: list[figures.Try] = [
    ("scales", "head", 0.0),
    ("scales", "eyes", 0.0),
    ("ranges", "mouth", 0.6),
    ("ranges", "mouth", 1.5),
]


@dataclass(frozen=True)
class Variant:
    """losses: weights of both stages; masks_only: gates are the masks alone; forgets: no window sees the one before it,
    or leads on from it; single: stage 1's steps go to stage 2; seen: share of stage 2's steps, the last ones, that
    weigh what is seen, which the paper does not (decision 0018)."""

    losses: dict[str, float] = field(default_factory=dict)
    masks_only: bool = False
    forgets: bool = False
    single: bool = False
    seen: float = 0.0

    def of(self, stage: Stage) -> Stage:
        """A stage as this variant has it."""
        frozen = (*stage.frozen, "*.gate.*") if self.masks_only else stage.frozen
        seen = stage.seen_weight if self.seen else 0.0
        return replace(stage, frozen=frozen, seen_weight=seen, seen_from=1 - self.seen, **self.losses)


VARIANTS = {
    "as the paper": Variant(),
    "without region losses": Variant({"mouth_weight": 0.0, "eyes_weight": 0.0}),
    "gates are masks alone": Variant(masks_only=True),
    "without preceding frames": Variant(forgets=True),
    "a single stage": Variant(single=True),
    "what is seen counts": Variant(seen=1.0),
    "what is seen counts in the second half": Variant(seen=0.5),
}


def train(variant: Variant, training: Path, folder: Path, steps: int, stage1_steps: int) -> None:
    """Train a variant from nothing; `folder` becomes a checkpoint."""
    torch.manual_seed(0)
    encoded, parts = training / "encoded", training / "weights"
    told = {"latent_std": read_json(encoded / "encoded.json")["latent_std"]}
    told |= {"eased_frames": 0} if variant.forgets else {}
    model = LinguaLinker(Architecture.model_validate(MINI.model_dump() | told))
    if variant.masks_only:
        for name, value in model.named_parameters():
            if name.endswith(".alpha"):
                torch.nn.init.zeros_(value)
    settings = TrainSettings(
        stage1_steps=stage1_steps, stage2_steps=steps + variant.single * stage1_steps, sample_every=0
    )
    first, second = variant.of(stage_1(settings)), variant.of(stage_2(settings))
    with mock.patch.object(Windows, "_sample", forgetful(Windows._sample) if variant.forgets else Windows._sample):
        if not variant.single:
            train_stage(model.train(), first, encoded, folder / "stage1")
        train_stage(model.train(), second, encoded, folder / "stage2", parts if variant.seen else None)
    for part in ("codec", "speech"):
        shutil.copytree(parts / part, folder / "weights" / part, dirs_exist_ok=True)
    model.save_pretrained(folder / "weights", {"stage": 2}, torch.float32)


def forgetful(sample: Callable[..., Any]) -> Callable[..., Any]:
    """Training windows whose preceding frames are always the portrait, whose latent is zero (MotionCodec)."""

    def forgotten(*given: Any) -> tuple[np.ndarray, ...]:
        target, reference, portrait, preceding, *others = sample(*given)
        return target, reference, portrait, np.zeros_like(preceding), *others

    return forgotten


def measured(variant: Variant, weights: Path, folder: Path, clips: int) -> dict[str, Any]:
    """The figures of lines 1 to 4."""
    settings = GenerateSettings(weights=str(weights))
    start = clip.preceding_frames

    def forgotten(model: LinguaLinker, still: torch.Tensor, _previous: torch.Tensor | None) -> torch.Tensor:
        return start(model, still, None)

    with mock.patch.object(clip, "preceding_frames", forgotten if variant.forgets else start):
        prepared = [figures.prepare(number, folder) for number in range(clips)]
        seen = figures.generated(prepared, folder, settings, "clips")
        found = {"sync": figures.sync_of(prepared, seen), "ssim": figures.identity_of(prepared, seen)}
        return found | {
            "joins": figures.joins_of(seen),
            "blinks": figures.blinks_of(prepared, seen),
            "controls": figures.controls_of(prepared[:CONTROLLED], folder, settings, TRIES),
            "drift": figures.drift_of(folder / "long", settings, 1, LONG_S),
        }


def done(out: Path) -> dict[str, dict[str, Any]]:
    """The figures of every variant that was measured, now or before."""
    files = {name: out / name.replace(" ", "-") / "figures.json" for name in VARIANTS}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Every variant's figures in a row, as Markdown; of controls, what they leave of each region's motion."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, told in found.items():
        values = [show(pick(told)) for pick in COLUMNS.values()]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def show(value: Any) -> str:
    """Numbers to two places, several of them apart by slashes."""
    several = list(value.values()) if isinstance(value, dict) else [value]
    return " / ".join("-" if each is None else f"{each:.2f}" for each in several)


COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "own speech": lambda told: told["sync"]["own"],
    "another's": lambda told: told["sync"]["other"],
    "largest lag": lambda told: max(map(abs, told["sync"]["lags"])),
    "at rest": lambda told: told["sync"]["rest_share"],
    "opening": lambda told: told["sync"]["amplitude"],
    "lids lower by": lambda told: told["blinks"]["lower"],
    "SSIM": lambda told: told["ssim"],
    "scale_head 0: head / mouth / eyes": lambda told: told["controls"]["scale-head-0"],
    "scale_eyes 0": lambda told: told["controls"]["scale-eyes-0"],
    "range_mouth 0.6": lambda told: told["controls"]["range-mouth-0_6"],
    "range_mouth 1.5": lambda told: told["controls"]["range-mouth-1_5"],
    "joins": lambda told: told["joins"],
    "drift: sharpness / colour": lambda told: told["drift"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--stage1", type=int, default=60)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--only", action="append", choices=VARIANTS)
    given = parser.parse_args()
    for name in given.only or VARIANTS:
        folder = given.out / name.replace(" ", "-")
        train(VARIANTS[name], given.training, folder, given.steps, given.stage1)
        shutil.rmtree(folder / "clips", ignore_errors=True)
        found = measured(VARIANTS[name], folder / "weights", folder / "clips", given.clips)
        (folder / "figures.json").write_text(json.dumps(found, indent=1, default=float), encoding="utf-8")
        print(name, json.dumps(found, default=float), flush=True)
        (given.out / "table.md").write_text(table(done(given.out)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
