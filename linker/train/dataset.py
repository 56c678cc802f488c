"""Training windows from encoded videos. A batch is a function of (seed, step): nothing to save, nothing to shuffle."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linker import heartbeat
from linker.config import REGIONS
from linker.model.architecture import Architecture
from linker.model.audio_context import encode_speech
from linker.model.codec import encode_frames, read_portrait
from linker.model.masks import ranged_masks
from linker.model.motion_codec import MotionCodec
from linker.records import atomic, sweep_up
from linker.train.codec import RESTING_SHARE, frame_files
from linker.train.lids import OPEN as OPEN_LIDS
from linker.train.lids import written
from linker.train.mapped import mapped
from linker.train.ranks import mixed, training_dtype

TOGETHER = 8  # videos that a GPU encodes at a time
OPEN = 128  # videos whose files are held open
CALMEST = 0.4  # of the motion in a window's preceding frames against the truth
LIVELY_OF = 12  # starts of a window of which the one with the liveliest lids is taken
LIVELY_SHARE = 0.7  # of windows that are taken so
ACTING = ("scales", "ranges")  # of head, mouth and eyes; footage has none and is taken as it is
KNOWN = (*ACTING, "blink", "samples")  # what is kept of drawn videos beside what networks make of them


@dataclass(frozen=True)
class Batch:
    """B samples: target (B, F, C, h, w), reference (B, C, h, w), portrait (B, 3, S, S) in -1..1, preceding
    (B, M, C, h, w), masks (B, 3, h, w), scales and ranges (B, 3), speech (B, F + l - 1, D), blink (B, F): how far the
    speech shuts lids, keep (B, 2) of reference and audio."""

    target: Tensor
    reference: Tensor
    portrait: Tensor
    preceding: Tensor
    masks: Tensor
    scales: Tensor
    ranges: Tensor
    speech: Tensor
    blink: Tensor
    keep: Tensor


def encode_video(codec: torch.nn.Module, encoder: torch.nn.Module, frames_file: Path) -> dict[str, np.ndarray]:
    """One drawn video as the stages read it; a MotionCodec's blinks are written alike for all (decision 0019)."""
    with np.load(frames_file.with_name(frames_file.name.replace(".frames.npy", ".npz"))) as truth:
        samples, masks = truth["samples"].astype(np.float32), truth["masks"]
        shut, eyes = truth["acted_blink"], truth["acted_eyes"]
        known = {name: truth[name] for name in KNOWN}
    frames = np.load(frames_file)
    portrait = portrait_of(frames_file.name, len(frames))
    portrait = portrait if shut[portrait] < OPEN_LIDS else 0
    found = encode_clip(codec, encoder, frames, samples, masks, portrait)
    if isinstance(codec, MotionCodec):
        found["latents"] = written_latents(codec, found["latents"], eyes, shut)
    return known | found


@torch.no_grad()
def written_latents(codec: MotionCodec, latents: np.ndarray, eyes: np.ndarray, shut: np.ndarray) -> np.ndarray:
    """Encoded latents (T, C, h, w) whose blinks are the codec's pattern, from the eyes' masks (T, h, w) and how far
    lids are shut (T,)."""
    device = next(codec.parameters()).device
    encoded, where = (torch.from_numpy(each.astype(np.float32)).to(device) for each in (latents, eyes))
    return half(written(codec, encoded, where, shut))


@torch.no_grad()
def encode_clip(
    codec: torch.nn.Module,
    encoder: torch.nn.Module,
    frames: np.ndarray,
    samples: np.ndarray,
    masks: np.ndarray,
    portrait: int,
) -> dict[str, np.ndarray]:
    """Frames (T, S, S, 3) uint8, samples (n,) at 16 kHz and masks (T, 3, h, w) as the stages read them: latents
    (T, C, h, w), speech (T, D) at the frame rate, masks, the frame `portrait`, and its `still` and `reference`
    (C, h, w)."""
    device = next(codec.parameters()).device
    with mixed(device, training_dtype("auto", device)):
        read = read_portrait(codec, frames[portrait], frames.shape[1])
        latents = [encode_frames(codec, frames[i : i + 8], read) for i in range(0, len(frames), 8)]
    speech = encode_speech(encoder, samples, len(frames))[0]
    return {
        "latents": half(torch.cat(latents)),
        "still": half(read.still[0]),
        "reference": half(read.latent[0]),
        "speech": half(speech),
        "masks": masks,
        "portrait": frames[portrait],
    }


def half(values: Tensor) -> np.ndarray:
    """float16, on the CPU."""
    return values.float().cpu().numpy().astype(np.float16)


def portrait_of(name: str, frames: int) -> int:
    """The frame that is the portrait of the video `name`: mostly the first, at rest."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    return 0 if rng.random() < RESTING_SHARE else int(rng.integers(frames))


def keep_only(folder: Path, made_of: str) -> None:
    """Empty the folder of videos that were made of something else than `made_of` says; its note says what."""
    note = folder / "made_of"
    if note.is_file() and note.read_text(encoding="utf-8") == made_of:
        return
    for path in (*folder.glob("*.npz"), *folder.glob("*.frames.npy")):
        path.unlink()
    with atomic(note) as temporary:
        temporary.write_text(made_of, encoding="utf-8")


def encode_videos(videos: Path, codec: torch.nn.Module, encoder: torch.nn.Module, cache: Path) -> None:
    """Encode every video that is not in `cache` yet; several at a time on a GPU, which one alone would not fill."""
    sweep_up(cache)
    targets = {path: cache / path.name.replace(".frames.npy", ".npz") for path in frame_files(videos)}
    missing = [path for path, target in targets.items() if not target.exists()]

    def encode(path: Path) -> None:
        arrays = encode_video(codec, encoder, path)
        with atomic(targets[path]) as temporary:
            np.savez(temporary, **arrays)

    together = TOGETHER if next(codec.parameters()).is_cuda else 1
    with ThreadPoolExecutor(together) as pool:
        for first in range(0, len(missing), together):
            for _ in pool.map(encode, missing[first : first + together]):
                heartbeat.advance()
            heartbeat.leave_if_asked()
            if first % 40 == 0:
                print(f"encode_videos {first}/{len(missing)}", file=sys.stderr)


@dataclass(frozen=True)
class Sound:
    """What a window hears: its video's recording (n,) at 16 kHz, how many frames that has, and which of them the window
    and its context take."""

    samples: np.ndarray
    frames: int
    heard: np.ndarray


class Windows:
    """Encoded videos as they lie on disk, however many there are, and the batches drawn from them."""

    def __init__(self, cache: Path, arch: Architecture) -> None:
        self.arch, long = arch, arch.window + arch.preceding
        self.files = [path for path in sorted(cache.glob("*.npz")) if len(mapped(path)["latents"]) >= long]
        self.mean = np.array(arch.latent_mean or (0,) * arch.latent_channels, np.float32)[:, None, None]
        self.std = np.array(arch.latent_std or (1,) * arch.latent_channels, np.float32)[:, None, None]
        self.open = lru_cache(OPEN)(mapped)

    def batch(self, number: int, size: int, frames: int, drop: float, start_share: float, seed: int = 0) -> Batch:
        """Batch `number` of a run: `size` windows of `frames` frames; both conditions dropped with probability `drop`,
        each alone with half of it. A sample is a function of (seed, its number in the run): how a step's samples are
        shared out among batches and processes changes none of them."""
        rngs = self._rngs(number, size, seed)
        samples = [self._sample(rng, frames, start_share) for rng in rngs]
        columns = [torch.from_numpy(np.stack(column)).float() for column in zip(*samples, strict=True)]
        lot = np.array([rng.random() for rng in rngs])
        keep = np.stack([(lot > 2 * drop) | (lot < 0.5 * drop), (lot > 2 * drop) | (lot >= 1.5 * drop)], axis=1)
        target, reference, portrait, preceding, masks, scales, ranges, speech, blink = columns
        kept = torch.from_numpy(keep).float()
        return Batch(target, reference, portrait, preceding, masks, scales, ranges, speech, blink, kept)

    def videos_of(self, number: int, size: int, seed: int = 0) -> list[str]:
        """The names of the videos that batch `number` is made of."""
        return [self.files[rng.integers(len(self.files))].stem for rng in self._rngs(number, size, seed)]

    def sounds(self, number: int, size: int, frames: int, start_share: float, seed: int = 0) -> list[Sound]:
        """What the windows of that batch hear, as it was recorded."""
        found = []
        for rng in self._rngs(number, size, seed):
            video, start, _ = self._place(rng, frames, start_share)
            length = len(video["latents"])
            found.append(Sound(video["samples"].astype(np.float32), length, self._heard(start, frames, length)))
        return found

    def _rngs(self, number: int, size: int, seed: int) -> list[np.random.Generator]:
        return [np.random.default_rng([seed, sample]) for sample in range(number * size, (number + 1) * size)]

    def _sample(self, rng: np.random.Generator, frames: int, start_share: float) -> tuple[np.ndarray, ...]:
        video, start, opening = self._place(rng, frames, start_share)
        latents = video["latents"]
        if opening:  # a clip's first window: the portrait, repeated
            preceding = np.repeat(self.normal(video["still"])[None], self.arch.preceding, axis=0)
        else:  # what was generated is never quite clean and often too calm, which must not calm what follows
            calm = rng.uniform(CALMEST, 1.0) if rng.random() < 0.5 else 1.0
            preceding = calm * self.normal(latents[start - self.arch.preceding : start])
            preceding = preceding + rng.uniform(0, 0.15) * rng.standard_normal(preceding.shape)
        heard = self._heard(start, frames, len(latents))
        scales, ranges = acting_of(video)
        masks = ranged(union(video["masks"][start : start + frames].astype(np.float32)), ranges)
        target, reference = self.normal(latents[start : start + frames]), self.normal(video["reference"])
        portrait = video["portrait"].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        blink = blink_of(video)[start : start + frames]
        preceding, speech = preceding.astype(np.float32), video["speech"][heard]
        return target, reference, portrait, preceding, masks, scales, ranges, speech, blink

    def _place(
        self, rng: np.random.Generator, frames: int, start_share: float
    ) -> tuple[Mapping[str, np.ndarray], int, bool]:
        """Which video a sample is of, the frame its window begins with, and whether that opens a clip."""
        video = self.open(self.files[int(rng.integers(len(self.files)))])
        opening = rng.random() < start_share
        return video, 0 if opening else self._start(rng, video, frames), opening

    def _heard(self, start: int, frames: int, length: int) -> np.ndarray:
        """The frames that a window and its context hear, the ends repeated."""
        reach = self.arch.audio_context // 2
        return np.clip(np.arange(start - reach, start + frames + reach), 0, length - 1)

    def _start(self, rng: np.random.Generator, video: Mapping[str, np.ndarray], frames: int) -> int:
        """Where a window begins: for most of them where, of a few draws, the lids are liveliest. Blinks are rare and
        short; left to chance, a net never learns them."""
        draws = LIVELY_OF if frames > 2 and rng.random() < LIVELY_SHARE else 1
        starts = rng.integers(self.arch.preceding, len(video["latents"]) - frames + 1, draws).tolist()
        return int(max(starts, key=lambda start: liveliness(video, start, frames)) if draws > 1 else starts[0])

    def normal(self, latents: np.ndarray) -> np.ndarray:
        """Latents (..., C, h, w) as the nets model them."""
        return ((latents - self.mean) / self.std).astype(np.float32)


def liveliness(video: Mapping[str, np.ndarray], start: int, frames: int) -> float:
    """How much the lids of a window move: as far as the speech shuts them where that is known, else by `quickness`."""
    if "blink" not in video:
        return quickness(video, start, frames)
    return float(blink_of(video)[start : start + frames].max())


def quickness(video: Mapping[str, np.ndarray], start: int, frames: int) -> float:
    """How much quicker the eyes of a window are than the head about them: the largest ratio of their latents' second
    differences. A blink takes few frames, turns and glances take many."""
    shown = slice(start, start + frames)
    change = np.abs(np.diff(video["latents"][shown].astype(np.float32), 2, axis=0)).mean(1)
    head, _, eyes = union(video["masks"][shown].astype(np.float32))
    means = [(change * mask).sum((1, 2)) / max(float(mask.sum()), 1e-6) for mask in (eyes, head)]
    return float((means[0] / (means[1] + 1e-3)).max())


def latent_deviation(cache: Path) -> list[float]:
    """Per-channel deviation from zero of encoded videos' latents."""
    loaded = (np.load(path)["latents"].astype(np.float32) for path in sorted(cache.glob("*.npz"))[:200])
    return np.sqrt(np.mean([np.square(latents).mean((0, 2, 3)) for latents in loaded], axis=0)).tolist()


def union(masks_F3hw: np.ndarray) -> np.ndarray:
    """Region masks over a window: the area is the motion's range (spec.md section 1); still disjoint."""
    mouth, eyes = masks_F3hw[:, 1].max(0), masks_F3hw[:, 2].max(0)
    head = np.clip(masks_F3hw.sum(1).max(0) - mouth - eyes, 0, 1)
    return np.stack([head, mouth, eyes]).astype(np.float32)


def acting_of(video: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Scales and ranges of a video, each (3,)."""
    scales, ranges = (np.asarray(video.get(name, np.ones(len(REGIONS))), np.float32) for name in ACTING)
    return scales, ranges


def blink_of(video: Mapping[str, np.ndarray]) -> np.ndarray:
    """How far plain speech would shut the lids, (T,); 0 where it is not known (footage)."""
    return np.asarray(video.get("blink", np.zeros(len(video["latents"]))), np.float32)


def ranged(masks_3hw: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """The masks with the areas that generation would give them for these ranges."""
    head, mouth, eyes = (float(value) for value in ranges)
    return ranged_masks(torch.from_numpy(masks_3hw), (head, mouth, eyes)).numpy()
