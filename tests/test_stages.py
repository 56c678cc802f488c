"""Stages: what a killed one makes, what is named of its draws, in which precision it computes, how errors are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, tiny_model, tiny_speech, write_encoded

from linker.config import TrainSettings
from linker.model.audio_context import encode_speech
from linker.train import stages
from linker.train.dataset import Windows
from linker.train.journal import read_metrics
from linker.train.listening import Joint
from linker.train.losses import Noising
from linker.train.stages import Stage, by_noise, draw, stage_1, stage_2, stage_loss, train_stage

SHORT = TrainSettings(stage1_steps=6, stage1_batch=2, stage2_steps=6, stage2_batch=2, save_every=2, sample_every=0)
PICTURES, WINDOWS = stage_1(SHORT), replace(stage_2(SHORT), seen_weight=0.0)


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    return write_encoded(tmp_path / "encoded", 5)


@pytest.mark.parametrize("stage", [PICTURES, WINDOWS], ids=["stage1", "stage2"])
def test_a_killed_stage_ends_like_one_that_was_not(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    whole, killed, resumed = (tiny_model().train() for _ in range(3))
    train_stage(whole, stage, encoded, tmp_path / "whole")
    count, real = 0, stages.stage_loss

    def loss_until_killed(*given: object) -> object:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "stage_loss", loss_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train_stage(killed, stage, encoded, tmp_path / "killed")
    monkeypatch.setattr(stages, "stage_loss", real)
    train_stage(resumed, stage, encoded, tmp_path / "killed")
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(whole.denoising.conv_out.weight, tiny_model().denoising.conv_out.weight)


def test_a_killed_joint_part_ends_like_one_that_was_not(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nets and speech encoder."""
    together = replace(WINDOWS, name="joint")

    def train(folder: Path) -> dict[str, torch.Tensor]:
        model, encoder = tiny_model().train(), tiny_speech()
        train_stage(model, together, encoded, folder, encoder=encoder)
        return {**model.state_dict(), **encoder.state_dict()}

    whole, real = train(tmp_path / "whole"), stages.stage_loss
    losses = iter([real] * 3)
    monkeypatch.setattr(stages, "stage_loss", lambda *given: next(losses)(*given))
    with pytest.raises(StopIteration):
        train(tmp_path / "killed")
    monkeypatch.setattr(stages, "stage_loss", real)
    resumed = train(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    first = {**tiny_model().state_dict(), **tiny_speech().state_dict()}
    changed = {name for name, value in whole.items() if not torch.equal(value, first[name])}
    assert {"denoising.conv_out.weight", "feature_extractor.conv_layers.0.conv.weight"} <= changed
    assert {name for name in first if name.startswith("encoder.layers.0") and name.endswith("weight")} <= changed


def test_an_encoder_that_is_trained_along_hears_what_the_nets_were_given_before(tmp_path: Path) -> None:
    """Before its first step, it makes of the recordings the very features that the videos were encoded with."""
    folder = write_encoded(tmp_path / "encoded", 5)
    for path in folder.glob("*.npz"):
        with np.load(path) as video:
            arrays = dict(video)
        arrays["speech"] = encode_speech(tiny_speech(), arrays["samples"].astype(np.float32), 24)[0].detach().numpy()
        np.savez(path, **arrays)
    windows, both = Windows(folder, TINY), Joint(tiny_model(), tiny_speech())
    for number in range(6):
        drawn = (number, 2, 12, 0.5, 7)
        batch = windows.batch(*drawn[:3], 0.05, *drawn[3:])
        made = both.hear(windows.sounds(*drawn))
        assert torch.allclose(made, batch.speech, atol=1e-5)
        assert made.requires_grad


def test_gates_are_told_of_draws_alone(encoded: Path, tmp_path: Path) -> None:
    """Not of what checkpointing passes a second time, whose values those of the next draw would mix with."""
    told = []
    for again in (False, True):
        stage = replace(WINDOWS, checkpointing=again, plan=replace(WINDOWS.plan, log_every=1))
        train_stage(tiny_model().train(), stage, encoded, tmp_path / str(again))
        told.append([line["gate/mouth"] for line in read_metrics(tmp_path / str(again))])
    assert len(set(told[0])) == WINDOWS.plan.steps
    assert told[0] == pytest.approx(told[1], rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_seen_counts_from_its_share_of_the_steps_on(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    judges, real = [], stages.stage_loss

    def loss_that_tells(model: object, stage: object, noising: object, seen: object, *others: object) -> object:
        judges.append(seen)
        return real(model, stage, noising, None, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "stage_loss", loss_that_tells)
    monkeypatch.setattr(stages, "Seen", lambda *given: "judge")
    plan = replace(WINDOWS.plan, accumulate=accumulate)
    late = replace(WINDOWS, plan=plan, seen_weight=1.0, seen_from=0.5)
    train_stage(tiny_model().train(), late, encoded, tmp_path / "stage", tmp_path)
    assert judges == [None] * 3 * accumulate + ["judge"] * 3 * accumulate


def test_what_is_seen_counts_at_once_where_training_starts_from_a_checkpoint() -> None:
    assert stage_2(SHORT).seen_from > 0
    assert stage_2(SHORT.model_copy(update={"start": "mini"})).seen_from == 0


def test_a_draw_is_named_by_the_videos_it_is_made_of(encoded: Path) -> None:
    windows, stage = Windows(encoded, TINY), PICTURES
    for number in range(6):
        names = windows.videos_of(number, stage.batch, stage.seed)
        shown = draw(windows, stage, 1000, number).batch.target[:, 0, 0, 0, 0]
        assert names == [f"video{round(value)}" for value in shown.tolist()]


def test_a_stage_in_bfloat16_has_nearly_the_loss_of_one_in_float32(encoded: Path) -> None:
    model, windows = tiny_model().train(), Windows(encoded, TINY)
    whole, half = (replace(WINDOWS, dtype=dtype) for dtype in ("float32", "bfloat16"))
    drawn, device = draw(windows, whole, 1000, 0), torch.device("cpu")
    losses = [stage_loss(model, stage, Noising(), None, drawn, device)[0] for stage in (whole, half)]
    assert losses[0].item() != losses[1].item()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)
    losses[1].backward()
    masters = [value for value in model.parameters() if value.grad is not None]
    assert {value.dtype for value in masters} == {value.grad.dtype for value in masters} == {torch.float32}


def test_errors_are_told_by_the_level_of_their_noise() -> None:
    error, timestep = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 249, 750, 999])
    assert by_noise(error, timestep) == {"noise/0-249": 1.5, "noise/750-998": 4.0, "noise/999": 8.0}
