"""The networks of a checkpoint, ready to run: where they run, how precisely, how many rows at once, compiled or not."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linker import process
from linker.backends import cache_home, check_compiler, load_speech_encoder, load_tiny_decoder
from linker.config import (
    FPS,
    PACKAGE_DIR,
    SAMPLE_RATE_HZ,
    GenerateSettings,
    LaunchSettings,
    Preset,
    preset_of,
    weights_folder,
)
from linker.errors import EnvironmentError
from linker.faults import first_line
from linker.model.architecture import Architecture
from linker.model.audio_context import encode_speech
from linker.model.card import read_architecture, weights_hash
from linker.model.codec import Portrait, decode_frames, load_codec, read_portrait
from linker.model.lingualinker import LinguaLinker
from linker.model.sample import Sampling
from linker.records import sha256_file

ROWS_ON_GPU = 4  # rows together where the settings name no number; a processor gains nothing from more than one


@dataclass(frozen=True)
class Recipe:
    """Everything but a row's own files and numbers that decides its frames; known before any network is loaded."""

    folder: Path
    digest: str
    arch: Architecture
    device: torch.device
    dtype: torch.dtype
    rows: int
    settings: GenerateSettings

    @staticmethod
    def of(settings: GenerateSettings) -> Recipe:
        """Raises EnvironmentError when `settings.weights` names no checkpoint."""
        folder = weights_folder(settings)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        rows = settings.rows_together or (ROWS_ON_GPU if device.type == "cuda" else 1)
        arch, dtype = read_architecture(folder), resolve_dtype(settings.dtype, device)
        return Recipe(folder, weights_hash(folder), arch, device, dtype, rows, settings)

    def preset(self, name: str) -> Preset:
        """The preset of this size, each of its choices replaced by the setting that names another."""
        return preset_of(self.settings, self.arch.size, name)

    def sampling(self, preset: Preset) -> Sampling:
        """How the windows of a row with this preset are denoised."""
        return Sampling(preset.steps, preset.guidance_scale, preset.sampler, self.settings.background_strength)

    def needs_tiny(self, rows: Iterable[dict[str, Any]]) -> bool:
        """True when one of these rows is decoded by the tiny decoder."""
        return any(self.preset(row["preset"]).decoder == "tiny" for row in rows)

    @property
    def codec_dtype(self) -> torch.dtype:
        """Autoencoders overflow in float16."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    def stamp(self, rows: int) -> str:
        """What decides windows to the bit beside the row's key: code, precision, device, and how many rows are denoised
        together. Windows of two stamps never meet in a clip."""
        return f"{code_hash()}.{name_of(self.dtype)}.{self.device.type}.{rows}"


@cache
def code_hash() -> str:
    """Eight hex digits of the code between a row and its frames, and of torch."""
    files = [PACKAGE_DIR / f"{name}.py" for name in ("generate", "clip", "engine", "backends", "drift")]
    told = "".join(sha256_file(path) for path in [*files, *sorted((PACKAGE_DIR / "model").glob("*.py"))])
    return hashlib.sha256(f"{told}{torch.__version__}".encode()).hexdigest()[:8]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 where the processor computes in it."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


@dataclass(frozen=True)
class Engine:
    """The loaded networks; one a worker."""

    recipe: Recipe
    model: LinguaLinker
    codec: nn.Module
    speech: nn.Module
    tiny: Any = None

    @property
    def device(self) -> torch.device:
        return self.recipe.device

    def autocast(self) -> torch.autocast:
        """Mixed precision as in training: matrices in `dtype`; norms, sums and the sampler in float32."""
        return self._autocast(self.recipe.dtype)

    def coding(self) -> torch.autocast:
        """The same for the autoencoders."""
        return self._autocast(self.recipe.codec_dtype)

    def _autocast(self, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Where the nets run: what the compiler cannot do here is no row's fault. Raises EnvironmentError."""
        if not self.recipe.settings.compile:
            yield
            return
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            yield
        except BackendCompilerFailed as error:
            why = f"torch cannot compile the nets on this machine ({first_line(error.inner_exception)})"
            raise EnvironmentError(f"generate.compile: {why}; leave generate.compile out") from error

    def read_portrait(self, picture_SS3: np.ndarray) -> Portrait:
        """(S, S, 3) uint8 RGB -> what the nets and the decoder are told of it; latents normalised."""
        with self.coding():
            read = read_portrait(self.codec, picture_SS3, self.model.arch.sample_px)
        return replace(read, latent=self.model.normalise(read.latent), still=self.model.normalise(read.still))

    def pictures(self, latents_TChw: Tensor, portrait: Portrait, decoder: str) -> np.ndarray:
        """(T, C, h, w) normalised latents -> (T, H, W, 3) uint8 RGB, by 'codec' or by 'tiny', which takes them as the
        nets do."""
        with self.coding():
            if decoder == "codec":
                return decode_frames(self.codec, self.model.denormalise(latents_TChw), portrait.appearance)
            return decode_frames(self.tiny, latents_TChw / self.tiny.config.scaling_factor)

    def synchronize(self) -> None:
        """Wait until what was asked of a GPU is done, before another stream uses it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def own_stream(self) -> AbstractContextManager[Any]:
        """Where another thread's work may overlap the main one's: on a GPU, a stream of its own."""
        return torch.cuda.stream(torch.cuda.Stream()) if self.device.type == "cuda" else nullcontext()

    def peak_memory_mb(self) -> int:
        """The most that this worker has held so far, of the GPU's memory where it has one."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() // 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def load_engine(settings: GenerateSettings, tiny: bool = False) -> Engine:
    """Load the checkpoint that `settings.weights` names, with its tiny decoder where rows need it.

    Raises EnvironmentError naming the file that is missing or does not fit.
    """
    recipe = Recipe.of(settings)
    if recipe.device.type == "cpu":
        torch.set_num_threads(job_cores())
        process.keep_freed_memory()
    folder, arch = recipe.folder, recipe.arch
    model = LinguaLinker.from_pretrained(folder)
    codec = load_codec(folder / "codec", arch.latent_channels)
    speech = load_speech_encoder(folder / "speech", arch.speech_dim).to(recipe.device).requires_grad_(False)
    small = load_tiny_decoder(folder / "tiny", arch.latent_channels) if tiny else None
    nets = ((model, recipe.dtype), (codec, recipe.codec_dtype), (small, recipe.codec_dtype))
    for net, dtype in nets:
        if net is not None:
            prepare(net, recipe.device, dtype)
    if settings.compile:
        compile_nets(model)
    return Engine(recipe, model, codec, speech, small)


@torch.inference_mode()
def try_speech(engine: Engine) -> None:
    """Hear a second of noise. Raises EnvironmentError where the speech encoder does not run, or gives no numbers."""
    folder, noise = engine.recipe.folder / "speech", np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ)
    try:
        states = encode_speech(engine.speech, noise.astype(np.float32), FPS)
    except RuntimeError as error:
        raise EnvironmentError(f"{folder}: the speech encoder does not run ({first_line(error)})") from None
    if not torch.isfinite(states).all():
        raise EnvironmentError(f"{folder}: the speech encoder makes NaN or infinity of noise")


def prepare(network: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Place a network for inference. The matrices that autocast would cast at every call are kept in `dtype`: the same
    numbers in half the memory; convolutions take their channels last."""
    network.to(device).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(dtype)
    network.to(memory_format=torch.channels_last)


def compile_nets(model: LinguaLinker) -> None:
    """Compile the denoising net for its one fixed shape; what the compiler makes is kept for later processes. Raises
    EnvironmentError where there is no compiler."""
    check_compiler()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_home() / "lingualinker" / "inductor"))
    model.denoising.compile(dynamic=False, fullgraph=True)


def job_cores() -> int:
    """Processor cores of this job: what the launch settings ordered for a worker elsewhere, what a workflow's rule was
    given (OMP_NUM_THREADS), or all that this process may use."""
    launch = process.resolved(LaunchSettings.model_validate_json(os.environ.get("LINKER_LAUNCH", "{}")))
    allowed = len(os.sched_getaffinity(0))
    if launch.cluster != "debug":
        return min(launch.cpus, allowed)
    ordered = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(ordered), allowed) if ordered.isdigit() and int(ordered) else allowed
