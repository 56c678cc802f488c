"""generate: the gated diffusion model, loaded once, makes the clips of a shard's rows one after the other.

Every window is kept as soon as it exists, under a key of everything that decides the row's frames: a killed row goes on
at the window where it stopped, a row that is done is skipped, and changed inputs never mix with old windows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linker import __version__
from linker.backends import load_codec, load_speech_encoder
from linker.config import FPS, MINI_DIR, GenerateSettings
from linker.media import lossless_writer, read_audio
from linker.model.audio_context import encode_speech, pad_context
from linker.model.codec import decode_frames, encode_frames
from linker.model.lingualinker import LinguaLinker, weights_hash
from linker.model.masks import background_of, ranged_masks
from linker.model.sample import ClipConditions, Sampling, sample_clip, window_count
from linker.records import Refusal, atomic, read_json, sha256_file, write_json

PRESETS = {  # steps, guidance scale: what they cost is in README
    "quality": (4, 1.0),
    "balanced": (2, 1.0),
    "draft": (1, 1.0),
}


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
    """Make every row of the `shard` listing; `ledger` says after each row what is done and what is refused and why."""
    rows = read_json(shard)["rows"]
    entries = read_json(ledger)["rows"] if ledger.is_file() else {}
    entries = {row["clip"]: entries[row["clip"]] for row in rows if row["clip"] in entries}
    root, folder = shard.resolve().parent.parent, ledger.parent
    engine: Engine | None = None
    for number, row in enumerate(rows, 1):
        print(f"generate {row['clip']} ({number}/{len(rows)})", file=sys.stderr, flush=True)
        refusal = upstream_refusal(root, row)
        if refusal is None:
            engine = engine or load_engine(settings)
            entries[row["clip"]] = make_row(engine, root, folder, row, settings, entries.get(row["clip"]))
        else:
            entries[row["clip"]] = {"state": "refused", "refusal": refusal.to_json()}
        write_json(ledger, {"rows": entries})
    write_json(ledger, {"rows": entries})
    sweep(folder, entries)


def upstream_refusal(root: Path, row: dict[str, Any]) -> Refusal | None:
    """What made the row's portrait or audio impossible, if anything did."""
    for sidecar in (row["crop"], row["loudness"]):
        refusal = Refusal.from_json(read_json(root / sidecar).get("refusal"))
        if refusal:
            return refusal
    return None


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


def weights_folder(settings: GenerateSettings) -> Path:
    return MINI_DIR if settings.weights == "mini" else Path(settings.weights)


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


def content_key(engine: Engine, root: Path, row: dict[str, Any], sampling: Sampling) -> str:
    """SHA-256 of everything that decides a row's frames: inputs, weights, settings, precision, version."""
    parts = {name: sha256_file(root / row[name]) for name in ("face", "masks", "driver")}
    parts |= {"weights": engine.digest, "dtype": str(engine.dtype), "version": __version__}
    parts |= {name: row[name] for name in ("seed", "scales", "ranges")} | {"sampling": vars(sampling)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def make_row(
    engine: Engine, root: Path, folder: Path, row: dict[str, Any], settings: GenerateSettings, known: dict | None
) -> dict[str, Any]:
    """The ledger's entry of a row, generating what is missing; `known` is the entry of an earlier run."""
    sampling = sampling_of(row, settings)
    key = content_key(engine, root, row, sampling)
    video = folder / f"{row['clip']}.{key[:12]}.mkv"
    if known and known.get("key") == key and video.is_file():
        return known
    frames = max(round(read_json(root / row["loudness"])["duration_s"] * FPS), 1)
    started, made = time.monotonic(), 0
    if not video.is_file():
        with torch.inference_mode(), engine.autocast():
            made = make_clip(engine, root, row, sampling, frames, folder / f"{row['clip']}.{key[:12]}.windows", video)
    return {
        "state": "done",
        "refusal": None,
        "video": str(Path("shards", folder.name, video.name)),
        "key": key,
        "frames": frames,
        "windows_made": made,
        "seconds": round(time.monotonic() - started, 3),
        "seed": row["seed"],
        "weights": engine.digest,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "sampling": vars(sampling),
        "scales": row["scales"],
        "ranges": row["ranges"],
    }


def make_clip(
    engine: Engine, root: Path, row: dict[str, Any], sampling: Sampling, frames: int, windows: Path, video: Path
) -> int:
    """Generate the windows that are missing in the folder `windows`, then decode them all into `video`; how many."""
    face = read_face(root / row["face"], engine.model.arch.sample_px)
    portrait = engine.model.normalise(encode_frames(engine.codec, face))
    clip = clip_conditions(engine, root, row, frames, portrait)
    first, previous = resume_point(windows)
    total, made = window_count(frames, engine.model.arch.window), 0
    for window, latents in sample_clip(engine.model, clip, frames, row["seed"], sampling, first, previous):
        store_window(windows, window, latents)
        made += 1
        print(f"generate {row['clip']} window {window + 1}/{total}", file=sys.stderr, flush=True)
    side = engine.model.arch.sample_px
    with lossless_writer(video, side, side, FPS) as writer:
        for frame in decoded(engine, windows, frames, portrait):
            writer.write(frame)
    shutil.rmtree(windows)
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


def sweep(folder: Path, entries: dict[str, Any]) -> None:
    """Delete clips and windows that no entry names any more (older keys, removed rows)."""
    named = {os.path.basename(entry["video"]) for entry in entries.values() if entry.get("video")}
    for path in folder.iterdir():
        if path.suffix == ".mkv" and path.name not in named and not path.name.startswith("."):
            path.unlink()
        elif path.suffix == ".windows":
            shutil.rmtree(path)
