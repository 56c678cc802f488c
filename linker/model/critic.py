"""The sync critic: do these lips say this sound, and if not, how many frames apart are they?

Our own small relative of SyncNet. It reads the lips' geometry (landmarks, so drawn, painted and filmed faces look the
same to it) and a mel spectrogram. As SyncNet's, its answer is a curve over lags: the best lag is the offset, and how
far the best stands out from the median is the confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.errors import EnvironmentError

LIP_CHANNELS = 4  # of landmarks.lip_shape
MEL_BANDS = 40
MELS_A_FRAME = 4  # a mel column every 10 ms
REACH = 15  # lags of -15..15 frames, SyncNet's
MARGIN = 8  # frames at either end whose neighbourhood is not whole
MIN_FRAMES = 25  # of usable lips for an answer: a second
STILL = 0.004  # deviation of a mouth that does not move, in face heights
_HOP, _WINDOW = 160, 400


@dataclass(frozen=True)
class Sync:
    """`offset` in frames of 40 ms, positive = the sound comes late; `confidence` 0 = none, see below;
    `curve` (31,) evidence at lags -15..15 (mean dot product of the two embeddings); `distance` Sync-D, of SyncNet."""

    offset: int
    confidence: float
    curve: np.ndarray
    distance: float | None = None


class SyncCritic(nn.Module):
    """Two small convolutional nets; their embeddings agree where lips and sound belong together."""

    def __init__(self, width: int = 96, size: int = 48) -> None:
        super().__init__()
        self.lips = nn.Sequential(
            _Block(2 * LIP_CHANNELS, width, 5),
            _Block(width, width, 5),
            _Block(width, width, 5),
            nn.Conv1d(width, size, 1),
        )
        self.sound = nn.Sequential(
            _Block(MEL_BANDS, width, 5), _Block(width, width, 5, stride=2), _Block(width, width, 5, stride=2),
            _Block(width, width, 5), _Block(width, width, 3), nn.Conv1d(width, size, 1),
        )  # fmt: skip

    def forward(self, lips_BTC: Tensor, mel_BnM: Tensor) -> tuple[Tensor, Tensor]:
        """Lips (B, T, 4) and mel (B, 4 T, 40) to embeddings (B, T, D) each."""
        lips = self.lips(_moving(lips_BTC).mT).mT
        sound = self.sound(_levelled(mel_BnM).mT).mT
        return lips, sound


class _Block(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, stride, kernel // 2)
        self.norm = nn.GroupNorm(1, after)
        self.skips = before == after and stride == 1

    def forward(self, h_BCT: Tensor) -> Tensor:
        new = F.silu(_frame_norm(self.norm, self.conv(h_BCT)))
        return h_BCT + new if self.skips else new


def _frame_norm(norm: nn.GroupNorm, h_BCT: Tensor) -> Tensor:
    """Layer norm of each frame by itself: what lies far away in time changes nothing."""
    return F.layer_norm(h_BCT.mT, (h_BCT.shape[1],), norm.weight, norm.bias).mT


def _moving(lips_BTC: Tensor) -> Tensor:
    """(B, T, 8): the shape about its mean and its change, in deviations of the clip (at least STILL)."""
    centred = lips_BTC - lips_BTC.mean(1, keepdim=True)
    scaled = centred / centred.std(1, keepdim=True).clamp(min=STILL)
    change = F.pad(scaled[:, 2:] - scaled[:, :-2], (0, 0, 1, 1))
    return torch.cat([scaled, change], 2)


def _levelled(mel_BnM: Tensor) -> Tensor:
    """Without the room's and the microphone's colour: each band about its mean, all in deviations of the clip."""
    centred = mel_BnM - mel_BnM.mean(1, keepdim=True)
    return centred / centred.std((1, 2), keepdim=True).clamp(min=0.1)


@cache
def _filters() -> Tensor:
    bank = mel_filter_bank(_WINDOW // 2 + 1, MEL_BANDS, 60, 7600, SAMPLE_RATE_HZ, norm=None, mel_scale="htk")
    return torch.from_numpy(bank.astype(np.float32))


def log_mel(samples: Tensor, frames: int) -> Tensor:
    """float32 (n,) at 16 kHz to (4 * frames, 40) natural log energies; silence beyond the end of the sound."""
    wanted = frames * MELS_A_FRAME
    padded = F.pad(samples, (_WINDOW // 2, max(0, wanted * _HOP + _WINDOW - len(samples))))
    power = torch.stft(padded, _WINDOW, _HOP, window=torch.hann_window(_WINDOW), center=False, return_complex=True)
    return torch.log(power.abs().square().mT[:wanted] @ _filters() + 1e-5)


def lag_curve(lips_TD: Tensor, sound_TD: Tensor, weights_T: Tensor | None = None) -> Tensor:
    """(31,) mean evidence at lags -15..15: lips at t against sound at t + lag; unseen frames have weight 0."""
    length = min(len(lips_TD), len(sound_TD))
    weights = torch.ones(length) if weights_T is None else weights_T[:length].float()
    rows = []
    for lag in range(-REACH, REACH + 1):
        first, last = max(MARGIN, -lag + MARGIN), min(length, length - lag) - MARGIN
        agree = (lips_TD[first:last] * sound_TD[first + lag : last + lag]).sum(1) * weights[first:last]
        rows.append(agree.sum() / weights[first:last].sum().clamp(min=1))
    return torch.stack(rows) / lips_TD.shape[1] ** 0.5


@torch.no_grad()
def judge_sync(critic: SyncCritic, lips: np.ndarray, samples: np.ndarray) -> Sync | None:
    """Lips (T, 4), NaN where no face was seen, against float32 (n,) at 16 kHz; None for under a second of both."""
    seen = np.isfinite(lips).all(1)
    if seen.sum() < MIN_FRAMES + 2 * MARGIN or len(lips) < MIN_FRAMES + 2 * (MARGIN + REACH):
        return None
    filled = torch.from_numpy(_filled(lips, seen)).float()[None]
    mel = log_mel(torch.from_numpy(samples), len(lips))[None]
    own, heard = critic(filled, mel)
    curve = lag_curve(own[0], heard[0], torch.from_numpy(seen)).numpy()
    best = int(curve.argmax())
    return Sync(best - REACH, confidence(curve), curve)


def confidence(curve: np.ndarray) -> float:
    """How far the best lag stands out from the median, in units of how loudly the critic denies the worst lags: what it
    says of a face that hardly moves and of one that moves much becomes comparable."""
    return float((curve.max() - np.median(curve)) / (1 + abs(np.percentile(curve, 10))))


def _filled(lips: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Unseen frames between their neighbours, so that the nets read no NaN."""
    times = np.arange(len(lips))
    return np.stack([np.interp(times, times[seen], column[seen]) for column in lips.T], 1)


def save_critic(critic: SyncCritic, path: Path) -> None:
    """Write the weights (safetensors, half precision)."""
    save_file({name: value.half().contiguous() for name, value in critic.state_dict().items()}, path)


def load_critic(path: Path) -> SyncCritic:
    """Read the weights. Raises EnvironmentError naming the file when they are missing or another network's."""
    critic = SyncCritic()
    try:
        critic.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentError(f"{path}: is no sync critic ({reason}); `git checkout` it, or train one") from None
    return critic.eval()


def frames_of(samples: np.ndarray) -> int:
    """Whole video frames that a sound lasts."""
    return len(samples) * FPS // SAMPLE_RATE_HZ
