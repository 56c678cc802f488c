"""Training: exact resume, the loss by hand, batches as functions of the step, and the whole chain of rules once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY, tiny_codec, tiny_model, write_tiny
from torch import Tensor, nn

from linker import heartbeat
from linker.config import MINI_DIR, TrainSettings
from linker.engine import load_engine
from linker.errors import Diverged, EnvironmentError
from linker.media import probe, read_frames
from linker.model.architecture import Architecture
from linker.model.lingualinker import LinguaLinker
from linker.train import steps
from linker.train.dataset import CALMEST, Windows, liveliness, quickness, union
from linker.train.fit import Plan, fit, rate_at
from linker.train.losses import BLINKS, Noising, changes, evened, masked_mean, region_loss
from linker.train.presets import chosen, deciding
from linker.train.speech import filter_bank
from linker.train.stages import choose_parameters, stage_1, stage_2, train_stage
from linker.train.stills import Stills

PLAN = Plan(steps=12, learning_rate=0.05, warmup=3, save_every=5, log_every=1)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.alpha = nn.Parameter(torch.ones(4))


def loss_with(net: Gated, stop_at: int = -1, nan_at: int = -1):
    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        value = (net.alpha * net.linear(x) - x.flip(-1)).square().mean()
        return value * torch.nan if step == nan_at else value, {}

    return loss


def test_a_killed_training_ends_like_one_that_was_not(tmp_path: Path) -> None:
    whole, killed, resumed = Gated(), Gated(), Gated()
    fit(whole, loss_with(whole), PLAN, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(killed, loss_with(killed, stop_at=8), PLAN, tmp_path / "killed")
    fit(resumed, loss_with(resumed), PLAN, tmp_path / "killed")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("whole", "killed")
    ]
    assert last[0]["loss"] == last[1]["loss"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    net = Gated()
    with pytest.raises(Diverged, match="step 7"):
        fit(net, loss_with(net, nan_at=7), PLAN, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 5


def test_rates_warm_up_and_fall_to_a_tenth() -> None:
    plan = Plan(steps=100, learning_rate=1.0, warmup=10)
    assert rate_at(0, plan) == pytest.approx(0.1)
    assert rate_at(10, plan) == pytest.approx(1.0)
    assert rate_at(100, plan) == pytest.approx(0.1)


def test_lively_and_calm_samples_count_alike() -> None:
    target = torch.randn(4, 3, 2, 5, 5) * torch.tensor([0.1, 1.0, 10.0, 100.0]).view(-1, 1, 1, 1, 1)
    counted = evened(target) * target.square().mean((1, 2, 3, 4))
    assert (counted <= 1).all()
    assert counted[2:] == pytest.approx(1, abs=0.02)


def test_velocity_and_noisy_latents_give_back_the_clean_ones() -> None:
    noising = Noising()
    clean, noise, time = torch.randn(6, 2, 3), torch.randn(6, 2, 3), torch.tensor([0, 10, 200, 500, 990, 999])
    noisy, velocity = noising.add(clean, noise, time)
    torch.testing.assert_close(noising.clean(noisy, velocity, time), clean, rtol=1e-4, atol=1e-5)
    assert torch.allclose(noisy[-1], noise[-1], atol=1e-3)  # zero terminal SNR


def test_weights_are_min_snr_with_velocitys_floor() -> None:
    noising = Noising()
    time = torch.arange(1000)
    snr = noising.signal / (1 - noising.signal)
    expected = torch.minimum(snr + 1, torch.tensor(5.0)) / (snr + 1)
    torch.testing.assert_close(noising.weight(time), expected, rtol=1e-3, atol=1e-4)


def test_region_loss_by_hand() -> None:
    error = torch.zeros(1, 2, 2, 2)
    error[0, :, 0, 0], error[0, :, 1, 1] = 4.0, 8.0
    masks = torch.zeros(1, 3, 2, 2)
    masks[0, 1, 0, 0], masks[0, 2, 1, 1] = 1.0, 0.5
    told = (masks, torch.zeros(1, 2), torch.tensor([0.5]))
    loss, parts = region_loss(error, *told, mouth=2.0, eyes=0.25)
    assert parts == {"frame": 3.0, "mouth": 4.0, "eyes": 8.0}
    assert loss.item() == pytest.approx(0.5 * (3 + 2 * 4 + 0.25 * 8))
    shut = region_loss(error, masks, torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]), mouth=2.0, eyes=0.25)[0]
    assert shut.item() == pytest.approx(0.5 * (3 + 2 * 4 + 0.25 * 8 * (1 + BLINKS / 2)))
    assert masked_mean(error, torch.zeros(1, 2, 2)).item() == 0


def test_an_error_that_jumps_changes_more_than_one_that_comes_slowly() -> None:
    """By hand: 0 before the window, then 1, 1, 3 against 1, 2, 3."""
    jumps, slow = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    changed = changes(torch.stack([jumps, slow]).view(2, 3, 1, 1, 1)).flatten(1)
    assert changed.tolist() == [[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]]
    assert changed.square().mean(1).tolist() == pytest.approx([5 / 3, 1.0])


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(3):
        latents = np.arange(40, dtype=np.float16)[:, None, None, None] + np.zeros((40, 4, 8, 8), np.float16)
        speech = np.arange(40, dtype=np.float16)[:, None] + np.zeros((40, 24), np.float16)
        masks = rng.random((40, 3, 8, 8)).astype(np.float16) / 3
        portrait = {"still": latents[0], "reference": latents[0] + 1}
        portrait["portrait"] = rng.integers(0, 256, (32, 32, 3), np.uint8)
        np.savez(tmp_path / f"{number}.npz", latents=latents, speech=speech, masks=masks, **portrait)
    return tmp_path


def test_a_window_holds_what_belongs_together(encoded: Path) -> None:
    batch = Windows(encoded, TINY).batch(number=5, size=16, frames=12, drop=0.1, start_share=0.0)
    again = Windows(encoded, TINY).batch(number=5, size=16, frames=12, drop=0.1, start_share=0.0)
    assert all(torch.equal(a, b) for a, b in zip(vars(batch).values(), vars(again).values(), strict=True))
    first = batch.target[:, 0, 0, 0, 0]
    assert torch.equal(batch.target[:, :, 0, 0, 0], first[:, None] + torch.arange(12))
    before = batch.preceding.mean((2, 3, 4))
    calm = before / (first[:, None] + torch.arange(-4, 0))  # what stands for generation: noise, and less motion
    assert ((calm > CALMEST - 0.1) & (calm < 1.1)).all()
    assert (calm.std(1) < 0.05).all()
    assert 0 < ((calm - 1).abs() < 0.02).all(1).sum() < len(calm)
    heard = (first[:, None] + torch.arange(-2, 14)).clamp(0, 39)
    assert torch.equal(batch.speech[:, :, 0], heard)
    assert batch.portrait.shape == (16, 3, 32, 32)
    assert -1 <= batch.portrait.min() < -0.9
    assert 0.9 < batch.portrait.max() <= 1


def test_windows_with_a_blink_are_drawn_more_often(encoded: Path) -> None:
    """A head that turns, eyes that turn with it and shut once within 2 of 40 frames."""
    masks, latents = np.zeros((40, 3, 8, 8), np.float16), np.zeros((40, 4, 8, 8), np.float16)
    masks[:, 0, 2:], masks[:, 2, :2] = 1, 1
    latents += (3 * np.sin(np.arange(40) / 4))[:, None, None, None].astype(np.float16)
    latents[30:32, :, :2] += 1
    video = {"latents": latents, "masks": masks}
    assert quickness(video, 25, 12) > 3 * quickness(video, 4, 12)
    for path in encoded.glob("*.npz"):
        with np.load(path) as stored:
            np.savez(path, **{**stored, **video})
    targets = Windows(encoded, TINY).batch(number=0, size=300, frames=12, drop=0.1, start_share=0.0).target
    blinks = (targets[:, :, 0, 0, 0] - targets[:, :, 0, 7, 0]).amax(1) > 0.5
    assert 0.75 < blinks.float().mean() < 0.92  # by chance 12 of 25 starts


def test_where_the_lids_are_known_they_tell_which_windows_are_lively() -> None:
    """Blinks that latents hide, in a video whose eyes are quick elsewhere."""
    latents, masks = np.zeros((40, 4, 8, 8), np.float16), np.ones((40, 3, 8, 8), np.float16)
    latents[5::2] = 1
    known = {"blink": np.eye(40, dtype=np.float16)[30]}
    video = {"latents": latents, "masks": masks}
    assert [liveliness(video | known, start, 12) for start in (4, 20, 28)] == [0, 1, 1]
    assert liveliness(video, 4, 12) == quickness(video, 4, 12) > 0


def test_a_first_window_starts_from_the_portrait(encoded: Path) -> None:
    batch = Windows(encoded, TINY).batch(number=1, size=8, frames=12, drop=0.1, start_share=1.0)
    assert torch.equal(batch.target[:, 0] + 1, batch.reference)
    assert torch.equal(batch.preceding, batch.target[:, :1].expand(-1, 4, -1, -1, -1))


def test_a_video_tells_its_scales_and_its_masks_areas_their_ranges(encoded: Path) -> None:
    mouth = np.zeros((40, 3, 8, 8), np.float16)
    mouth[:, 1, 3:5, 3:5] = 1
    for path in encoded.glob("*.npz"):
        with np.load(path) as arrays:
            stored = dict(arrays) | {"masks": mouth, "scales": np.array([0.5, 2, 0], np.float32)}
        np.savez(path, **stored, ranges=np.array([1, 2, 1], np.float32))
    batch = Windows(encoded, TINY).batch(number=0, size=2, frames=12, drop=0.1, start_share=0.0)
    assert torch.equal(batch.scales, torch.tensor([[0.5, 2, 0]] * 2))
    assert batch.masks[:, 1].sum((1, 2)).tolist() == pytest.approx([2 * 4] * 2, rel=0.1)


def test_footage_is_taken_as_it_is(encoded: Path) -> None:
    batch = Windows(encoded, TINY).batch(number=0, size=2, frames=12, drop=0.1, start_share=0.0)
    assert torch.equal(batch.scales, torch.ones(2, 3))


def test_conditions_are_dropped_at_their_rate(encoded: Path) -> None:
    keep = Windows(encoded, TINY).batch(number=0, size=4000, frames=1, drop=0.1, start_share=0.0).keep
    assert keep.mean(0).tolist() == pytest.approx([0.85, 0.85], abs=0.03)
    assert ((keep.sum(1) == 0).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_the_union_of_masks_stays_disjoint() -> None:
    masks = np.random.default_rng(0).dirichlet([1, 1, 1, 1], (12, 8, 8))[..., :3].transpose(0, 3, 1, 2)
    joint = union(masks)
    assert joint[1] == pytest.approx(masks[:, 1].max(0))
    assert joint.min() >= 0


def test_stages_train_what_the_paper_says() -> None:
    model = LinguaLinker(TINY)

    def trained(stage) -> set[str]:
        choose_parameters(model, stage)
        return {name for name, value in model.named_parameters() if value.requires_grad}

    mini, base = TrainSettings(), TrainSettings(preset="base")
    first, second, paper = trained(stage_1(mini)), trained(stage_2(mini)), trained(stage_2(base))
    assert not [name for name in first if "motion" in name or "attn2" in name or name.startswith("audio")]
    assert {"reference.conv_in.weight", "denoising.conv_in.weight"} <= first
    assert paper < second
    assert all("motion" in n or "attn2" in n or ".gate." in n or n.startswith("audio.") or "norm2" in n for n in paper)
    assert not [name for name in paper if name.startswith("reference.")]
    norm = "denoising.mid_block.attentions.0.transformer_blocks.0.norm2.weight"  # of the audio attention
    assert norm in paper - first
    assert second == {name for name, _ in model.named_parameters()}


def test_what_decides_a_step_begins_a_stage_anew() -> None:
    plain = TrainSettings()
    for changed in ({"seed": 1}, {"learning_rate": 1e-5}, {"accumulate": 2}, {"stage2_batch": 4}, {"dtype": "float32"}):
        assert deciding(plain, "stage2") != deciding(plain.model_copy(update=changed), "stage2")
    for kept in ({"stage2_steps": 9}, {"stage1_batch": 4}, {"save_every": 9}, {"sample_every": 0}):
        assert deciding(plain, "stage2") == deciding(plain.model_copy(update=kept), "stage2")


SHORT = TrainSettings(stage1_steps=3, stage1_batch=2, stage2_steps=3, stage2_batch=1)


@pytest.mark.parametrize("stage", [stage_1(SHORT), replace(stage_2(SHORT), seen_weight=0.0)])
def test_stages_learn(encoded: Path, tmp_path: Path, stage) -> None:
    torch.manual_seed(0)
    model = LinguaLinker(TINY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_stage(model, stage, encoded, tmp_path / "state")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "denoising.conv_out.weight" in changed
    assert "reference.conv_in.weight" in changed


def test_the_first_layer_hears_its_bands() -> None:
    bank = filter_bank(256, 400)
    time = torch.arange(400) / 16_000
    response = (bank @ torch.cos(2 * torch.pi * 1000 * time)).reshape(64, 4).abs().amax(1)
    mel = torch.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7600 / 700), 64)
    assert 700 * (10 ** (mel[response.argmax()] / 2595) - 1) == pytest.approx(1000, rel=0.06)


def test_the_chain_of_rules_makes_a_checkpoint_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Architecture(**{**TINY.model_dump(), "sample_px": 256, "latent_px": 16, "latent_channels": 16})
    monkeypatch.setattr(steps, "MINI", small.model_copy(update={"speech_dim": 160}))
    monkeypatch.setattr(steps, "use_cores", lambda: None)
    settings = TrainSettings(
        videos=4, utterances=16, codec_steps=1, speech_steps=1, stage1_steps=1, stage1_batch=1, stage2_steps=1,
        stage2_batch=1, joint_videos=4, joint_steps=1,
    )  # fmt: skip
    at = {name: tmp_path / name for name in ("videos/videos.json", "encoded/encoded.json", "stage1/lingualinker.json")}
    videos, encoded, stage1 = at.values()
    codec, speech = tmp_path / "weights/codec/config.json", tmp_path / "weights/speech/config.json"
    names = ("lingualinker.json", "record.json", "curves.png")
    weights, record, curves = (tmp_path / "stage2" / name for name in names)
    steps.draw_videos(videos, settings)
    steps.train_codec(videos, codec, settings)
    steps.train_speech(speech, settings)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(heartbeat, "_advances", 0)
    drain = tmp_path / ".linker" / "drain"
    drain.parent.mkdir()
    drain.touch()
    with pytest.raises(EnvironmentError, match="ended on request"):  # with one video, which counts as kept
        steps.encode_videos(videos, codec, speech, encoded)
    assert (heartbeat.advances(), len(list(encoded.parent.glob("*.npz")))) == (1, 1)
    drain.unlink()
    (encoded.parent / ".000001.0123abcd.npz").write_bytes(b"what a killed one left")
    steps.encode_videos(videos, codec, speech, encoded)
    assert len(list(encoded.parent.glob("*.npz"))) == 4
    assert heartbeat.advances() == 4
    steps.train_stage1(encoded, stage1, codec, speech, settings, [])
    steps.train_stage2(encoded, stage1, codec, speech, weights, record, curves, settings)
    from linker.config import GenerateSettings

    joint = [tmp_path / "mini" / name for name in names]
    steps.train_joint(weights, record, *joint, settings)
    before, after = (load_file(path.parent / "speech" / "model.safetensors") for path in (weights, joint[0]))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    weights, record, curves = joint
    engine = load_engine(GenerateSettings(weights=str(weights.parent)))
    assert engine.model.arch.latent_std
    assert len(list(videos.parent.glob("*.npz"))) == 4
    card, told = json.loads(weights.read_text())["training"], json.loads(record.read_text())
    assert card["record"] == record.name
    assert set(told["parts"]) == {"codec", "lids", "speech", "stage1", "stage2", "joint"}
    assert told["parts"]["joint"]["stills"] == ["grace_hopper.jpg"]
    assert told["hours"] == pytest.approx(sum(part["hours"] for part in told["parts"].values()), rel=1e-3)
    assert curves.stat().st_size > 10_000
    samples = tmp_path / "stage2" / "samples"
    with Image.open(samples / "0000001.png") as grid:
        assert grid.size == (6 * 256, 2 * steps.HELD_OUT * 256)
    (film, *_) = sorted(samples.glob("*.mp4"))
    assert probe(film).audio is not None
    assert len(list(read_frames(film))) == 24


def test_the_plain_command_trains_what_is_embedded() -> None:
    """Its record has today's settings of `linker train --preset mini`, and every step of them was taken."""
    told, plain = json.loads((MINI_DIR / "record.json").read_text()), TrainSettings()
    now = plain.model_dump(mode="json") | chosen(plain)._asdict()
    watching = {"sample_every", "save_every", *(name for name in now if name.startswith("critic_"))}
    assert {name: value for name, value in told["settings"].items() if now[name] != value}.keys() <= watching
    assert {name: part["steps"] for name, part in told["parts"].items()} == {
        "codec": now["codec_steps"],
        "lids": round(steps.LIDS_SHARE * now["codec_steps"]),
        "speech": now["speech_steps"],
        "stage1": now["stage1_steps"],
        "stage2": now["stage2_steps"],
        "joint": now["joint_steps"],
    }


def test_a_part_beside_the_model_does_not_tell_where_it_came_from(tmp_path: Path) -> None:
    """diffusers writes the folder that a network was loaded from into its config.json."""
    tiny_codec().save_pretrained(tmp_path / "first")
    AutoencoderDC.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert str(tmp_path) in (tmp_path / "second" / "config.json").read_text()
    steps.copy_part(tmp_path / "second", tmp_path / "weights")
    assert str(tmp_path) not in (tmp_path / "weights" / "config.json").read_text()
    assert AutoencoderDC.from_pretrained(tmp_path / "weights").config.latent_channels == 4


def test_what_the_last_part_learns_from_is_told_by_what_decides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the networks and the videos, and not by settings that stage 2's card happens to name."""
    start, plain = write_tiny(tmp_path / "stage2"), TrainSettings(joint_videos=4)
    monkeypatch.setattr(steps, "draw_range", lambda *given, **more: None)
    monkeypatch.setattr(steps, "load_codec", lambda folder: nn.Identity())
    monkeypatch.setattr(steps, "encode_range", lambda *given: None)

    def told(settings: TrainSettings, stills: Stills = Stills()) -> str:  # noqa: B008
        return steps.prepare_joint(start, tmp_path / "joint", nn.Identity(), settings, stills)

    first = told(plain)
    tiny_model().save_pretrained(start, {"save_every": 7}, torch.float32)
    assert told(plain.model_copy(update={"save_every": 7, "joint_steps": 9})) == first
    others = [told(plain.model_copy(update=other)) for other in ({"joint_videos": 6}, {"data_seed": 2}, {"videos": 8})]
    tiny_model(seed=1).save_pretrained(start, {}, torch.float32)
    assert len({first, *others, told(plain), told(plain, Stills(digest="other"))}) == 6
