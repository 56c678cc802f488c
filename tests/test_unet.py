"""The U-Net: Stable Diffusion's own numbers, and no hidden state."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, MotionAdapter, UNet2DConditionModel
from tiny import TINY, tiny_conditions, tiny_model, told
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from linker.bench.common import SD_CODEC, XLS_R
from linker.model.architecture import BASE, Architecture
from linker.model.lingualinker import LinguaLinker
from linker.model.unet import Conditions, UNet
from linker.train.sources import Source
from linker.train.start import STABLE_DIFFUSION, base_architecture, placed, taken_whole

PLAIN = Architecture(
    size="parity", sample_px=128, latent_px=16, latent_channels=4, channels=(32, 64, 64),
    attention=(True, True, False), layers_per_block=2, heads=4, norm_groups=8, audio_dim=24,
)  # fmt: skip


def diffusers_twin() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64, 64), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8,
    ).eval()  # fmt: skip


def test_parity_with_diffusers() -> None:
    """With masks that add up to 1, alpha 0 and a silent reference, Eq. 1 is Stable Diffusion's text attention."""
    twin, net = diffusers_twin(), UNet(PLAIN, "denoising").eval()
    theirs, ours = twin.state_dict(), net.state_dict()
    assert set(theirs) <= set(ours)
    ours.update(theirs)
    for name in ours:
        if name.endswith("gate.alpha") or "attn_ref.to_out" in name:
            ours[name].zero_()
    net.load_state_dict(ours)
    noisy, time = torch.randn(3, 4, 16, 16), torch.tensor([1, 500, 999])
    context = torch.randn(3, 5, 24)
    masks = {side: torch.tensor([0.2, 0.3, 0.5]).expand(3, side * side, 3) for side in (16, 8, 4)}
    audio = [transformer.block.attn2.key_value(context) for transformer in net.transformers()]
    with torch.no_grad():
        expected = twin(noisy, time, context).sample
        found, _ = net(noisy, time, Conditions(3, masks, torch.ones(3, 3), audio=audio))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_base_has_every_name_of_stable_diffusion() -> None:
    with torch.device("meta"):
        net = UNet(BASE, "denoising")
        twin = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    theirs, ours = twin.state_dict(), net.state_dict()
    assert len(theirs) == 686
    assert all(ours[name].shape == value.shape for name, value in theirs.items())
    new = set(ours) - set(theirs)
    assert all(any(part in name for part in ("norm_ref", "attn_ref", "gate.", "motion_modules")) for name in new)


def test_the_reference_net_has_no_text_attention() -> None:
    assert not [name for name in UNet(TINY, "reference").state_dict() if "attn2" in name or "motion" in name]


@pytest.mark.parametrize("mode", ["train", "checkpointing", "copy"])
def test_modes_do_not_change_the_result(mode: str) -> None:
    model = tiny_model()
    given, noisy = tiny_conditions(model), torch.randn(1, 12, 4, 8, 8)

    def result(which: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        out = which.denoise(noisy, torch.tensor([300]), told(which, given))
        which.zero_grad()
        out.square().mean().backward()
        return out.detach(), which.denoising.conv_in.weight.grad.clone()

    plain = result(model)
    other = copy.deepcopy(model) if mode == "copy" else model
    if mode == "train":
        other.train()
    if mode == "checkpointing":
        other.denoising.checkpointing = other.reference.checkpointing = True
    for one, two in zip(plain, result(other), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("attends", [True, False])
def test_halves_of_guidance_that_begin_together_end_as_they_do_alone(attends: bool) -> None:
    model = tiny_model(arch=TINY.model_copy(update={"attention": (attends, True), "told_controls": True}))
    given, noisy, time = tiny_conditions(model, batch=2), torch.randn(2, 12, 4, 8, 8), torch.tensor([300, 999])
    guided = told(model, given)
    free = replace(guided, reference=None, audio=None)
    begun = []
    model.denoising.conv_in.register_forward_hook(lambda *_: begun.append(1))
    with torch.no_grad():
        together = model.denoise(noisy, time, guided, free)
        assert len(begun) == 1
        alone = torch.cat([model.denoise(noisy, time, half) for half in (guided, free)])
    assert torch.equal(together, alone)
    assert not torch.equal(*together.chunk(2))


@pytest.mark.parametrize("name", ["portrait", "preceding", "speech", "masks", "scales", "noisy", "time"])
def test_changing_each_input_changes_the_output(name: str) -> None:
    model = tiny_model()
    given = tiny_conditions(model)
    noisy, time = torch.randn(1, 12, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        before = model.denoise(noisy, time, told(model, given))
        changed = {**given, "noisy": noisy, "time": time}
        changed[name] = changed[name] * 0.5 if name in ("masks", "scales") else changed[name].flip(-1) + 1
        after = model.denoise(changed["noisy"], changed["time"], told(model, changed))
    assert (before - after).abs().max() > 1e-4


def test_what_is_asked_of_the_regions_enters_with_the_time_and_starts_as_nothing() -> None:
    arch = TINY.model_copy(update={"told_controls": True})
    model = LinguaLinker(arch).eval()
    given, noisy, time = tiny_conditions(model, batch=2), torch.randn(2, 12, 4, 8, 8), torch.tensor([300, 700])
    silent = {**given, "speech": torch.zeros_like(given["speech"])}
    torch.nn.init.normal_(model.denoising.conv_out.weight)

    def asked(scales: list[float]) -> torch.Tensor:
        told_of = told(model, {**silent, "scales": torch.tensor([[1.0, 1, 1], scales])})
        with torch.no_grad():
            return model.denoise(noisy, time, Conditions(2, told_of.masks, told_of.scales, told_of.reference))

    assert torch.equal(asked([1, 1, 1]), asked([1, 0, 1]))
    torch.nn.init.normal_(model.denoising.control_embedding.linear_2.weight)
    whole, less = asked([1, 1, 1]), asked([1, 0, 1])
    assert torch.equal(whole[0], less[0])
    assert (whole[1] - less[1]).abs().amax((1, 2, 3)).min() > 1e-4  # every frame of the sample that was asked


def test_controls_are_scales_and_ranges() -> None:
    asked = Conditions(1, {}, torch.tensor([[0.0, 1.5, 1.0]]), ranges=torch.tensor([[1.0, 0.5, 2.0]]))
    assert asked.controls().tolist() == [[0, 1.5, 1, 1, 0.5, 2]]
    assert Conditions(1, {}, asked.scales).controls().tolist() == [[0, 1.5, 1, 1, 1, 1]]


@pytest.mark.parametrize("told_controls", [True, False])
def test_ranges_multiply_gates_as_scales_do_where_the_net_is_told_them(told_controls: bool) -> None:
    model = LinguaLinker(TINY.model_copy(update={"told_controls": told_controls}))
    scales, ranges = torch.tensor([[0.0, 1.5, 1.0]]), torch.tensor([[1.0, 0.5, 2.0]])
    layer = Conditions(1, {8: torch.zeros(1, 64, 3)}, scales, ranges=model.asked(ranges)).layer(0, 64)
    assert layer.scales.tolist() == [[0, 0.75, 2]] if told_controls else layer.scales is scales


def test_frames_hear_their_own_audio_and_all_frames_hear_each_other() -> None:
    model = tiny_model()
    given, noisy, time = tiny_conditions(model), torch.randn(1, 12, 4, 8, 8), torch.tensor([300])
    louder = {**given, "speech": given["speech"].clone()}
    louder["speech"][:, -1] = louder["speech"][:, 0]  # heard by the last three frames alone
    with torch.no_grad():
        whole = told(model, given)
        single = Conditions(1, whole.masks, whole.scales, whole.reference, whole.audio)
        changed = Conditions(1, whole.masks, whole.scales, whole.reference, model.hear(louder["speech"]))
        alone = (model.denoise(noisy, time, single) - model.denoise(noisy, time, changed)).abs().amax((0, 2, 3, 4))
        joint = model.denoise(noisy, time, whole) - model.denoise(noisy, time, told(model, louder))
    assert alone[:-1].max() == 0
    assert alone[-1] > 0
    assert joint[:, 0].abs().max() > 0


def test_samples_of_a_batch_do_not_mix() -> None:
    model = tiny_model()
    given, noisy, time = tiny_conditions(model, batch=2), torch.randn(2, 12, 4, 8, 8), torch.tensor([300, 700])
    first = {name: value[:1] for name, value in given.items()}
    with torch.no_grad():
        both = model.denoise(noisy, time, told(model, given))
        alone = model.denoise(noisy[:1], time[:1], told(model, first))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


def test_base_is_made_of_the_published_nets_at_full_width(tmp_path: Path) -> None:
    """Without data: the configs of Stable Diffusion 1.5, of AnimateDiff, of Stable Diffusion's autoencoder and of
    XLS-R describe BASE, and the plan gives each of both nets' parameters a key of its shape, or says why it is new."""
    with torch.device("meta"):
        nets = {
            "unet": UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64),
            "motion": MotionAdapter(), "codec": AutoencoderKL(**SD_CODEC),
            "speech": Wav2Vec2ForPreTraining(Wav2Vec2Config(**XLS_R)), "tiny": AutoencoderTiny(),
        }  # fmt: skip
        model = LinguaLinker(BASE)
    for part, net in nets.items():
        (net.config.save_pretrained if part == "speech" else net.save_config)(tmp_path / part)
    assert base_architecture({part: Source(part, "", tmp_path / part) for part in nets}, {}) == BASE
    theirs = {part: nets[part].state_dict() for part in ("unet", "motion")}
    places, account = placed(model.state_dict(), theirs, STABLE_DIFFUSION, dict.fromkeys(theirs, tmp_path))
    new = [name for names in account["fresh"].values() for name in names]
    assert sorted([*places, *new]) == sorted(model.state_dict())
    dropped = account["unet"]["dropped"]["the audio attention's output starts at zero"]
    assert len(account["unet"]["used"]) + len(dropped) == 686
    assert {name.split(".")[0] for name in places} == {"reference", "denoising"}
    whole, encoder = nets["speech"].state_dict(), nets["speech"].wav2vec2
    left = [name for name in whole if not name.startswith("wav2vec2.")]
    assert len(taken_whole("speech", whole, left, tmp_path)["used"]) == len(encoder.state_dict())
    sizes = {"unet": 859.5, "motion": 453.2, "codec": 83.7, "tiny": 2.4}
    for part, millions in {**sizes, "speech": 315.4}.items():
        net = encoder if part == "speech" else nets[part]
        assert sum(value.numel() for value in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.1), part
