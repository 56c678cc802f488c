"""Base checkpoints: every published key finds its place, and what does not fit is named."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, MotionAdapter, UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from hallo_layout import hallo_state, millions
from safetensors.torch import load_file, save_file
from tiny import tiny_speech
from transformers import Wav2Vec2ForPreTraining

from linker.backends import load_speech_encoder, load_tiny_decoder
from linker.errors import EnvironmentError, SettingsError
from linker.model.architecture import BASE
from linker.model.codec import load_codec
from linker.model.lingualinker import LinguaLinker, describe
from linker.model.temporal import TemporalModule
from linker.train.hallo import CARRIED, DROPPED, FRESH, hallo_architecture, origins_of
from linker.train.start import PARTS, find_sources, start_base

WIDTHS = (16, 32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random checkpoints in the four families' real layouts, written by their own classes."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, block_out_channels=WIDTHS, layers_per_block=1, cross_attention_dim=12, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    MotionAdapter(
        block_out_channels=WIDTHS, motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8
    ).save_pretrained(folder / "motion")
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
    ).save_pretrained(folder / "codec")  # fmt: skip
    Wav2Vec2ForPreTraining(tiny_speech().config).save_pretrained(folder / "speech")
    return folder


def changed(published: Path, folder: Path, part: str, change) -> list[str]:
    """`--from` words for the published parts, the tensors of one of them changed."""
    source = find_sources([str(published)])[part]
    place = folder / part
    place.mkdir()
    (place / "config.json").write_bytes((source.folder / "config.json").read_bytes())
    tensors = load_file(source.file)
    change(tensors)
    save_file(tensors, place / source.file.name)
    return [str(published), f"{part}={place}"]


@pytest.fixture(scope="module")
def started(published: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    target = tmp_path_factory.mktemp("base")
    return target, start_base(find_sources([str(published)]), target)


def test_a_base_checkpoint_holds_the_published_weights(published: Path, started: tuple[Path, dict]) -> None:
    ours = LinguaLinker.from_pretrained(started[0]).state_dict()
    theirs = load_file(published / "unet" / "diffusion_pytorch_model.safetensors")
    motion = load_file(published / "motion" / "diffusion_pytorch_model.safetensors")
    for name, value in theirs.items():
        zero = ".attn2.to_out." in name
        assert torch.equal(ours[f"denoising.{name}"], torch.zeros_like(value) if zero else value)
        assert "attn2" in name or "norm2" in name.split("transformer_blocks")[-1] or torch.equal(
            ours[f"reference.{name}"], value
        )  # fmt: skip
    for name, value in motion.items():
        assert name.endswith("pos_embed.pe") or torch.equal(ours[f"denoising.{name}"], value)
    block = "denoising.down_blocks.0.attentions.0.transformer_blocks.0"
    assert torch.equal(ours[f"{block}.attn_ref.to_k.weight"], ours[f"{block}.attn1.to_k.weight"])


def test_the_account_names_every_key(published: Path, started: tuple[Path, dict]) -> None:
    target, account = started
    for part in ("unet", "motion"):
        theirs = load_file(published / part / "diffusion_pytorch_model.safetensors")
        assert account[part]["used"] + sum(account[part]["dropped"].values()) == len(theirs)
    assert account["speech"]["dropped"]["made for its own pretraining"] > 0
    assert describe(target)["training"]["sources"]["unet"]["sha256"]
    assert set(account["fresh"]) == {"starts at zero", "the region gate is new", "the audio projector is new"}


def test_codec_and_speech_encoder_load_like_any_checkpoints(started: tuple[Path, dict]) -> None:
    assert load_codec(started[0] / "codec").config.latent_channels == 4
    assert load_speech_encoder(started[0] / "speech").config.hidden_size == 24


def test_the_checkpoint_round_trips_bit_for_bit(started: tuple[Path, dict], tmp_path: Path) -> None:
    one = LinguaLinker.from_pretrained(started[0])
    one.save_pretrained(tmp_path, {}, torch.float32)
    two = LinguaLinker.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.state_dict().items())


def test_temporal_blocks_compute_what_animatediffs_do() -> None:
    """Without preceding frames; theirs adds stored sinusoids, ours computes them. (The norm before the block differs:
    diffusers takes all frames together; AnimateDiff's own code, and ours, each frame by itself.)"""
    torch.manual_seed(1)
    theirs = AnimateDiffTransformer3D(
        num_attention_heads=2, attention_head_dim=16, in_channels=32, norm_num_groups=8, activation_fn="geglu",
        attention_bias=False, double_self_attention=True, positional_embeddings="sinusoidal",
        num_positional_embeddings=32,
    ).eval()  # fmt: skip
    ours = TemporalModule(32, 2, 8).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.endswith("pos_embed.pe")}, strict=True)
    x = torch.randn(10, 12, 32)
    with torch.no_grad():
        found, expected = (
            ours.transformer_blocks[0](x, ours.transformer_blocks[0].remember(x[:, :0])),
            theirs.transformer_blocks[0](x),
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def from_hallo(published: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, dict]:
    """A tiny net.pth, what it became, and the account."""
    folder, target = tmp_path_factory.mktemp("hallo"), tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    theirs = hallo_state((32, 64), (True, True), 1, 12)
    torch.save(theirs, folder / "net.pth")
    account = start_base(find_sources([str(published), f"hallo={folder}"]), target)
    return theirs, target, account


def test_a_hallo_checkpoint_carries_over(from_hallo: tuple[dict, Path, dict]) -> None:
    theirs, target, _ = from_hallo
    ours = LinguaLinker.from_pretrained(target).state_dict()
    net, block = "down_blocks.0.attentions.0.transformer_blocks.0", "transformer_blocks.0"
    heard = f"denoising_unet.down_blocks.0.audio_modules.0.{block}"
    same = {
        f"reference.{net}.attn1.to_q.weight": f"reference_unet.{net}.attn1.to_q.weight",
        f"denoising.{net}.ff.net.2.bias": f"denoising_unet.{net}.ff.net.2.bias",
        f"denoising.{net}.attn_ref.to_k.weight": f"denoising_unet.{net}.attn1.to_k.weight",
        f"denoising.{net}.norm_ref.weight": f"denoising_unet.{net}.norm1.weight",
        f"denoising.{net}.attn2.to_v.weight": f"{heard}.attn2_2.to_v.weight",
        f"denoising.{net}.norm2.weight": f"{heard}.norm2.weight",
    }
    for place, layer in (("down_blocks.1", 0), ("mid_block", 0), ("up_blocks.0", 1)):
        mine = f"denoising.{place}.motion_modules.{layer}"
        other = f"denoising_unet.{place}.motion_modules.{layer}.temporal_transformer"
        same |= {f"{mine}.proj_out.weight": f"{other}.proj_out.weight"}
        for one, two in (("attn2.to_k", "attention_blocks.1.to_k"), ("norm2", "norms.1"), ("norm3", "ff_norm")):
            same[f"{mine}.{block}.{one}.weight"] = f"{other}.{block}.{two}.weight"
    wide = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight"  # Hallo's audio module is half as wide
    same[f"denoising.{wide}"] = f"denoising_unet.{wide}"
    for mine, other in same.items():
        assert torch.equal(ours[mine], theirs[other]), mine
    assert not ours[f"denoising.{net}.attn2.to_out.0.weight"].any()


def test_hallos_account_names_every_key(from_hallo: tuple[dict, Path, dict]) -> None:
    theirs, target, account = from_hallo
    assert account["hallo"]["used"] + sum(account["hallo"]["dropped"].values()) == len(theirs)
    assert sum(account["hallo"]["carried"].values()) == account["hallo"]["used"]
    assert set(account["hallo"]["carried"]) == set(CARRIED.values())
    assert set(account["hallo"]["dropped"]) == set(DROPPED.values())
    assert set(account["fresh"]) == set(FRESH.values())
    assert describe(target)["training"]["sources"]["hallo"]["sha256"]
    assert LinguaLinker.from_pretrained(target).arch.channels == (32, 64)


def test_full_size_hallo_fits_base() -> None:
    """Without data: every name of ours is filled by a key of Hallo's of the same shape, or named as fresh. The layout's
    sizes are those counted in Hallo's own classes: 453.2 M in motion modules, 212.8 M in audio modules."""
    with torch.device("meta"):
        theirs, model = hallo_state(BASE.channels, BASE.attention, 2, 768), LinguaLinker(BASE)
    assert millions(theirs, ".motion_modules.") == pytest.approx(453.2, abs=0.1)
    assert millions(theirs, ".audio_modules.") == pytest.approx(212.8, abs=0.1)
    assert hallo_architecture(theirs, 512, 1024, 0.18215) == BASE
    for name, value in model.state_dict().items():
        there = [theirs[key].shape for _, key in origins_of(name) if key in theirs]
        assert value.shape in there or (not there and any(re.search(pattern, name) for pattern in FRESH)), name


def test_what_is_no_hallo_checkpoint_is_named(published: Path, tmp_path: Path) -> None:
    torch.save({"conv_in.weight": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(EnvironmentError, match=r"no key denoising_unet\.conv_in\.weight; needed Hallo's"):
        start_base(find_sources([str(published), f"hallo={tmp_path}"]), tmp_path / "base")
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"a": Path("code")}))
    with pytest.raises(EnvironmentError, match=r"net\.pth: not a whole weights file"):
        start_base(find_sources([str(published), f"hallo={tmp_path}"]), tmp_path / "base")


def test_a_tiny_decoder_comes_along(published: Path, tmp_path: Path) -> None:
    AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "tiny")  # fmt: skip
    account = start_base(find_sources([str(published), f"tiny={tmp_path / 'tiny'}"]), tmp_path / "base")
    assert account["tiny"]["used"] > 0
    assert load_tiny_decoder(tmp_path / "base" / "tiny", 4).config.latent_channels == 4
    assert describe(tmp_path / "base")["files"]["tiny/diffusion_pytorch_model.safetensors"]


def test_a_source_with_nan_is_named(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "unet", lambda tensors: tensors["conv_in.weight"].fill_(torch.nan))
    with pytest.raises(EnvironmentError, match=r"unet: conv_in\.weight holds NaN"):
        start_base(find_sources(words), tmp_path / "base")


@pytest.mark.parametrize("part", ["unet", "motion"])
def test_an_unknown_key_is_another_architecture(published: Path, tmp_path: Path, part: str) -> None:
    words = changed(published, tmp_path, part, lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))
    with pytest.raises(EnvironmentError, match=r"extra\.weight is unknown"):
        start_base(find_sources(words), tmp_path / "base")


def test_a_missing_key_and_a_wrong_shape_are_named(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "unet", lambda tensors: tensors.pop("conv_in.weight"))
    with pytest.raises(EnvironmentError, match=r"unet: conv_in\.weight is missing"):
        start_base(find_sources(words), tmp_path / "base")
    words = changed(published, tmp_path, "motion", lambda tensors: tensors.update(
        {name: value[..., :-1].contiguous() for name, value in list(tensors.items())[:1]}))  # fmt: skip
    with pytest.raises(EnvironmentError, match=r"motion: .* has shape"):
        start_base(find_sources(words), tmp_path / "base")


def test_a_truncated_file_is_named(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "unet", lambda tensors: None)
    file = find_sources(words)["unet"].file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EnvironmentError, match="not a whole weights file"):
        start_base(find_sources(words), tmp_path / "base")


def test_a_pinned_hash_is_held(published: Path) -> None:
    words = [f"{part}={published / part}" for part in PARTS]
    assert find_sources(words)["unet"].folder == published / "unet"
    with pytest.raises(EnvironmentError, match="pinned was"):
        find_sources([*words, f"unet={published / 'unet'}#{'0' * 64}"])


@pytest.mark.parametrize(
    ("word", "kind", "said"),
    [
        ("nowhere", SettingsError, "needed a folder"),
        ("unet=nowhere", EnvironmentError, "no such folder"),
        ("unet=owner/name@main", EnvironmentError, "40 digits of a revision"),
        ("unet=owner/name/unet@" + "0" * 40, EnvironmentError, "hf download owner/name"),
    ],
)
def test_sources_that_are_not_there(
    published: Path, word: str, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(kind, match=said):
        find_sources([str(published), word])


def test_an_empty_folder_says_what_was_looked_for(published: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((published / "motion" / "config.json").read_bytes())
    with pytest.raises(EnvironmentError, match=r"looked for diffusion_pytorch_model\.safetensors"):
        start_base(find_sources([str(published), f"motion={tmp_path}"]), tmp_path / "base")
