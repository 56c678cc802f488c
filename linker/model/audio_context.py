"""From speech to audio tokens: what one frame hears of its neighbours (section 3.1, Audio Encoder)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from linker.config import SAMPLE_RATE_HZ

STATES_HZ = 50  # of every Wav2Vec2
REACH_S = 24.0  # how far a state hears on each side, through all layers together; each layer its share of it
CHUNK_S = 30.0  # of audio whose states are computed at once, beside REACH_S on both sides
PIECE_S = 5.0  # of audio whose first convolutions, the widest tensors of all, are computed at once
LEAST_S = 0.1  # of audio; shorter is padded with silence


class Samples(Protocol):
    """A mono recording at 16 kHz: an array, or a file that is read as it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice) -> np.ndarray: ...


def normalise_samples(samples_Bn: Tensor) -> Tensor:
    """Zero mean and unit deviation a row, as XLS-R's feature extractor does."""
    centred = samples_Bn - samples_Bn.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()


@dataclass(frozen=True)
class Normalised:
    """A recording as `normalise_samples` makes it, read in pieces; silence beyond its end."""

    samples: Samples
    mean: float
    deviation: float

    @staticmethod
    def of(samples: Samples) -> Normalised:
        """Measure the whole recording, a chunk at a time."""
        step, total, squares = round(CHUNK_S * SAMPLE_RATE_HZ), 0.0, 0.0
        for start in range(0, len(samples), step):
            total += float(np.asarray(samples[start : start + step], np.float64).sum())
        mean = total / len(samples)
        for start in range(0, len(samples), step):
            squares += float(np.square(np.asarray(samples[start : start + step], np.float64) - mean).sum())
        return Normalised(samples, mean, (squares / len(samples) + 1e-7) ** 0.5)

    def __len__(self) -> int:
        return max(len(self.samples), round(LEAST_S * SAMPLE_RATE_HZ))

    def part(self, start: int, stop: int) -> Tensor:
        """(1, stop - start) float32."""
        found = (np.asarray(self.samples[start:stop], np.float64) - self.mean) / self.deviation
        return F.pad(torch.from_numpy(found.astype(np.float32)), (0, stop - start - len(found)))[None]


@dataclass(frozen=True)
class Geometry:
    """Which samples a state of an encoder is made of, and how far it hears: `hop` and `field` samples, `reach` states a
    layer, `context` states in all."""

    hop: int
    field: int
    reach: int
    context: int

    @staticmethod
    def of(config: Any) -> Geometry:
        hop, field = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            field, hop = field + (kernel - 1) * hop, hop * stride
        reach = round(REACH_S * STATES_HZ / config.num_hidden_layers)
        return Geometry(hop, field, reach, reach * config.num_hidden_layers + config.num_conv_pos_embeddings // 2)

    def states(self, samples: int) -> int:
        """How many states so many samples give."""
        return max((samples - self.field) // self.hop + 1, 0)


def attend_near(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> tuple[Tensor, None]:
    """Attention by transformers' interface whose states see `reach` neighbours on each side, a block of queries at a
    time: no attention map is kept, and the cost is linear in the length. (B, heads, S, D) -> (B, S, heads, D)."""
    reach, length = Geometry.of(module.config).reach, query.shape[2]
    if length <= reach + 1:
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2), None
    parts = []
    for start in range(0, length, reach):
        stop, low, high = min(start + reach, length), max(start - reach, 0), min(start + 2 * reach, length)
        apart = torch.arange(start, stop)[:, None] - torch.arange(low, high)
        near = (apart.abs() <= reach).to(query.device)
        heard = (key[:, :, low:high], value[:, :, low:high])
        parts.append(F.scaled_dot_product_attention(query[:, :, start:stop], *heard, attn_mask=near))
    return torch.cat(parts, dim=2).transpose(1, 2), None


NEAR = "near"  # the name of `attend_near` among transformers' attentions
AttentionInterface.register(NEAR, attend_near)


def embed_samples(encoder: Any, samples_Bn: Tensor) -> Tensor:
    """The convolutions of a Wav2Vec2: (B, n) -> (B, S, C), before it knows places and neighbours."""
    return encoder.feature_projection(encoder.feature_extractor(samples_Bn).transpose(1, 2))[0]


def contextual_states(encoder: Any, embedded_BSC: Tensor) -> Tensor:
    """Mean over the outputs of all transformer layers (section 3.1), kept as a running sum: (B, S, C) -> the same."""
    if encoder.config._attn_implementation != NEAR:
        encoder.set_attn_implementation(NEAR)
    net = encoder.encoder
    hidden = net.dropout(embedded_BSC + net.pos_conv_embed(embedded_BSC))
    total = torch.zeros_like(hidden)
    for layer in net.layers:
        hidden = layer(hidden)
        total = total + hidden
    return total / len(net.layers)


def speech_states(encoder: nn.Module, samples_Bn: Tensor) -> Tensor:
    """States of normalised recordings at 50 Hz, all at once: (B, n) -> (B, S, C)."""
    return contextual_states(encoder, embed_samples(encoder, samples_Bn))


def speech_chunks(encoder: Any, samples: Samples) -> Iterator[Tensor]:
    """The same states of one recording of any length in bounded memory: (1, s, C) after (1, s, C).

    A state depends on no more than `Geometry.context` neighbours, and every chunk is given that many: the chunks make
    exactly, but for rounding, the states of the whole.
    """
    heard, geometry, device = Normalised.of(samples), Geometry.of(encoder.config), next(encoder.parameters()).device
    count, chunk = geometry.states(len(heard)), round(CHUNK_S * STATES_HZ)
    for start in range(0, count, chunk):
        low, high = max(start - geometry.context, 0), min(start + chunk + geometry.context, count)
        pieces = [
            embed_samples(encoder, heard.part(a * geometry.hop, (b - 1) * geometry.hop + geometry.field).to(device))
            for a, b in spans(low, high, round(PIECE_S * STATES_HZ))
        ]
        states = contextual_states(encoder, torch.cat(pieces, dim=1))
        yield states[:, start - low : start - low + chunk]


def spans(low: int, high: int, step: int) -> Iterator[tuple[int, int]]:
    """[low, high) in pieces of `step`."""
    for start in range(low, high, step):
        yield start, min(start + step, high)


def encode_speech(encoder: nn.Module, samples: Samples, frames: int) -> Tensor:
    """Features of a whole recording at the frame rate, (1, frames, C)."""
    return to_frames(torch.cat(list(speech_chunks(encoder, samples)), dim=1), frames)


def to_frames(states_BSC: Tensor, frames: int) -> Tensor:
    """Speech features at the encoder's own rate (B, S, C) -> one a video frame (B, F, C), by linear interpolation."""
    return F.interpolate(states_BSC.float().transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


@dataclass(frozen=True)
class SpeechTrack:
    """A recording's states in a file of raw float32 (S, C), read as windows ask for them: length costs no memory."""

    path: Path
    width: int
    frames: int

    def window(self, first: int, count: int) -> Tensor:
        """What `to_frames` gives for frames `first` to `first + count`, (1, count, C); the ends repeat their frame."""
        states = self.path.stat().st_size // (4 * self.width)
        wanted = np.arange(first, first + count).clip(0, self.frames - 1)
        place = ((wanted + 0.5) * (states / self.frames) - 0.5).clip(0, states - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, states - 1)
        found = np.fromfile(
            self.path, np.float32, (high.max() + 1 - low.min()) * self.width, offset=4 * self.width * int(low.min())
        ).reshape(-1, self.width)
        share = (place - low).astype(np.float32)[:, None]
        mixed = (1 - share) * found[low - low.min()] + share * found[high - low.min()]
        return torch.from_numpy(mixed)[None]


def pad_context(speech_BFC: Tensor, context: int) -> Tensor:
    """(B, F, C) -> (B, F + l - 1, C): the ends repeat their frame, so that every frame has a whole context."""
    reach = context // 2
    first, last = speech_BFC[:, :1].expand(-1, reach, -1), speech_BFC[:, -1:].expand(-1, reach, -1)
    return torch.cat([first, speech_BFC, last], dim=1)


class AudioProjector(nn.Module):
    """MLP from the speech encoder's width to the audio tokens', told each token's place in the context.

    Attention cannot tell before from after, and starts by averaging its context. So each place has its own gain and
    offset: then even the average differs with the order of what is heard.
    """

    def __init__(self, speech_dim: int, audio_dim: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.norm = nn.LayerNorm(speech_dim)
        self.linear_1 = nn.Linear(speech_dim, 2 * audio_dim)
        self.linear_2 = nn.Linear(2 * audio_dim, audio_dim)
        self.norm_out = nn.LayerNorm(audio_dim)
        self.gain = nn.Parameter(torch.randn(context, audio_dim))
        self.position = nn.Parameter(torch.randn(context, audio_dim) * 0.5)

    def forward(self, speech_BFC: Tensor) -> Tensor:
        """Padded speech (B, F + l - 1, speech_dim) -> audio blocks (B, F, l, audio_dim); see `pad_context`."""
        tokens = self.norm_out(self.linear_2(F.silu(self.linear_1(self.norm(speech_BFC)))))
        return tokens.unfold(1, self.context, 1).transpose(2, 3) * self.gain + self.position
