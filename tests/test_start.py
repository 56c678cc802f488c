"""Base checkpoints: every published key finds its place, and what does not fit is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, MotionAdapter, UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from hallo_layout import hallo_state, millions
from safetensors.torch import load_file, save_file
from tiny import tiny_speech
from transformers import Wav2Vec2ForPreTraining

from linker.backends import load_speech_encoder, load_tiny_decoder
from linker.cli import main
from linker.config import ROOT_DIR
from linker.errors import EnvironmentError, SettingsError
from linker.model.architecture import BASE
from linker.model.codec import load_codec
from linker.model.lingualinker import LinguaLinker, describe
from linker.model.temporal import TemporalModule
from linker.train.hallo import CARRIED, DROPPED, FRESH, hallo_architecture, origins_of
from linker.train.hub import place_of
from linker.train.sources import PARTS, WEIGHT_NAMES, find_sources
from linker.train.start import ACCOUNT, start_base

WIDTHS = (16, 32)
ONES = "1" * 40  # a revision


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
    named, ours = json.loads((target / ACCOUNT).read_text()), set(LinguaLinker.from_pretrained(target).state_dict())
    for part in ("unet", "motion"):
        dropped = [name for names in named[part]["dropped"].values() for name in names]
        theirs = load_file(published / part / "diffusion_pytorch_model.safetensors")
        assert sorted(named[part]["used"] + dropped) == sorted(theirs)
    fresh = {name for names in named["fresh"].values() for name in names}
    assert fresh < ours
    assert {name for name in ours if ".gate." in name} == set(named["fresh"]["the region gate is new"])
    assert "quantizer.codevectors" in named["speech"]["dropped"]["made for its own pretraining"]


def test_what_was_taken_can_be_pinned(published: Path, started: tuple[Path, dict], tmp_path: Path) -> None:
    """The card says what to give next time for the very same bytes."""
    again = [part["pinned"] for name, part in started[1].items() if name != "fresh"]
    assert len(again) == 4
    assert find_sources(again).keys() == set(PARTS)


def test_a_folder_with_something_in_it_is_left_alone(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "linker.safetensors").write_text("trained for a month")
    assert main(["weights", "init", "base", str(tmp_path / "base"), "--from", str(published)]) == 2
    assert "needed a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "base" / "linker.safetensors").read_text() == "trained for a month"


def test_what_fails_leaves_nothing(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "speech", lambda tensors: tensors.update(
        {name: torch.full_like(value, torch.nan) for name, value in tensors.items()
         if name == "wav2vec2.encoder.layers.0.final_layer_norm.bias"}))  # fmt: skip
    with pytest.raises(EnvironmentError, match=r"speech/model\.safetensors: .*final_layer_norm\.bias holds NaN"):
        start_base(find_sources(words), tmp_path / "new" / "base")
    assert not list((tmp_path / "new").iterdir())


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


def test_sources_in_half_precision_become_whole(published: Path, tmp_path: Path) -> None:
    """A codec that has only its fp16 file, and speech weights in float16, also by their config."""
    for part, name in (("codec", "diffusion_pytorch_model.fp16.safetensors"), ("speech", "model.safetensors")):
        shutil.copytree(published / part, tmp_path / part)
        (old,) = (tmp_path / part).glob("*.safetensors")
        tensors = {key: value.half() for key, value in load_file(old).items()}
        old.unlink()
        save_file(tensors, tmp_path / part / name, metadata={"format": "pt"})
    config = tmp_path / "speech" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    words = [str(published), f"codec={tmp_path / 'codec'}", f"speech={tmp_path / 'speech'}"]
    start_base(find_sources(words), tmp_path / "base")
    for part in ("codec", "speech"):
        (file,) = (tmp_path / "base" / part).glob("*.safetensors")
        assert {value.dtype for value in load_file(file).values()} == {torch.float32}
    assert main(["weights", str(tmp_path / "base")]) == 0


def test_a_pickle_of_something_else_is_named(published: Path, tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "net.pth")
    with pytest.raises(EnvironmentError, match=r"net\.pth: found a list, needed tensors by their names"):
        start_base(find_sources([str(published), f"hallo={tmp_path}"]), tmp_path / "base")


def test_a_source_with_nan_is_named(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "unet", lambda tensors: tensors["conv_in.weight"].fill_(torch.nan))
    with pytest.raises(EnvironmentError, match=r"unet/\S+\.safetensors: conv_in\.weight holds NaN"):
        start_base(find_sources(words), tmp_path / "base")


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_key_is_another_architecture(published: Path, tmp_path: Path, part: str) -> None:
    words = changed(published, tmp_path, part, lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))
    with pytest.raises(EnvironmentError, match=rf"{part}/\S+\.safetensors: extra\.weight is unknown"):
        start_base(find_sources(words), tmp_path / "base")


def test_a_missing_key_and_a_wrong_shape_are_named(published: Path, tmp_path: Path) -> None:
    words = changed(published, tmp_path, "unet", lambda tensors: tensors.pop("conv_in.weight"))
    with pytest.raises(EnvironmentError, match=r"unet/\S+\.safetensors: conv_in\.weight is missing"):
        start_base(find_sources(words), tmp_path / "base")
    words = changed(published, tmp_path, "motion", lambda tensors: tensors.update(
        {name: value[..., :-1].contiguous() for name, value in list(tensors.items())[:1]}))  # fmt: skip
    with pytest.raises(EnvironmentError, match=r"motion/\S+\.safetensors: .* has shape"):
        start_base(find_sources(words), tmp_path / "base")


@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_file_is_named(published: Path, tmp_path: Path, part: str) -> None:
    words = changed(published, tmp_path, part, lambda tensors: None)
    file = find_sources(words)[part].file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EnvironmentError, match=rf"^{file}: .*(whole weights file|truncated)"):
        start_base(find_sources(words), tmp_path / "base")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["truncated", "empty", "words", "code"])
def test_a_bad_pickle_is_named(published: Path, tmp_path: Path, part: str, damage: str) -> None:
    """Published as a pickle, as XLS-R is; one that would run code is not run."""
    source, ran = find_sources([str(published)])[part], tmp_path / "ran"
    (tmp_path / part).mkdir()
    (tmp_path / part / "config.json").write_bytes((source.folder / "config.json").read_bytes())
    name = "pytorch_model.bin" if part == "speech" else "diffusion_pytorch_model.bin"
    torch.save(load_file(source.file), tmp_path / part / name)
    whole = (tmp_path / part / name).read_bytes()
    bad = {"truncated": whole[:-100], "empty": b"", "words": b"not found", "code": pickle.dumps(Runs(str(ran)))}
    (tmp_path / part / name).write_bytes(bad[damage])
    words = [str(published), f"{part}={tmp_path / part}"]
    with pytest.raises(EnvironmentError, match=rf"{name}: not a whole weights file"):
        start_base(find_sources(words), tmp_path / "base")
    assert not ran.exists()


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))


def test_checkpoints_in_the_layout_of_their_day(published: Path, started: tuple[Path, dict], tmp_path: Path) -> None:
    """Stable Diffusion's autoencoder is published under older names, with a config that names no scaling factor; XLS-R
    as a pickle, under older names. They become the same networks, and the account has the names they came by."""
    old = {
        "codec": {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."},
        "speech": {f"parametrizations.weight.original{i}": f"weight_{'gv'[i]}" for i in (0, 1)},
    }
    for part, names in old.items():
        source = find_sources([str(published)])[part]
        (tmp_path / part).mkdir()
        config = json.loads((source.folder / "config.json").read_text())
        config.pop("scaling_factor", None)
        (tmp_path / part / "config.json").write_text(json.dumps(config))
        tensors = {}
        for key, value in load_file(source.file).items():
            for new, before in names.items():
                key = key.replace(new, before)
            tensors[key] = value
        if part == "speech":
            torch.save(tensors, tmp_path / part / "pytorch_model.bin")
        else:
            save_file(tensors, tmp_path / part / source.file.name)
        assert any(before in key for key in tensors for before in names.values())
    words = [str(published), f"codec={tmp_path / 'codec'}", f"speech={tmp_path / 'speech'}"]
    start_base(find_sources(words), tmp_path / "base")
    cards = [json.loads((folder / "lingualinker.json").read_text()) for folder in (started[0], tmp_path / "base")]
    assert cards[0]["architecture"] == cards[1]["architecture"]
    for load in (load_codec, load_speech_encoder):
        part = "codec" if load is load_codec else "speech"
        one, two = (load(folder / part).state_dict() for folder in (started[0], tmp_path / "base"))
        assert one.keys() == two.keys()
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    named = json.loads((tmp_path / "base" / ACCOUNT).read_text())
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in named["speech"]["used"]
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in named["codec"]["used"]


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("codec", "_class_name", "VQModel", "found class 'VQModel'"),
        ("codec", "latent_channels", 16, "latent_channels is 16, the checkpoint's nets need 4"),
        ("speech", "feat_extract_norm", "group", "needed 'layer'"),
        ("motion", "motion_norm_num_groups", 4, "motion_norm_num_groups is 4, needed the unet's 8"),
        ("unet", "block_out_channels", [16], "describe no Stable Diffusion 1.5 model"),
        ("unet", "attention_head_dim", 3, "multiples of 2, norm_groups, heads"),
    ],
)
def test_a_source_of_another_kind_is_refused(
    published: Path, tmp_path: Path, part: str, key: str, value: object, said: str
) -> None:
    words = changed(published, tmp_path, part, lambda tensors: None)
    config = tmp_path / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(EnvironmentError, match=said):
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
        (
            "unet=none/unet",
            EnvironmentError,
            r"no such folder; .*download \S+ unet/config.json .* --local-dir none`",
        ),
        ("speech=none", EnvironmentError, "hf download facebook/wav2vec2-xls-r-300m config.json .* --local-dir none"),
        ("unet=owner/name@main", EnvironmentError, "40 digits of a revision"),
        (f"unet=owner/name/unet@{ONES}", EnvironmentError, "`hf download owner/name unet/config.json unet/diff"),
        (
            f"codec=owner/name@{ONES}",
            EnvironmentError,
            f"download owner/name config.json diff.* --revision {ONES}`",
        ),
    ],
)
def test_sources_that_are_not_there(
    published: Path, word: str, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(kind, match=said):
        find_sources([str(published), word])


@pytest.mark.parametrize("lacks", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_missing_file_says_what_gets_it(published: Path, tmp_path: Path, lacks: str) -> None:
    shutil.copytree(published / "motion", tmp_path / "motion")
    (tmp_path / "motion" / lacks).unlink()
    with pytest.raises(
        EnvironmentError, match=rf"{lacks}.*`hf download \S+ config.json .*{tmp_path}/motion`, and give"
    ):
        start_base(find_sources([str(published), f"motion={tmp_path / 'motion'}"]), tmp_path / "base")


class Hub(ThreadingHTTPServer):
    """A model hub with one repository: the published folder, whose codec has its weights three times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswer)
        self.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
            self.files[f"codec/{name}"] = self.files["codec/diffusion_pytorch_model.safetensors"]
        self.sent: list[tuple[str, str]] = []
        self.sends = 0.0  # the share of what is asked for that comes before the connection breaks
        self.is_silent, self.silent, self.going_on = False, Event(), Event()  # or, in place of that, nothing more comes
        self.asked = 0

    def begun(self) -> list[int]:
        """Where the answers to all that was asked for in parts began."""
        return [int(span[6:-1]) for _, span in self.sent if span.startswith("bytes=")]


class HubAnswer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path.startswith("/api/models/owner/name"):
            told = [{"type": "file", "path": name, "size": len(data), "oid": ONES} for name, data in
                    self.server.files.items()]  # fmt: skip
            self.answer(json.dumps(told).encode(), "application/json", "")
        else:
            name = self.path.partition(f"/resolve/{ONES}/")[2]
            if name in self.server.files:
                self.answer(self.server.files[name], "application/octet-stream", name)
            else:
                self.send_error(404)

    do_HEAD = do_GET

    def answer(self, data: bytes, kind: str, name: str) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part = data[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        digest = hashlib.sha256(data).hexdigest()
        for key, value in (("Content-Type", kind), ("ETag", f'"{digest}"'), ("X-Repo-Commit", ONES),
                           ("Content-Length", str(len(part)))):  # fmt: skip
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.server.sent += [(name, self.headers.get("Range", ""))] if name else []
            breaks = name.endswith(WEIGHT_NAMES) and len(part) > 9000
            self.wfile.write(part[: round(self.server.sends * len(part))] if breaks else part)
            if breaks and self.server.is_silent:
                self.server.silent.set()
                self.server.going_on.wait()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves this process and those that it starts; their caches are empty."""
    server = Hub(published)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("HF_ENDPOINT", address), ("HF_HUB_OFFLINE", "0"), ("HF_HOME", str(tmp_path / "hf"))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    constants = {
        "ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "hf"), "DOWNLOAD_CHUNK_SIZE": 1000,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    }  # fmt: skip
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield server
    server.going_on.set()
    server.shutdown()


CODEC = "codec/diffusion_pytorch_model.safetensors"


def test_one_weights_file_is_fetched_and_a_broken_download_goes_on(published: Path, hub: Hub) -> None:
    words = [str(published), f"codec=owner/name/codec@{ONES}"]
    with pytest.raises(EnvironmentError, match=r"not fetched .*type `hf download owner/name codec/config\.json"):
        find_sources(words)
    hub.sends = 0.5
    folder = find_sources(words)["codec"].folder
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == hub.files[CODEC]
    assert {name for name, _ in hub.sent} == {"codec/config.json", CODEC}
    begun = hub.begun()
    assert len(begun) > 2
    assert begun == sorted(set(begun))
    hub.shutdown()
    assert find_sources(words)["codec"].folder == folder  # what lies in the cache needs no hub


def test_a_killed_download_goes_on(published: Path, hub: Hub, tmp_path: Path) -> None:
    """The process that fetches is killed while the hub is silent; the next one asks for what it has not."""
    hub.files[CODEC], hub.sends, hub.is_silent = random.Random(0).randbytes(30_000_000), 0.9, True
    words = ["weights", "init", "base", str(tmp_path / "base"), "--from", str(published)]
    command = [sys.executable, "-m", "linker.cli", *words, f"codec=owner/name/codec@{ONES}"]
    process = subprocess.Popen(command, cwd=ROOT_DIR, stderr=subprocess.DEVNULL)
    assert hub.silent.wait(120)
    (part,) = until(lambda: [path for path in tmp_path.rglob("*.part") if path.stat().st_size > 20_000_000])
    process.kill()
    process.wait()
    kept = part.stat().st_size
    hub.sends, hub.is_silent = 1.0, False
    source = find_sources([str(published), f"codec=owner/name/codec@{ONES}"])["codec"]
    assert source.file.read_bytes() == hub.files[CODEC]
    assert hub.begun() == [kept]
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "base").exists()


def until(look: Callable[[], list[Path]]) -> list[Path]:
    """What is found, as soon as something is."""
    end = monotonic() + 60
    while not (found := look()) and monotonic() < end:
        Event().wait(0.05)
    return found


@pytest.mark.parametrize("kept", [b"garbage", b"x" * 10_000_000], ids=["begun", "longer"])
def test_what_is_not_the_hubs_is_not_used(published: Path, hub: Hub, kept: bytes) -> None:
    """A part that holds something else is found by the hub's SHA-256, or by its length, and fetched again."""
    hub.sends = 1.0
    place = place_of("owner/name", ONES, CODEC)
    place.parent.mkdir(parents=True)
    place.with_name(f"{place.name}.part").write_bytes(kept)
    words = [str(published), f"codec=owner/name/codec@{ONES}"]
    if kept == b"garbage":
        with pytest.raises(EnvironmentError, match=r"what came has SHA-256 \w+, needed the hub's \w+; it is deleted"):
            find_sources(words)
    assert find_sources(words)["codec"].file.read_bytes() == hub.files[CODEC]


def test_offline_nothing_is_asked_for(published: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentError, match="not in the hub's cache and not fetched"):
        find_sources([str(published), f"codec=owner/name/codec@{ONES}"])
    assert hub.asked == 0
