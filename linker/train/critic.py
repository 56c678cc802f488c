"""Trains the sync critic on speech whose lips are known: no picture is drawn, the critic reads the lips' geometry.

Each step pairs spoken pieces with the lips that say them, both roughened as cameras and rooms do, and asks which of 31
lags, and which of the other pieces, the lips belong to.
"""

from __future__ import annotations

import hashlib
import io
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from linker.config import CRITIC_FORM, FPS, SAMPLE_RATE_HZ
from linker.errors import EnvironmentError
from linker.faults import first_line
from linker.landmarks import lip_shape
from linker.model.critic import LIP_CHANNELS, MARGIN, MEL_BANDS, MELS_A_FRAME, REACH, SyncCritic, log_mel
from linker.records import atomic
from linker.synth import visemes
from linker.synth.speech import random_speech
from linker.train.fit import Plan, fit
from linker.train.footage import Segment, read_segments

PIECE_S = 4.4
FRAMES = round(PIECE_S * FPS)
FIRST_SEED = 3_000_000
KINDS = ("landmarks.npy", "wav")  # of a segment's members, that are read
BELONGING = 10.0  # evidence from which lips and sound are said to belong together


def write_pool(path: Path, count: int, seed: int = FIRST_SEED) -> None:
    """Speak `count` pieces once: mels (count, 4 T, 40) float16 and mouths (count, T, 3) of open, width, teeth."""
    mels = np.zeros((count, FRAMES * MELS_A_FRAME, MEL_BANDS), np.float16)
    mouths = np.zeros((count, FRAMES, 3), np.float16)
    for i in range(count):
        speech = random_speech(seed + i, duration_s=(PIECE_S, PIECE_S + 0.1))
        samples = torch.from_numpy(speech.samples[: round(PIECE_S * SAMPLE_RATE_HZ)])
        mels[i] = log_mel(samples, FRAMES).numpy()
        mouths[i] = np.stack(visemes.mouth_track(speech), 1)[:FRAMES]
    with atomic(path) as temporary:
        np.savez(temporary, mels=mels, mouths=mouths)


@dataclass(frozen=True)
class Filmed:
    """Pieces of curated footage: mels (n, 4 T, 40), lip_shape (n, T, 4), and names that change with their content."""

    mels: np.ndarray
    lips: np.ndarray
    names: list[str]


def filmed_pieces(shards: Path) -> Filmed:
    """The pieces of the training split's segments.

    Raises EnvironmentError where `shards` holds no train-*.tar with a segment as long as a piece, or a broken one.
    """
    mels, lips, names = [], [], []
    for segment in read_segments(sorted(shards.glob("train-*.tar")), KINDS[:1]):
        landmarks, samples = _filmed(segment)
        shape, name = lip_shape(landmarks), segment.name(KINDS)
        for first in range(0, len(shape) - FRAMES + 1, FRAMES):
            heard = samples[first * SAMPLE_RATE_HZ // FPS : (first + FRAMES) * SAMPLE_RATE_HZ // FPS]
            mels.append(log_mel(torch.from_numpy(heard), FRAMES).numpy())
            lips.append(shape[first : first + FRAMES])
            names.append(f"{name} from frame {first}")
    if not mels:
        raise EnvironmentError(
            f"{shards}: found no train-*.tar with a segment of {PIECE_S} s; `linker curate` writes them"
        )
    return Filmed(np.stack(mels), np.stack(lips).astype(np.float32), names)


def _filmed(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (T, 478, 2) and samples (n,) of a segment. Raises EnvironmentError for what curate did not write so."""
    points, sound = (io.BytesIO(segment.read(kind)) for kind in KINDS)
    try:
        with wave.open(sound) as stream:
            pcm = np.frombuffer(stream.readframes(stream.getnframes()), "<i2")
        return np.load(points, allow_pickle=False), pcm.astype(np.float32) / 32768
    except (ValueError, EOFError, wave.Error) as error:
        why = f"cannot be read ({first_line(error)})"
        raise EnvironmentError(f"{segment.shard}: {segment.key} {why}; curate the footage again") from None


def train_critic(folder: Path, count: int, steps: int, batch: int = 40, shards: Path | None = None) -> SyncCritic:
    """Train on `count` spoken pieces and, where `shards` of curated footage are named, as many filmed ones a step;
    resumable state in `folder`."""
    filmed = filmed_pieces(shards) if shards else None
    pool_file = folder / f"pool.{CRITIC_FORM}.{count}.npz"
    if not pool_file.exists():
        write_pool(pool_file, count)
    with np.load(pool_file) as pool:
        spoken = pool["mels"], pool["mouths"].astype(np.float32)
    torch.manual_seed(0)
    critic = SyncCritic()

    def draw(step: int) -> tuple[Drawn, np.random.Generator]:
        rng = np.random.default_rng([step, 11])
        return draw_pieces(spoken, filmed, batch, rng), rng

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, float]]:
        drawn, rng = draw(step)
        said, sounds = critic(drawn.lips, drawn.mels)
        return lag_loss(said, sounds, rng)

    plan = Plan(steps=steps, learning_rate=2e-3, warmup=100, ema=0.995)
    digest = hashlib.sha256(" ".join(filmed.names).encode()).hexdigest() if filmed else "none"
    data = f"{CRITIC_FORM}: {count} pieces, filmed: {digest}"
    fit(critic, loss_of_step, plan, folder, lambda step: draw(step)[0].names, data=data)
    return critic.eval()


@dataclass(frozen=True)
class Drawn:
    """A step's pieces, roughened: lips (B, T, 4), mels (B, 4 T, 40), and what each is called."""

    lips: Tensor
    mels: Tensor
    names: list[str]


def draw_pieces(
    spoken: tuple[np.ndarray, np.ndarray],
    filmed: Filmed | None,
    batch: int,
    rng: np.random.Generator,
) -> Drawn:
    """`batch` pieces of a pool's mels and mouths, half of them filmed ones where there are any."""
    mels, mouths = spoken
    rows = rng.choice(len(mels), batch, replace=False)
    names = [f"piece {row}" for row in rows]
    lips = np.stack([seen_lips(mouths[row], rng) for row in rows])
    crowd = rng.permutation(rows)
    heard = np.stack([heard_mel(mels[row], mels[other], rng) for row, other in zip(rows, crowd, strict=True)])
    if filmed:
        half = batch // 2
        chosen = rng.integers(0, len(filmed.mels), half)
        names[:half] = [filmed.names[i] for i in chosen]
        heard[:half] = [heard_mel(filmed.mels[i], filmed.mels[i], rng) for i in chosen]
        lips[:half] = filmed.lips[chosen] * rng.uniform(0.7, 1.3, (half, 1, 1))
    return Drawn(torch.from_numpy(lips), torch.from_numpy(heard), names)


def lag_loss(lips_BTD: Tensor, sound_BTD: Tensor, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the true piece and lag among 31 lags of every piece of the batch, over 1 to 2.5 s; and whether
    each pair belongs together at all, so that evidence means the same from clip to clip."""
    longest = lips_BTD.shape[1] - 2 * (MARGIN + REACH)
    length = int(rng.integers(25, longest + 1))
    first = MARGIN + REACH + int(rng.integers(0, longest - length + 1))
    own = lips_BTD[:, first : first + length]
    heard = sound_BTD[:, first - REACH : first + length + REACH]
    lags = [torch.einsum("btd,ctd->bc", own, heard[:, lag : lag + length]) for lag in range(2 * REACH + 1)]
    evidence = torch.stack(lags, 2) / length / own.shape[2] ** 0.5  # (B lips, B sounds, 31 lags)
    rows = torch.arange(len(own))
    loss = F.cross_entropy(evidence.flatten(1), rows * (2 * REACH + 1) + REACH)
    best = evidence.logsumexp(2) - BELONGING
    together = F.binary_cross_entropy_with_logits(best, torch.eye(len(own)), pos_weight=torch.tensor(len(own) - 1.0))
    near = (evidence[rows, rows].argmax(1) - REACH).abs().le(1).float().mean().item()
    return loss + together, {"within_a_frame": near, "together": together.item()}


def seen_lips(mouth_T3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What landmarks make of (open, width, teeth): lip_shape's channels (T, 4) float32 of some face and camera.

    Faces differ in how far they open, landmarks are smoothed, jitter, and drift with the head.
    """
    opening, width, _ = _unpunctual(mouth_T3, rng).T
    opening = opening ** rng.uniform(0.6, 1.4) * _slow(len(opening), rng, 0.35, floor=0.3)
    width = width * _slow(len(width), rng, 0.35, floor=0.1)
    chin = opening * rng.uniform(0.5, 1.0) + gaussian_filter1d(opening, 2) * rng.uniform(0, 0.5)
    channels = np.stack(
        [
            opening * 0.16,
            opening * rng.uniform(0.10, 0.18) - width * rng.uniform(0.0, 0.03),
            width * rng.uniform(0.01, 0.07) - opening * rng.uniform(-0.02, 0.05),
            chin * rng.uniform(0.05, 0.16),
        ],
        1,
    )
    channels = gaussian_filter1d(channels, rng.uniform(0.2, 1.0), axis=0) * rng.uniform(0.3, 1.3)
    drift = gaussian_filter1d(rng.standard_normal(channels.shape), rng.uniform(6, 20), axis=0, mode="wrap")
    channels += drift / drift.std() * rng.uniform(0, 0.02, LIP_CHANNELS)
    channels += rng.standard_normal(channels.shape) * rng.uniform(0, 0.008, LIP_CHANNELS)
    return channels.astype(np.float32)


def _unpunctual(mouth_T3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same mouth, now a little early and now a little late: by up to a frame or so, never on average."""
    times = np.arange(len(mouth_T3))
    wander = gaussian_filter1d(rng.standard_normal(len(times)), 5, mode="wrap")
    late = wander / max(float(wander.std()), 1e-6) * rng.uniform(0, 1.0)
    return np.stack([np.interp(times + late - late.mean(), times, column) for column in mouth_T3.T], 1)


def _slow(length: int, rng: np.random.Generator, depth: float, floor: float) -> np.ndarray:
    """A factor that wanders slowly about 1: nobody articulates evenly."""
    wander = gaussian_filter1d(rng.standard_normal(length), 12, mode="wrap")
    return np.maximum(1 + depth * wander / max(float(wander.std()), 1e-6), floor)


def heard_mel(mel_nM: np.ndarray, other_nM: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same speech in another room, by another microphone, in noise, with somebody else in the distance."""
    mel_nM, other_nM = mel_nM.astype(np.float32), other_nM.astype(np.float32)
    if rng.random() < 0.25:
        mel_nM = np.logaddexp(mel_nM, other_nM - rng.uniform(2.5, 6))
    colour = (
        gaussian_filter1d(rng.standard_normal(MEL_BANDS) * 6, 5) + rng.uniform(-0.15, 0.15) * np.arange(MEL_BANDS) / 2
    )
    mel = mel_nM + colour
    if rng.random() < 0.5:  # a room rings on
        mel = _reverberant(mel, rng.uniform(0.5, 0.85))
    noise = gaussian_filter1d(rng.standard_normal(MEL_BANDS) * 3, 4) + mel.max() - rng.uniform(3, 11)
    noisy = np.logaddexp(mel, noise + rng.standard_normal(mel.shape) * 0.5)
    if rng.random() < 0.3:  # a telephone
        noisy[:, int(rng.integers(24, 38)) :] = noisy.min()
    warp = np.clip(np.arange(MEL_BANDS) * rng.uniform(0.85, 1.15), 0, MEL_BANDS - 1)  # longer and shorter throats
    low = warp.astype(int)
    high = np.minimum(low + 1, MEL_BANDS - 1)
    return (noisy[:, low] * (1 - warp + low) + noisy[:, high] * (warp - low)).astype(np.float32)


def _reverberant(mel_nM: np.ndarray, decay: float) -> np.ndarray:
    """Energy that decays by `decay` a column of 10 ms, mixed in."""
    from scipy.signal import lfilter

    energy = np.exp(mel_nM)
    tail = lfilter([1 - decay], [1, -decay], energy, axis=0)
    return np.asarray(np.log(0.5 * energy + 0.5 * tail + 1e-6))
