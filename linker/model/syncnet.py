"""SyncNet as published (Chung and Zisserman, "Out of time: automated lip sync in the wild", 2016), for its own weights.

Layers and names are those of the public checkpoint `syncnet_v2.model`; features and distances follow the authors'
evaluation: Sync-D is the least mean distance over 31 lags, Sync-C the median less the least, the offset the lag of it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.fft import dct
from torch import Tensor, nn

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.errors import EnvironmentError

FACE_PX = 224
WINDOW = 5  # frames of lips; 20 columns of MFCC
MFCC_A_FRAME = 4
REACH = 15  # lags to either side
BATCH = 8  # windows at once
NOT_WEIGHTS = (
    *(OSError, RuntimeError, LookupError, AttributeError, TypeError, ValueError, EOFError),
    *(SafetensorError, pickle.UnpicklingError),
)
_STEP, _FRAME, _FFT, _FILTERS, _CEPSTRA, _LIFTER = 160, 400, 512, 26, 13, 22


@dataclass(frozen=True)
class Score:
    """offset in frames, positive = the sound is early, as the authors print it; sync_c (LSE-C), sync_d (LSE-D)."""

    offset: int
    sync_c: float
    sync_d: float


class SyncNet(nn.Module):
    """Lips (B, 3, 5, 224, 224) BGR 0..255 and MFCC (B, 1, 13, 20), each to (B, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64, 3, 1), nn.MaxPool2d((1, 1), (1, 1)), *_conv2d(64, 192, 3, 1), nn.MaxPool2d((3, 3), (1, 2)),
            *_conv2d(192, 384, 3, 1), *_conv2d(384, 256, 3, 1), *_conv2d(256, 256, 3, 1), nn.MaxPool2d((3, 3), (2, 2)),
            *_conv2d(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), (1, 2, 2), 0), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

    def lips(self, frames_B: Tensor) -> Tensor:
        """Embeddings of windows of lips."""
        return self.netfclip(self.netcnnlip(frames_B).flatten(1))

    def sound(self, mfcc_B: Tensor) -> Tensor:
        """Embeddings of windows of sound."""
        return self.netfcaud(self.netcnnaud(mfcc_B).flatten(1))


def _conv2d(before: int, after: int, kernel: int | tuple[int, int], padding: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU()]


def _conv3d(before: int, after: int, kernel: tuple[int, int, int], stride: object, padding: object) -> list[nn.Module]:
    conv = nn.Conv3d(before, after, kernel, stride, padding)
    return [conv, nn.BatchNorm3d(after), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def load_syncnet(path: Path) -> SyncNet:
    """Weights from the authors' file or a .safetensors one. Raises EnvironmentError naming the file."""
    net = SyncNet()
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        net.load_state_dict(state)
    except NOT_WEIGHTS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise EnvironmentError(
            f"{path}: does not hold SyncNet's weights ({reason}); fetch syncnet_v2.model, or clear curate.syncnet"
        ) from None
    return net.eval()


def mfcc(samples: np.ndarray) -> np.ndarray:
    """float32 (n,) in -1..1 at 16 kHz to (13, columns), a column every 10 ms, as python_speech_features does it with
    its defaults on 16-bit numbers: pre-emphasis, no window function, 26 mel filters, lifter, energy in place of c0."""
    pcm = np.rint(samples.astype(np.float64) * 32767)
    emphasised = np.append(pcm[:1], pcm[1:] - 0.97 * pcm[:-1])
    count = 1 + max(0, -(-(len(pcm) - _FRAME) // _STEP))
    padded = np.pad(emphasised, (0, max(0, (count - 1) * _STEP + _FRAME - len(pcm))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_STEP][:count]
    power = np.abs(np.fft.rfft(frames, _FFT)) ** 2 / _FFT
    tiny = np.finfo(float).eps
    energy = np.maximum(power.sum(1), tiny)
    cepstra = dct(np.log(np.maximum(power @ _filters().T, tiny)), 2, axis=1, norm="ortho")[:, :_CEPSTRA]
    cepstra *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_CEPSTRA) / _LIFTER)
    cepstra[:, 0] = np.log(energy)
    return np.asarray(cepstra.T, np.float32)


def _filters() -> np.ndarray:
    """(26, 257) triangles between equally spaced mels, their corners at whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700), _FILTERS + 2)
    bins = np.floor((_FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE_HZ).astype(int)
    filters = np.zeros((_FILTERS, _FFT // 2 + 1))
    for i, (low, middle, high) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        filters[i, low:middle] = (np.arange(low, middle) - low) / max(middle - low, 1)
        filters[i, middle:high] = (high - np.arange(middle, high)) / max(high - middle, 1)
    return filters


def embed(net: SyncNet, faces: Iterable[np.ndarray], samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T faces uint8 (224, 224, 3) RGB and their sound to lip and sound embeddings (T - 5, 1024), float32."""
    lips = embed_lips(net, faces)
    count = max(0, min(len(lips) - 1, len(samples) * FPS // SAMPLE_RATE_HZ - WINDOW))
    return lips[:count], embed_sound(net, samples, count)


@torch.no_grad()
def embed_lips(net: SyncNet, faces: Iterable[np.ndarray]) -> np.ndarray:
    """(T - 4, 1024) float32 of T faces uint8 (224, 224, 3) RGB; a few of them are held at a time."""
    found, held = [torch.zeros(0, 1024)], list[np.ndarray]()
    stream = iter(faces)
    while more := list(islice(stream, BATCH)):
        held += more
        if len(held) >= WINDOW:
            windows = np.lib.stride_tricks.sliding_window_view(np.stack(held)[..., ::-1], WINDOW, 0)
            found.append(net.lips(torch.from_numpy(windows.transpose(0, 3, 4, 1, 2).astype(np.float32))))
            held = held[1 - WINDOW :]
    return torch.cat(found).numpy()


@torch.no_grad()
def embed_sound(net: SyncNet, samples: np.ndarray, count: int) -> np.ndarray:
    """(count, 1024) float32 of the first windows of float32 (n,) at 16 kHz."""
    cepstra, found = mfcc(samples), [torch.zeros(0, 1024)]
    for first in range(0, count, BATCH):
        starts = range(first, min(first + BATCH, count))
        heard = np.stack([cepstra[:, MFCC_A_FRAME * i : MFCC_A_FRAME * (i + WINDOW)] for i in starts])[:, None]
        found.append(net.sound(torch.from_numpy(heard)))
    return torch.cat(found).numpy()


def score(lips: np.ndarray, sounds: np.ndarray) -> Score:
    """Offset, Sync-C and Sync-D of embeddings (T, 1024): sound is padded with zeros at both ends, as published."""
    padded = np.pad(sounds, ((REACH, REACH), (0, 0)))
    lags = range(2 * REACH + 1)
    distances = np.array([np.linalg.norm(lips - padded[lag : lag + len(lips)] + 1e-6, axis=1).mean() for lag in lags])
    best = int(distances.argmin())
    return Score(REACH - best, float(np.median(distances) - distances[best]), float(distances[best]))
