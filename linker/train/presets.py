"""What training's settings come to: the preset's choices, and the checkpoint to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from linker.checkpoint import check_folder
from linker.config import MINI_DIR, TrainSettings
from linker.errors import EnvironmentError, SettingsError


class TrainPreset(NamedTuple):
    """How a size of the model is trained; batches are each process's."""

    learning_rate: float
    stage1_steps: int
    stage1_batch: int
    stage2_steps: int
    stage2_batch: int
    full_noise: float  # share of samples at the last timestep, where few-step sampling does most of its work
    change_weight: float  # of the error's change from frame to frame, beside the error itself
    seen_weight: float  # of the pixels at mouth and eyes, when the codec draws them
    seen_from: float  # share of stage 2's steps before which they do not count, in training from nothing
    only_new: bool  # stage 2 trains only what is new in it


TRAIN_PRESETS = {
    "mini": TrainPreset(
        6e-4, 200, 16, 3600, 2, full_noise=0.4, change_weight=1.0, seen_weight=6.0, seen_from=0.5, only_new=False
    ),
    # section 4.1; steps as Hallo's
    "base": TrainPreset(
        1e-5, 30_000, 4, 30_000, 4, full_noise=0.0, change_weight=0.0, seen_weight=0.0, seen_from=0.0, only_new=True
    ),
}


def chosen(settings: TrainSettings) -> TrainPreset:
    """The preset, each of its choices replaced by the setting that names another."""
    named = {key: getattr(settings, key, None) for key in TrainPreset._fields}
    return TRAIN_PRESETS[settings.preset]._replace(**{key: value for key, value in named.items() if value is not None})


def deciding(settings: TrainSettings, stage: str) -> str:
    """What decides a stage's steps, but not how many there are: another value begins the stage anew."""
    other = {"stage1": "stage2", "stage2": "stage1"}[stage]
    told = chosen(settings)._asdict() | {name: getattr(settings, name) for name in ("seed", "accumulate", "dtype")}
    mine = {key: value for key, value in told.items() if not key.startswith(other) and not key.endswith("_steps")}
    return json.dumps(mine, sort_keys=True)


def start_folder(settings: TrainSettings) -> Path | None:
    """The checkpoint that training starts from; None where all is trained anew. Raises SettingsError."""
    if settings.start:
        return MINI_DIR if settings.start == "mini" else Path(settings.start)
    why = "preset base" if settings.preset == "base" else "footage of one's own" if settings.shards else ""
    if why:
        get = "a folder from `python3 -m linker weights init base FOLDER --from ...`, or 'mini' for the small model"
        raise SettingsError(f"train.start is empty; {why} starts from a checkpoint: give {get}")
    return None


def refuse_useless_training(settings: TrainSettings) -> None:
    """Name what training would lack before it starts. Raises SettingsError, and EnvironmentError for what is not
    there."""
    start = start_folder(settings)
    if start:
        _check_start(start)
    if settings.preset == "base" and not settings.shards:
        raise SettingsError(
            "train.shards is empty; preset base needs footage: give a folder that `linker curate` wrote"
        )
    if start:
        _check_size(start, settings)
    if settings.shards and not any(Path(settings.shards).glob("train-[0-9]*.tar")):
        raise EnvironmentError(f"train.shards: found no train-*.tar in {settings.shards}; `linker curate` writes them")


def _check_size(folder: Path, settings: TrainSettings) -> None:
    """A model is trained as its own size is, and on pictures of its own size."""
    from linker.model.architecture import MINI
    from linker.model.card import read_architecture

    arch = read_architecture(folder)
    if arch.size in TRAIN_PRESETS and arch.size != settings.preset:
        found = f"train.start holds a model of size {arch.size}, train.preset is {settings.preset}"
        raise SettingsError(f"{found}: give --preset {arch.size}, or another checkpoint")
    if not settings.shards and (arch.sample_px, arch.latent_px) != (MINI.sample_px, MINI.latent_px):
        found = f"train.start holds a model of {arch.sample_px} px, drawn videos are made for {MINI.sample_px} px"
        raise SettingsError(f"{found}: give train.shards, a folder that `linker curate` wrote")


def _check_start(folder: Path) -> None:
    try:
        check_folder(folder)
    except EnvironmentError as fault:
        get = "`python3 -m linker weights init base FOLDER --from ...` makes such a checkpoint"
        raise EnvironmentError(f"train.start: {fault}; {get}") from None
