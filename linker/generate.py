"""generate: the gated diffusion model, loaded once, makes the clips of a shard's rows one after the other.

Every window is kept as soon as it exists, in the row's lease (rows.py), under a key of everything that decides the
row's frames: a killed row goes on at the window where it stopped, a row that is done is skipped, and changed inputs
never mix with old windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linker.backends import load_codec, load_speech_encoder
from linker.config import FPS, PACKAGE_DIR, PRESETS, GenerateSettings, weights_folder
from linker.media import lossless_writer, read_audio
from linker.model.audio_context import encode_speech, pad_context
from linker.model.codec import decode_frames, encode_frames
from linker.model.lingualinker import LinguaLinker, weights_hash
from linker.model.masks import background_of, ranged_masks
from linker.model.sample import ClipConditions, Sampling, sample_clip, window_count
from linker.records import atomic, read_json, sha256_file
from linker.rows import Lease, opened


@dataclass(frozen=True)
class Engine:
    """The networks and where they run; loaded once a worker."""

    model: LinguaLinker
    codec: torch.nn.Module
    speech: torch.nn.Module
    digest: str
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> torch.autocast:
        """Mixed precision as in training; off in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def generate(shard: Path, ledger: Path, settings: GenerateSettings) -> None:
    """Make the rows of the `shard` listing that no other worker has; `ledger` tells what became of them."""
    engine: Engine | None = None
    with opened(shard, ledger, settings) as queue:
        while lease := queue.claim():
            with lease.attempt():
                engine = engine or load_engine(settings)
                make_row(engine, queue.root, lease, settings)


def load_engine(settings: GenerateSettings) -> Engine:
    """Load the checkpoint that `settings.weights` names. Raises EnvironmentError when it is missing or does not fit."""
    folder = weights_folder(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, codec = LinguaLinker.from_pretrained(folder), load_codec(folder / "codec")
    speech = load_speech_encoder(folder / "speech")
    for network in (model, codec, speech):
        network.to(device).requires_grad_(False)
    for network in (model.reference, model.denoising, codec):
        network.to(memory_format=torch.channels_last)
    return Engine(model, codec, speech, weights_hash(folder), device, resolve_dtype(settings.dtype, device))


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 where the processor computes in it."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def sampling_of(row: dict[str, Any], settings: GenerateSettings) -> Sampling:
    """The preset's steps and guidance unless the settings name their own."""
    steps, guidance = PRESETS[row["preset"]]
    return Sampling(
        steps=settings.steps or steps,
        guidance_scale=settings.guidance_scale or guidance,
        sampler=settings.sampler,
        background_strength=settings.background_strength,
    )


def make_row(engine: Engine, root: Path, lease: Lease, settings: GenerateSettings) -> None:
    """Generate what is missing of a row, and publish it."""
    row, sampling = lease.row, sampling_of(lease.row, settings)
    frames = max(round(read_json(root / row["loudness"])["duration_s"] * FPS), 1)
    video, made = lease.video, 0
    if not video.is_file():
        video = lease.folder / "clip.mkv"
        with torch.inference_mode(), engine.autocast():
            made = make_clip(engine, root, lease, sampling, frames, video)
    entry = {
        "state": "done",
        "refusal": None,
        "video": str(lease.video.relative_to(lease.video.parents[2])),
        "frames": frames,
        "windows_made": made,
        "seed": row["seed"],
        "weights": engine.digest,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "sampling": vars(sampling),
        "scales": row["scales"],
        "ranges": row["ranges"],
    }
    lease.publish(entry, video)


def stamp(engine: Engine) -> str:
    """What else decides windows, to the bit: code, precision, device. Windows of two stamps never meet in a clip."""
    return f"{code_hash()}.{str(engine.dtype).removeprefix('torch.')}.{engine.device.type}"


@cache
def code_hash() -> str:
    """Eight hex digits of the code between a row and its frames, and of torch."""
    paths = [Path(__file__), PACKAGE_DIR / "backends.py", *sorted((PACKAGE_DIR / "model").glob("*.py"))]
    told = "".join(sha256_file(path) for path in paths) + torch.__version__
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def make_clip(engine: Engine, root: Path, lease: Lease, sampling: Sampling, frames: int, video: Path) -> int:
    """Generate the windows that are missing in the lease, then decode them all into `video`; how many."""
    row, windows = lease.row, lease.stamped(stamp(engine))
    face = read_face(root / row["face"], engine.model.arch.sample_px)
    portrait = engine.model.normalise(encode_frames(engine.codec, face))
    clip = clip_conditions(engine, root, row, frames, portrait)
    first, previous = resume_point(windows)
    total, made = window_count(frames, engine.model.arch.window), 0
    for window, latents in sample_clip(engine.model, clip, frames, row["seed"], sampling, first, previous):
        store_window(windows, window, latents)
        made += 1
        lease.progress(window + 1, total)
    side = engine.model.arch.sample_px
    with lossless_writer(video, side, side, FPS) as writer:
        for frame in decoded(engine, windows, frames, portrait):
            writer.write(frame)
    return made


def clip_conditions(engine: Engine, root: Path, row: dict[str, Any], frames: int, portrait: Tensor) -> ClipConditions:
    """What the whole clip shares: the portrait's keys and values, its masks, and what is heard."""
    model, arch = engine.model, engine.model.arch
    masks = ranged_masks(read_masks(root / row["masks"]), tuple(row["ranges"]))
    samples, _ = read_audio(root / row["driver"])
    speech = encode_speech(engine.speech, torch.from_numpy(samples).to(engine.device), frames)
    missing = -frames % arch.window  # the last window is generated whole and cut when decoded
    speech = torch.cat([speech, speech[:, -1:].expand(-1, missing, -1)], dim=1)
    return ClipConditions(
        still=model.to_change(portrait, portrait),
        reference=model.read_portrait(portrait),
        masks=model.mask_pyramid(masks[None].to(engine.device)),
        scales=torch.tensor([row["scales"]], device=engine.device),
        speech=pad_context(speech, arch.audio_context),
        background=background_of(masks, arch.latent_px).to(engine.device),
    )


def read_face(path: Path, side: int) -> np.ndarray:
    """(1, side, side, 3) uint8."""
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))[None]


def read_masks(path: Path) -> Tensor:
    """(3, H, W) float32: head, mouth, eyes."""
    with np.load(path) as arrays:
        return torch.from_numpy(np.stack([arrays[name] for name in ("head", "mouth", "eyes")]).astype(np.float32))


def store_window(windows: Path, window: int, latents: Tensor) -> None:
    """Keep one window's latents, (F, C, h, w) float32, whole or not at all."""
    with atomic(windows / f"{window:06d}.npy") as temporary:
        np.save(temporary, latents[0].float().cpu().numpy())


def resume_point(windows: Path) -> tuple[int, Tensor | None]:
    """(first missing window, latents of the one before it); (0, None) for a new clip."""
    first = 0
    while (windows / f"{first:06d}.npy").is_file():
        first += 1
    return first, load_window(windows, first - 1) if first else None


def load_window(windows: Path, window: int) -> Tensor:
    return torch.from_numpy(np.load(windows / f"{window:06d}.npy"))[None]


def decoded(engine: Engine, windows: Path, frames: int, portrait: Tensor) -> Iterator[np.ndarray]:
    """The clip's frames, (H, W, 3) uint8, one window in memory at a time."""
    left, window = frames, 0
    while left > 0:
        change = load_window(windows, window)[0, :left].to(engine.device)
        latents = engine.model.denormalise(engine.model.from_change(change, portrait))
        yield from decode_frames(engine.codec, latents)
        left, window = left - len(latents), window + 1
