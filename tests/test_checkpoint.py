"""Bad weights are refused by `run` and `plan` before any step starts: what was found, what was needed, what to type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_model, write_tiny

from linker import tensors
from linker.checkpoint import check_checkpoint
from linker.cli import main
from linker.config import MINI_DIR, GenerateSettings
from linker.errors import EnvironmentError
from linker.model.lingualinker import LinguaLinker
from linker.records import sha256_file

ROOT = Path(__file__).resolve().parent.parent
NETS, CARD = "linker.safetensors", "lingualinker.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("good"))


@pytest.fixture
def weights(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "w"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_card(weights: Path, group: str, **values: object) -> None:
    card = weights / "lingualinker.json"
    told = json.loads(card.read_text())
    change_json(card, **{group: told[group] | values})


def write_nets(weights: Path, drop: str = "", **more: torch.Tensor) -> None:
    """Other nets, with a card that has their hash."""
    kept = {name: value for name, value in load_file(weights / NETS).items() if name != drop or not drop}
    save_file(kept | more, weights / NETS)
    change_card(weights, "files", **{NETS: sha256_file(weights / NETS)})


def no_card(weights: Path) -> None:
    (weights / "lingualinker.json").unlink()


def no_nets(weights: Path) -> None:
    (weights / NETS).unlink()


def no_speech(weights: Path) -> None:
    shutil.rmtree(weights / "speech")


def no_codec_weights(weights: Path) -> None:
    path = weights / "codec" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    told = json.loads((weights / "lingualinker.json").read_text())["files"]
    change_json(
        weights / "lingualinker.json", files={name: value for name, value in told.items() if "codec" not in name}
    )


def wrong_hash(weights: Path) -> None:
    change_card(weights, "files", **{"speech/model.safetensors": "ab" * 32})


def flipped_byte(weights: Path) -> None:
    whole = bytearray((weights / NETS).read_bytes())
    whole[-5] ^= 1
    (weights / NETS).write_bytes(whole)


def codec_without_hash(weights: Path) -> None:
    files = json.loads((weights / CARD).read_text())["files"]
    change_json(weights / CARD, files={name: value for name, value in files.items() if "codec" not in name})


def no_hashes(weights: Path) -> None:
    change_json(weights / CARD, files=None)


def with_nan(weights: Path) -> None:
    write_nets(weights, **{"audio.norm.bias": torch.full((24,), torch.nan)})


def truncated(weights: Path) -> None:
    (weights / NETS).write_bytes((weights / NETS).read_bytes()[:-100])


def a_pickle(weights: Path) -> None:
    torch.save({"a": torch.zeros(3)}, weights / NETS)


def other_latents(weights: Path) -> None:
    LinguaLinker(TINY.model_copy(update={"latent_channels": 6})).save_pretrained(weights, {}, torch.float32)
    change_card(weights, "architecture", latent_channels=4)


def other_widths(weights: Path) -> None:
    change_card(weights, "architecture", channels=[16, 32, 64], attention=[True, True, True])


def a_level_more(weights: Path) -> None:
    change_card(weights, "architecture", channels=[16], attention=[True])


def a_layer_less(weights: Path) -> None:
    write_nets(weights, drop="denoising.down_blocks.1.resnets.0.conv2.weight")


def no_architecture(weights: Path) -> None:
    change_card(weights, "architecture", heads="four")


def uneven_levels(weights: Path) -> None:
    change_card(weights, "architecture", channels=[16, 32, 64])


def no_levels(weights: Path) -> None:
    change_card(weights, "architecture", channels=[], attention=[])


def odd_heads(weights: Path) -> None:
    change_card(weights, "architecture", heads=3)


def speech_width(weights: Path) -> None:
    change_json(weights / "speech" / "config.json", hidden_size=1024)


def speech_in_the_nets(weights: Path) -> None:
    change_card(weights, "architecture", speech_dim=1024)
    change_json(weights / "speech" / "config.json", hidden_size=1024)


def outside(weights: Path) -> None:
    change_card(weights, "files", **{"../../secret.safetensors": "ab" * 32})


BAD: list[tuple[Callable[[Path], None], str]] = [
    (no_card, "no lingualinker.json there"),
    (no_nets, "linker.safetensors: missing"),
    (no_speech, "speech/model.safetensors: missing"),
    (no_codec_weights, "codec: found no .safetensors file, needed the weights"),
    (wrong_hash, "needed the card's abababababab"),
    (flipped_byte, "linker.safetensors: found SHA-256"),
    (truncated, "bytes, needed"),
    (a_pickle, "linker.safetensors: found no header"),
    (
        other_latents,
        "another architecture than the card's: reference.conv_in.weight: found (16, 6, 3, 3), needed (16, 4,",
    ),
    (other_widths, "down_blocks.2.resnets.0.conv2.weight: found none, needed (64, 64, 3, 3)"),
    (a_level_more, "found denoising.down_blocks.1."),
    (a_layer_less, "denoising.down_blocks.1.resnets.0.conv2.weight: found none"),
    (no_architecture, "not an architecture (heads: Input should be a valid integer"),
    (uneven_levels, "not an architecture (attention needs a word for each of channels)"),
    (no_levels, "not an architecture (channels needs a width at least)"),
    (odd_heads, "not an architecture (channels needs multiples of 2, norm_groups, heads and motion_heads)"),
    (speech_width, "hidden_size is 1024, the checkpoint's nets need 24"),
    (speech_in_the_nets, "audio.norm.weight: found (24,), needed (1024,)"),
    (outside, "outside the checkpoint"),
    (with_nan, "audio.norm.bias holds NaN or infinity"),
    (no_hashes, "found no hash of linker.safetensors"),
    (codec_without_hash, "codec/diffusion_pytorch_model.safetensors: found no hash of it on lingualinker.json"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_run_refuses_before_anything_starts(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, spoil: Callable[[Path], None], words: str,
    write_manifest: Callable[..., Path],
) -> None:  # fmt: skip
    manifest = write_manifest("clip,portrait,audio\na,p.png,a.wav\n")
    spoil(weights)
    results = tmp_path / "results"
    assert main(["run", str(manifest), "--results", str(results), "--set", f"generate.weights={weights}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {weights}")
    assert words in line, line
    assert f"python3 -m linker weights {weights}" in line
    assert not results.exists()


def test_the_command_that_people_type(weights: Path, tmp_path: Path, write_manifest: Callable[..., Path]) -> None:
    wrong_hash(weights)
    manifest = write_manifest("clip,portrait,audio\na,p.png,a.wav\n")
    for verb in ("run", "plan"):
        words = ["-m", "linker", verb, str(manifest), "--results", "r", "--set", "generate.weights=w"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LINKER_NO_VENV": "1"}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              check=False)  # fmt: skip
        assert (done.returncode, done.stdout) == (3, "")
        assert "needed the card's abababababab" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_good_weights_pass_without_building_a_network(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a network was built"))
    for folder in (good, MINI_DIR):
        check_checkpoint(GenerateSettings(weights=str(folder)), {"", "quality"})


def test_a_row_that_asks_for_the_tiny_decoder_needs_it(weights: Path) -> None:
    change_card(weights, "architecture", size="base")
    settings = GenerateSettings(weights=str(weights), preset="quality")
    check_checkpoint(settings, {"", "balanced"})
    with pytest.raises(EnvironmentError, match=r"decoder 'tiny': found no folder .*needed an AutoencoderTiny"):
        check_checkpoint(settings, {"", "draft"})
    check_checkpoint(settings.model_copy(update={"decoder": "codec"}), {"draft"})
    AutoencoderTiny(latent_channels=4, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
                    ).save_pretrained(weights / "tiny")  # fmt: skip
    with pytest.raises(EnvironmentError, match=r"tiny/diff\S+: found no hash of it on lingualinker\.json"):
        check_checkpoint(settings, {"draft"})
    file = "tiny/diffusion_pytorch_model.safetensors"
    change_card(weights, "files", **{file: sha256_file(weights / file)})
    check_checkpoint(settings, {"draft"})
    change_json(weights / "tiny" / "config.json", latent_channels=16)
    with pytest.raises(EnvironmentError, match="latent_channels is 16, the checkpoint's nets need 4"):
        check_checkpoint(settings, {"draft"})


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Every file counts as a large one; those that were read whole."""
    read: list[Path] = []
    hashed = tensors.sha256_file
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tensors, "ALWAYS_MB", 0)
    monkeypatch.setattr(tensors, "sha256_file", lambda path: read.append(path) or hashed(path))
    return read


def test_a_large_file_is_read_once_until_it_changes(weights: Path, large: list[Path]) -> None:
    settings = GenerateSettings(weights=str(weights))
    for _ in range(2):
        check_checkpoint(settings, {""})
    assert len(large) == 3
    write_nets(weights, **{"audio.norm.bias": torch.full((24,), torch.nan)})
    for _ in range(2):
        with pytest.raises(EnvironmentError, match=r"linker.safetensors: audio\.norm\.bias holds NaN"):
            check_checkpoint(settings, {""})
    assert len(large) == 4


def test_a_home_that_cannot_be_written_costs_time_alone(weights: Path, large: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    for _ in range(2):
        check_checkpoint(GenerateSettings(weights=str(weights)), {""})
    assert len(large) == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(place=st.integers(0, 59), value=st.sampled_from([torch.nan, torch.inf, -torch.inf, 65504.0, -1e-7, 0.0]))
@examples(max_examples=20, deadline=None)
def test_what_is_no_number_is_found_wherever_it_is(dtype: torch.dtype, place: int, value: float) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "PIECE", 7)
        holder = torch.randn(3, 20).to(dtype)
        holder.view(-1)[place] = value
        save_file({"a": torch.arange(9), "b": torch.randn(4).to(dtype), "c": holder}, Path(folder) / "x.safetensors")
        found = tensors.scan(Path(folder) / "x.safetensors").odd
    assert found == ("" if torch.isfinite(holder).all() else "c")


@pytest.mark.parametrize(
    ("spoil", "words"), [(no_nets, "safetensors: missing"), (no_hashes, "found no hash"), (with_nan, "holds NaN")]
)
def test_the_command_that_is_given_names_the_fault(
    weights: Path, capsys: pytest.CaptureFixture, spoil: Callable[[Path], None], words: str
) -> None:
    """`run` says to type `weights FOLDER`, and so does this."""
    spoil(weights)
    assert main(["weights", str(weights)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line, line


@pytest.mark.parametrize(("spoil", "words"), [(truncated, "bytes, needed"), (with_nan, "holds NaN"), (no_card, CARD)])
def test_training_refuses_a_bad_start_before_anything_starts(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, spoil: Callable[[Path], None], words: str
) -> None:
    (tmp_path / "train-000000.tar").touch()
    spoil(weights)
    chosen = ["--set", f"train.start={weights}", "--set", f"train.shards={tmp_path}"]
    assert main(["train", "--preset", "base", "--results", str(tmp_path / "r"), *chosen]) == 3
    line = capsys.readouterr().err
    assert line.startswith("error: train.start: ")
    assert words in line, line
    assert "weights init base" in line
    assert not (tmp_path / "r").exists()


def test_a_speech_encoder_in_half_precision_is_heard(weights: Path) -> None:
    path = weights / "speech" / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    change_json(weights / "speech" / "config.json", dtype="float16")
    change_card(weights, "files", **{"speech/model.safetensors": sha256_file(path)})
    assert main(["weights", str(weights)]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    """Without a word, in the precision that the model has."""
    model = tiny_model().to(dtype)
    model.save_pretrained(tmp_path, {})
    stored, again = load_file(tmp_path / NETS), LinguaLinker.from_pretrained(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert stored[name].dtype == dtype
        assert torch.equal(again[name], value.float()), name
