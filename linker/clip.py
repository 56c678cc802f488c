"""A row while its clip is generated: what it shares from window to window, and where it stands on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from linker.config import FPS, Preset
from linker.drift import Guard
from linker.engine import Engine, code_hash, name_of
from linker.media import Undecodable, WavSamples
from linker.model.audio_context import SpeechTrack, speech_chunks
from linker.model.codec import Portrait
from linker.model.layers import KeyValue
from linker.model.masks import background_of, ranged_masks
from linker.model.sample import ClipConditions, Sampling, Windows, preceding_frames, window_count
from linker.process import return_freed_memory
from linker.records import atomic, read_json, sha256_file
from linker.rows import Lease

KEPT = 8  # portraits whose latents, keys and values are kept for the next rows of a shard


@dataclass(eq=False)
class Clip:
    """A row that is being generated, under its lease; `window` is the first that is missing, `anchored` are those that
    began from the portrait because the one before had drifted from it."""

    lease: Lease
    engine: Engine
    preset: Preset
    frames: int
    portrait: Portrait
    conditions: ClipConditions
    speech: SpeechTrack
    kept: Path
    window: int
    previous: Tensor | None
    rows: int
    guard: Guard
    made: int = 0
    anchored: list[int] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        return self.engine.recipe.sampling(self.preset)

    @property
    def windows(self) -> int:
        return window_count(self.frames, self.engine.model.arch.window)

    @property
    def is_unfinished(self) -> bool:
        return self.window < self.windows

    @property
    def video(self) -> Path:
        """Where the clip is written, inside the lease."""
        return self.lease.folder / "clip.mkv"

    def next_window(self) -> Windows:
        """What the next window starts from."""
        arch = self.engine.model.arch
        first, heard = self.window * arch.window - arch.audio_context // 2, arch.window + arch.audio_context - 1
        return Windows(
            numbers=(self.window,),
            seeds=(int(self.lease.row["seed"]),),
            speech=self.speech.window(first, heard).to(self.engine.device),
            preceding=preceding_frames(self.engine.model, self.conditions.still, self.previous),
            follows=(self.previous is not None,),
        )

    def store(self, latents_1FChw: Tensor) -> int:
        """Keep the next window's latents, (F, C, h, w) float32, whole or not at all; its number."""
        with atomic(self.kept / f"{self.window:06d}.npy") as temporary:
            np.save(temporary, latents_1FChw[0].cpu().numpy())
        self.previous = self.start_of_next(self.window, latents_1FChw)
        self.window, self.made = self.window + 1, self.made + 1
        return self.window - 1

    @torch.inference_mode()
    def start_of_next(self, window: int, latents_1FChw: Tensor) -> Tensor | None:
        """What the window after `window` begins with: the end of that one, or, where it has drifted, the portrait."""
        last = latents_1FChw[0, -1:].to(self.engine.device)
        shown = self.engine.pictures(last, self.portrait, self.preset.decoder)
        if not self.guard.look(shown[0]).is_breach:
            return latents_1FChw
        if window + 1 < self.windows:
            self.anchored.append(window + 1)
        return None

    @torch.inference_mode()
    def pictures(self, window: int) -> np.ndarray:
        """The frames of a stored window that the clip needs, (T, H, W, 3) uint8."""
        first = window * self.engine.model.arch.window
        latents = load_window(self.kept, window)[0, : self.frames - first].to(self.engine.device)
        return self.engine.pictures(latents, self.portrait, self.preset.decoder)

    def entry(self) -> dict[str, Any]:
        """The ledger's entry of the finished row."""
        recipe, row = self.engine.recipe, self.lease.row
        return {
            "state": "done",
            "refusal": None,
            "video": str(self.lease.video.relative_to(self.lease.video.parents[2])),
            "frames": self.frames,
            "windows_made": self.made,
            "window": self.engine.model.arch.window,
            "anchored": self.anchored,
            "peak_memory_mb": self.engine.peak_memory_mb(),
            "seed": row["seed"],
            "weights": recipe.digest,
            "code": code_hash(),
            "dtype": name_of(recipe.dtype),
            "device": recipe.device.type,
            "rows_together": self.rows,
            "compile": recipe.settings.compile,
            "decoder": self.preset.decoder,
            "sampling": vars(self.sampling),
            "scales": row["scales"],
            "ranges": row["ranges"],
        }


class Unreadable(ValueError):
    """A prepared file of a row is not what it was when it was made."""


class Workshop:
    """Begins rows; what rows of a shard share, a portrait or a recording, is prepared once."""

    def __init__(self, engine: Engine, root: Path, folder: Path) -> None:
        self.engine, self.root, self.folder = engine, root, folder
        self._portrait = lru_cache(KEPT)(self._read_portrait)

    @torch.inference_mode()
    def begin(self, lease: Lease, rows: int) -> Clip:
        """The row, ready for its next window beside `rows` - 1 others. Raises Unreadable."""
        row, preset = lease.row, self.engine.recipe.preset(lease.row["preset"])
        kept = lease.stamped(self.engine.recipe.stamp(rows))
        try:
            frames = max(round(read_json(self.root / row["loudness"])["duration_s"] * FPS), 1)
            first = first_missing(kept)
            portrait, conditions = self._conditions(row)
            speech = self._hear(self.root / row["driver"], frames)
            guard = self._guard(row, portrait, preset)
        except (Undecodable, ValueError, KeyError, SyntaxError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # a full disk, a missing file: not the file's content
                raise
            raise Unreadable(f"a prepared file cannot be read ({str(error).splitlines()[0]})") from error
        clip = Clip(lease, self.engine, preset, frames, portrait, conditions, speech, kept, first, None, rows, guard)
        for window in range(first):
            clip.previous = clip.start_of_next(window, load_window(kept, window).to(self.engine.device))
        return clip

    def _guard(self, row: dict[str, Any], portrait: Portrait, preset: Preset) -> Guard:
        """Knows the portrait as the codec gives it back, so that the codec's own softness is no drift."""
        shown = self.engine.pictures(portrait.still, portrait, preset.decoder)
        return Guard(shown[0], read_masks(self.root / row["masks"]).numpy())

    def _read_portrait(self, path: Path) -> tuple[Portrait, list[KeyValue]]:
        """A portrait as the codec reads it, and its keys and values: one pass of each net."""
        engine, model = self.engine, self.engine.model
        portrait = engine.read_portrait(read_face(path))
        with engine.autocast():
            seen = model.read_portrait(portrait.latent)
        engine.synchronize()
        return portrait, seen

    def _conditions(self, row: dict[str, Any]) -> tuple[Portrait, ClipConditions]:
        """What the whole clip shares: the portrait's keys and values, its masks and scales."""
        model, device = self.engine.model, self.engine.device
        portrait, seen = self._portrait(self.root / row["face"])
        masks = ranged_masks(read_masks(self.root / row["masks"]), tuple(row["ranges"]))
        return portrait, ClipConditions(
            still=portrait.still,
            reference=seen,
            masks=model.mask_pyramid(masks[None].to(device)),
            scales=torch.tensor([row["scales"]], device=device),
            ranges=torch.tensor([row["ranges"]], device=device),
            background=background_of(masks, model.arch.latent_px).to(device),
        )

    def _hear(self, driver: Path, frames: int) -> SpeechTrack:
        """The recording's states, in a file of their own beside the clips: rows that share it encode it once."""
        told = f"{sha256_file(driver)} {self.engine.recipe.digest}"
        path = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.speech"
        if not path.is_file():
            with WavSamples(driver) as samples, atomic(path) as temporary, temporary.open("wb") as stream:
                for states in speech_chunks(self.engine.speech, samples):
                    states[0].float().cpu().numpy().tofile(stream)
                    return_freed_memory()
        return SpeechTrack(path, self.engine.model.arch.speech_dim, frames)


def first_missing(kept: Path) -> int:
    """The first window that is not there."""
    window = 0
    while (kept / f"{window:06d}.npy").is_file():
        window += 1
    return window


def load_window(kept: Path, window: int) -> Tensor:
    """(1, F, C, h, w) float32."""
    return torch.from_numpy(np.load(kept / f"{window:06d}.npy"))[None]


def read_face(path: Path) -> np.ndarray:
    """(S, S, 3) uint8."""
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def read_masks(path: Path) -> Tensor:
    """(3, H, W) float32: head, mouth, eyes."""
    with np.load(path) as arrays:
        return torch.from_numpy(np.stack([arrays[name] for name in ("head", "mouth", "eyes")]).astype(np.float32))
