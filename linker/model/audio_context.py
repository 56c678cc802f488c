"""From speech to audio tokens: what one frame hears of its neighbours (section 3.1, Audio Encoder)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linker.config import SAMPLE_RATE_HZ

CHUNK_S, CONTEXT_S = 30, 2  # of audio encoded at once, and of its neighbours, seconds


def normalise_samples(samples_Bn: Tensor) -> Tensor:
    """Zero mean and unit deviation a row, as XLS-R's feature extractor does."""
    centred = samples_Bn - samples_Bn.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt()


def speech_states(encoder: nn.Module, samples_Bn: Tensor) -> Tensor:
    """Mean over the outputs of all transformer layers of a Wav2Vec2 (section 3.1): (B, n) -> (B, S, C) at 50 Hz."""
    hidden = encoder(samples_Bn, output_hidden_states=True).hidden_states
    return torch.stack(hidden[1:]).mean(0)


def encode_speech(encoder: nn.Module, samples_n: Tensor, frames: int) -> Tensor:
    """Features of a whole recording at the frame rate, (1, frames, C). Long audio is encoded in chunks of CHUNK_S with
    CONTEXT_S of their neighbours on both sides, so memory stays bounded."""
    samples = normalise_samples(samples_n[None])
    chunk, context, hop = CHUNK_S * SAMPLE_RATE_HZ, CONTEXT_S * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ // 50
    parts = []
    for start in range(0, samples.shape[1], chunk):
        before = min(start, context)
        heard = speech_states(encoder, padded(samples[:, start - before : start + chunk + context]))
        last = start + chunk >= samples.shape[1]
        parts.append(heard[:, before // hop :] if last else heard[:, before // hop : (before + chunk) // hop])
    return to_frames(torch.cat(parts, dim=1), frames)


def padded(samples_Bn: Tensor) -> Tensor:
    """At least a tenth of a second, which is more than the encoder's first layers need."""
    return F.pad(samples_Bn, (0, max(SAMPLE_RATE_HZ // 10 - samples_Bn.shape[1], 0)))


def to_frames(states_BSC: Tensor, frames: int) -> Tensor:
    """Speech features at the encoder's own rate (B, S, C) -> one a video frame (B, F, C), by linear interpolation."""
    return F.interpolate(states_BSC.float().transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


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
