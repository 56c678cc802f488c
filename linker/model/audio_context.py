"""From speech to audio tokens: what one frame hears of its neighbours (section 3.1, Audio Encoder)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_frames(states_BSC: Tensor, frames: int) -> Tensor:
    """Speech features at the encoder's own rate (B, S, C) -> one a video frame (B, F, C), by linear interpolation."""
    return F.interpolate(states_BSC.float().transpose(1, 2), size=frames, mode="linear").transpose(1, 2)


def pad_context(speech_BFC: Tensor, context: int) -> Tensor:
    """(B, F, C) -> (B, F + l - 1, C): the ends repeat their frame, so that every frame has a whole context."""
    reach = context // 2
    first, last = speech_BFC[:, :1].expand(-1, reach, -1), speech_BFC[:, -1:].expand(-1, reach, -1)
    return torch.cat([first, speech_BFC, last], dim=1)


class AudioProjector(nn.Module):
    """MLP from the speech encoder's width to the audio tokens', and each token's place in the context."""

    def __init__(self, speech_dim: int, audio_dim: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.norm = nn.LayerNorm(speech_dim)
        self.linear_1 = nn.Linear(speech_dim, 2 * audio_dim)
        self.linear_2 = nn.Linear(2 * audio_dim, audio_dim)
        self.position = nn.Parameter(torch.randn(context, audio_dim) * 0.5)  # attention alone cannot tell before from after

    def forward(self, speech_BFC: Tensor) -> Tensor:
        """Padded speech (B, F + l - 1, speech_dim) -> audio blocks (B, F, l, audio_dim); see `pad_context`."""
        tokens = self.linear_2(F.silu(self.linear_1(self.norm(speech_BFC))))
        return tokens.unfold(1, self.context, 1).transpose(2, 3) + self.position
