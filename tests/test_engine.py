"""The engine: what it refuses before anything runs, how it is compiled, and that length costs no memory."""

from __future__ import annotations

import gc
import json
import pickle
import resource
import shutil
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, tiny_codec, tiny_conditions, tiny_model, tiny_speech, told, write_tiny

from linker.bench import processes, timed
from linker.bench.gpu import gpu, preset_figures
from linker.cli import main
from linker.clip import Clip
from linker.config import PRESETS, GenerateSettings
from linker.engine import Engine, Recipe, job_cores, load_engine, resolve_dtype
from linker.errors import EnvironmentError
from linker.generate import generate
from linker.model.audio_context import speech_chunks
from linker.model.codec import decode_frames, encode_frames, read_portrait
from linker.model.lingualinker import LinguaLinker
from linker.process import keep_freed_memory, return_freed_memory
from linker.writing import Writing


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("part", ["codec/diffusion_pytorch_model", "speech/model"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "nan", "other", "pickle"])
def test_a_bad_codec_or_speech_encoder_is_named(weights: Path, tmp_path: Path, part: str, damage: str) -> None:
    shutil.copytree(weights, tmp_path / "w")
    path = tmp_path / "w" / f"{part}.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "pickle":
        path.unlink()
        path.with_name("pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    else:
        tensors = load_file(path)
        name = sorted(tensors)[0]
        if damage == "nan":
            tensors[name] = torch.full_like(tensors[name], torch.nan)
        else:
            del tensors[name]
        save_file(tensors, path, metadata={"format": "pt"})
    named = path.parent if damage in ("missing", "pickle") else path
    with pytest.raises(EnvironmentError, match=f"^{named}: "):
        load_engine(GenerateSettings(weights=str(tmp_path / "w")))


def test_loading_needs_no_network_and_no_pickle(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        pytest.fail("a connection was opened, or a pickle read")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "torch.load", "pickle.Unpickler", "pickle.load"):
        monkeypatch.setattr(name, refuse)
    load_engine(GenerateSettings(weights=str(weights)))


def test_weights_checks_every_network(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["weights", str(weights)]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["size"] == "tiny"
    shutil.copytree(weights, tmp_path / "w")
    config = tmp_path / "w" / "speech" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"feat_extract_norm": "group"}))
    assert main(["weights", str(tmp_path / "w")]) == 3
    assert "needed 'layer'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("codec", "_class_name", "VQModel", "needed one of MotionCodec"),
        ("codec", "latent_channels", 8, "latent_channels is 8, the checkpoint.s nets need 4"),
        ("speech", "feat_extract_norm", "group", "needed 'layer'"),
        ("speech", "num_attention_heads", {}, "does not load as Wav2Vec2Model with its config"),
        ("codec", "encoder_block_out_channels", 7, "does not load as AutoencoderDC with its config"),
    ],
)
def test_a_network_of_another_kind_is_refused(
    weights: Path, tmp_path: Path, part: str, key: str, value: object, said: str
) -> None:
    shutil.copytree(weights, tmp_path / "w")
    path = tmp_path / "w" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(EnvironmentError, match=said):
        load_engine(GenerateSettings(weights=str(tmp_path / "w")))


def test_nets_and_codec_must_belong_together(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "w")
    torch.manual_seed(0)
    LinguaLinker(TINY.model_copy(update={"latent_channels": 6})).save_pretrained(tmp_path / "w", {}, torch.float32)
    with pytest.raises(EnvironmentError, match="latent_channels is 4, the checkpoint's nets need 6"):
        load_engine(GenerateSettings(weights=str(tmp_path / "w")))


def test_presets_know_the_size_and_settings_win(weights: Path) -> None:
    recipe = Recipe.of(GenerateSettings(weights=str(weights), steps=7, sampler="tcd"))
    preset = recipe.preset("balanced")
    assert (preset.steps, preset.sampler, preset.decoder) == (7, "tcd", "codec")
    base = Recipe(**{**vars(recipe), "arch": TINY.model_copy(update={"size": "base"}), "settings": GenerateSettings()})
    assert base.preset("quality") == PRESETS["base"]["quality"]
    assert base.needs_tiny([{"preset": "draft"}])


def test_matrices_are_kept_as_they_are_computed(weights: Path) -> None:
    """In bfloat16 half the bytes, and the very numbers that mixed precision gives with float32 weights."""
    half = load_engine(GenerateSettings(weights=str(weights), dtype="bfloat16"))
    whole = load_engine(GenerateSettings(weights=str(weights), dtype="float32"))
    assert half.model.denoising.conv_in.weight.dtype == torch.bfloat16
    assert half.model.denoising.conv_norm_out.weight.dtype == torch.float32
    given, noisy = tiny_conditions(whole.model), torch.randn(1, 12, 4, 8, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        results = [net.denoise(noisy, torch.tensor([500]), told(net, given)) for net in (half.model, whole.model)]
    assert torch.equal(*results)


def test_auto_is_what_the_processor_computes_in() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) in (torch.bfloat16, torch.float32)
    assert resolve_dtype("float16", cpu) == torch.float16


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_auto_is_what_the_card_computes_in(weights: Path, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    """Cards older than bfloat16 take float16, whose codec stays in float32; a card makes several rows together."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    recipe = Recipe.of(GenerateSettings(weights=str(weights)))
    expected = (torch.bfloat16, torch.bfloat16) if has_bfloat16 else (torch.float16, torch.float32)
    assert (recipe.dtype, recipe.codec_dtype) == expected
    assert (recipe.device.type, recipe.rows) == ("cuda", 4)
    assert recipe.stamp(4).endswith(".cuda.4")


def test_what_nets_are_given_goes_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portraits, latents and speech, on 'meta': as on a GPU, a tensor of another device is an error."""
    kl, encoder = tiny_codec().to("meta"), tiny_speech().to("meta")
    monkeypatch.setattr("linker.model.codec.to_pictures", lambda pixels: pixels)
    grey = np.full((32, 32, 3), 128, np.uint8)
    with torch.inference_mode():
        portrait = read_portrait(kl, grey, 32)
        found = [portrait.latent, encode_frames(kl, grey[None], portrait), *decode_frames(kl, portrait.latent)]
        found += speech_chunks(encoder, np.zeros(40 * 16_000, np.float32))
    assert len(found) == 5
    assert {value.device.type for value in found} == {"meta"}


class Decoding:
    """A clip, and its film, that tell where windows are decoded and written; a card's are held back until `let`."""

    def __init__(self, kind: str) -> None:
        self.stream = threading.Lock()  # entered and left for each window, as a card's stream is
        self.engine = SimpleNamespace(device=torch.device(kind), own_stream=lambda: self.stream)
        self.let, self.where, self.written = threading.Event(), [], []

    def pictures(self, window: int) -> list[int]:
        self.where.append((threading.current_thread() is threading.main_thread(), self.stream.locked()))
        assert self.engine.device.type == "cpu" or self.let.wait(60)
        return [window]

    def write(self, frames: list[int]) -> None:
        self.written += frames


@pytest.mark.parametrize(("kind", "main_thread", "own_stream"), [("cuda", False, True), ("cpu", True, False)])
def test_a_card_decodes_beside_denoising(
    monkeypatch: pytest.MonkeyPatch, kind: str, main_thread: bool, own_stream: bool
) -> None:
    """In the writing thread and its own stream, while the main thread goes on; in order. A processor, at once."""
    clip = Decoding(kind)
    monkeypatch.setattr(Writing, "_film", lambda writing, clip: clip)
    with Writing(clip.engine) as writing:
        for window in range(3):
            writing.add(clip, window)
        assert kind == "cpu" or clip.written == []
        clip.let.set()
        writing.drop(clip)  # behind all that waits
    assert clip.written == [0, 1, 2]
    assert clip.where == [(main_thread, own_stream)] * 3


def test_threads_are_the_jobs_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("LINKER_LAUNCH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert job_cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert job_cores() == 8
    monkeypatch.setenv("LINKER_LAUNCH", '{"cluster": "local", "cpus": 5}')
    assert job_cores() == 5


def test_the_nets_are_one_graph() -> None:
    """What `generate.compile` gives the compiler has no breaks, and gives the same answers by its graph."""
    model = tiny_model()
    given, noisy = tiny_conditions(model), torch.randn(1, 12, 4, 8, 8)
    with torch.no_grad():
        conditions = told(model, given)
        halves = conditions, replace(conditions, reference=None, audio=None)
        alone, guided = (model.denoise(noisy, torch.tensor([500]), *each) for each in (halves[:1], halves))
        model.denoising.compile(backend="eager", dynamic=False, fullgraph=True)
        torch.testing.assert_close(model.denoise(noisy, torch.tensor([500]), conditions), alone)
        torch.testing.assert_close(model.denoise(noisy, torch.tensor([500]), *halves), guided)


@pytest.fixture(scope="module")
def tiny_engine(weights: Path) -> Engine:
    return load_engine(GenerateSettings(weights=str(weights), rows_together=2))


def test_the_gpu_benchmark_measures_presets(tiny_engine: Engine) -> None:
    found = preset_figures(tiny_engine, "draft")
    assert set(found) == {"ms_a_step", "frames_a_second", "peak_memory_mb"}
    assert all(value > 0 for value in found.values())


def test_without_a_gpu_the_benchmark_says_so(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu() == {}
    assert "there is none here" in capsys.readouterr().err


def test_the_engine_computes_what_the_plain_model_does(weights: Path) -> None:
    """All short cuts together: caches, the unconditional half without attentions, latents kept."""
    engine = load_engine(GenerateSettings(weights=str(weights), dtype="float32"))
    with torch.inference_mode():
        clip, window = timed.grey_clip(engine)
        plain = timed.plain_window(engine, clip, window, timed.GUIDED)
        found = timed.sample_windows(engine.model, clip, window, timed.GUIDED)
    assert timed.relative(found, plain) < 1e-4


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def test_freed_memory_is_kept_until_it_is_returned() -> None:
    """Also that of large blocks after larger ones, while a smaller one that came later is still in use."""
    keep_freed_memory()
    larger = bytearray(b"x" * 30_000_000)
    del larger
    blocks = [bytearray(b"x" * 8_000_000) for _ in range(10)]
    later = bytearray(b"x" * 100_000)
    before = resident_mb()
    del blocks
    assert before - resident_mb() < 20
    return_freed_memory()
    assert before - resident_mb() > 60
    assert later


def held_bytes() -> int:
    """What this process keeps alive: its tensors, and all that Python and numpy have asked for."""
    gc.collect()
    real = [value for value in gc.get_objects() if type(value) in (torch.Tensor, torch.nn.Parameter)]  # no compiler's
    stores = [value.untyped_storage() for value in real if value.device.type == "cpu"]
    kept = {store.data_ptr(): store.nbytes() for store in stores}
    return sum(kept.values()) + tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("leak", ["nothing", "latents", "pictures"])
def test_length_costs_no_memory(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: str) -> None:
    """A worker keeps as much after 100 windows of a row as after 20. A defect that is planted, what each window leaves
    behind, is seen. Encoding the speech is tested in test_audio_context."""
    held, left, store = {}, [], Clip.store

    def stored(clip: Clip, latents: torch.Tensor) -> int:
        number = store(clip, latents)
        left.extend({"nothing": [], "latents": [latents.clone()], "pictures": [clip.pictures(number)]}[leak])
        if number in (20, 100):
            held[number] = held_bytes()
        return number

    monkeypatch.setattr(Clip, "store", stored)
    processes.prepare(tmp_path, 50)
    settings = GenerateSettings(weights=str(weights), steps=1, dtype="float32")
    tracemalloc.start()
    try:
        generate(processes.listed(tmp_path, "s", [0]), tmp_path / "shards" / "s" / "ledger.json", settings)
    finally:
        tracemalloc.stop()
    assert (held[100] - held[20] < 400_000) == (leak == "nothing"), held  # some windows may wait to be written
