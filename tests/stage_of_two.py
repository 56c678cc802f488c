"""A stage of a tiny model as one of the processes that the environment names: to test that shares make the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny import TINY

from linker.config import TrainSettings
from linker.model.lingualinker import LinguaLinker
from linker.train.ranks import Ranks
from linker.train.stages import stage_2, train_stage


def train(cache: Path, folder: Path, batch: int, accumulate: int = 1, checkpointing: bool = False) -> Path:
    """Three steps of stage 2 in float32; weights.pt in `folder` is written by the first process."""
    settings = TrainSettings(
        stage2_steps=3, stage2_batch=batch, accumulate=accumulate, checkpointing=checkpointing, dtype="float32"
    )
    torch.manual_seed(0)
    model = LinguaLinker(TINY)
    train_stage(model, replace(stage_2(settings), seen_weight=0.0), cache, folder)
    if Ranks.join().is_first:
        torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"
