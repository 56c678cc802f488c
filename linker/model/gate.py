"""The paper's page: reference attention, audio attention and the region gate (Eqs. 1-5) in one transformer block.

Shape suffixes: N = batch x frames, B = batch, T = spatial tokens, S = reference tokens, L = audio tokens a frame,
C = channels, R = regions in the order head, mouth, eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linker.config import REGIONS
from linker.model.layers import Attention, FeedForward, KeyValue, sinusoids

LOOK_UP_GAIN = 4.0  # of the first queries and keys of positioned reference attention, against torch's default


@dataclass(frozen=True)
class LayerConditions:
    """What one transformer block is told. None means: this condition is absent (the unconditional half skips it).

    reference: keys and values of the portrait, each (B, heads, S, C / heads), shared by the B's frames
    audio:     keys and values of each frame's speech, each (N, heads, L, C / heads)
    masks:     region masks at this resolution, (B, T, R), 0..1
    scales:    frequency of each region, (B, R)
    keep:      (B, 2) of 0 or 1: which samples keep reference and audio (condition dropout in training); None = all
    """

    reference: KeyValue | None
    audio: KeyValue | None
    masks: Tensor
    scales: Tensor
    keep: Tensor | None = None


class AdaLN(nn.Module):
    """Eq. 3's normalisation: LayerNorm without affine, shifted and scaled by the timestep; starts as the plain norm."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.linear = nn.Linear(time_width, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x_NTC: Tensor, time_NE: Tensor) -> Tensor:
        shift, scale = self.linear(F.silu(time_NE))[:, None].chunk(2, dim=-1)
        return self.norm(x_NTC) * (1 + scale) + shift


class RegionGate(nn.Module):
    """Eqs. 2 and 3: one number a token and region, from what is heard there and from the timestep."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.ada_norm = AdaLN(width, time_width)
        self.offset = nn.Linear(width, len(REGIONS))
        self.alpha = nn.Parameter(torch.full((len(REGIONS),), 0.1))

    def forward(self, audio_NTC: Tensor, time_NE: Tensor, masks_NTR: Tensor) -> Tensor:
        states = self.ada_norm(self.linear(audio_NTC), time_NE)  # Eq. 3
        return masks_NTR + torch.tanh(self.offset(states)) * F.silu(self.alpha)  # Eq. 2


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward; at the denoising net also Eqs. 1, 4 and 5 between them.

    Names are Stable Diffusion's; its text attention (norm2, attn2) becomes the audio attention, and the reference net
    has none. Reference attention (norm_ref, attn_ref) and the gate are new.
    """

    def __init__(self, width: int, heads: int, time_width: int, audio_width: int | None, positions: bool) -> None:
        super().__init__()
        self.positions = positions
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        if audio_width is not None:
            self.norm_ref = nn.LayerNorm(width)
            self.attn_ref = Attention(width, heads)
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, heads, audio_width)
            self.gate = RegionGate(width, time_width)
            nn.init.zeros_(self.attn2.to_out[0].weight)
            nn.init.zeros_(self.attn2.to_out[0].bias)
            if positions:  # equal, sharp projections make the attention start as a look-up of the same place
                with torch.no_grad():
                    self.attn_ref.to_q.weight.mul_(LOOK_UP_GAIN)
                    self.attn_ref.to_k.weight.copy_(self.attn_ref.to_q.weight)

    def reference_key_value(self, features_BSC: Tensor) -> KeyValue:
        """Keys and values of Eq. 4, once a portrait."""
        return self.attn_ref.key_value(features_BSC, self.place(features_BSC))

    def place(self, x_NTC: Tensor) -> Tensor:
        """Add where each token lies (a square of T tokens); the identity without `positions`."""
        return x_NTC + grid_sinusoids(x_NTC.shape[1], x_NTC.shape[2], x_NTC) if self.positions else x_NTC

    def forward(self, h_NTC: Tensor, time_NE: Tensor, conditions: LayerConditions | None = None) -> Tensor:
        return self.told(self.look(h_NTC)[0], time_NE, conditions)

    def look(self, h_NTC: Tensor) -> tuple[Tensor, Tensor]:
        """The block up to its conditions: self-attention, and the tokens as it sees them, which a reference net hands
        over."""
        tokens_NTC = self.norm1(h_NTC)
        return h_NTC + self.attn1(tokens_NTC), tokens_NTC

    def told(self, h_NTC: Tensor, time_NE: Tensor, conditions: LayerConditions | None) -> Tensor:
        """The rest of the block: Eqs. 4, 5, 3, 2 and 1 as far as there are conditions, and the feed-forward."""
        if conditions is not None and conditions.reference is not None:
            h_NTC = self.attend_reference(h_NTC, conditions)
        if conditions is not None and conditions.audio is not None:
            h_NTC = self.attend_audio(h_NTC, time_NE, conditions)
        return h_NTC + self.ff(self.norm3(h_NTC))

    def attend_reference(self, h_NTC: Tensor, conditions: LayerConditions) -> Tensor:
        """Eq. 4. The frames of a sample share its keys, so they attend as one long sequence of queries."""
        assert conditions.reference is not None
        batch = conditions.reference[0].shape[0]
        query = self.place(self.norm_ref(h_NTC)).reshape(batch, -1, h_NTC.shape[-1])
        seen_NTC = self.attn_ref(query, conditions.reference).view_as(h_NTC)
        return h_NTC + kept(seen_NTC, conditions.keep, 0)  # Eq. 4

    def attend_audio(self, h_ref_NTC: Tensor, time_NE: Tensor, conditions: LayerConditions) -> Tensor:
        """Eqs. 5, 3, 2 and 1."""
        frames = h_ref_NTC.shape[0] // conditions.masks.shape[0]
        masks_NTR = conditions.masks.repeat_interleave(frames, dim=0)
        scales_N1R = conditions.scales.repeat_interleave(frames, dim=0)[:, None]
        h_audio_NTC = self.attn2(self.norm2(h_ref_NTC), conditions.audio)  # Eq. 5
        gates_NTR = self.gate(h_audio_NTC, time_NE, masks_NTR)  # Eqs. 2 and 3
        change_NTC = (scales_N1R * gates_NTR).sum(-1, keepdim=True) * h_audio_NTC
        return h_ref_NTC + kept(change_NTC, conditions.keep, 1)  # Eq. 1


def kept(change_NTC: Tensor, keep_B2: Tensor | None, condition: int) -> Tensor:
    """`change` where the sample keeps the condition, exactly zero elsewhere."""
    if keep_B2 is None:
        return change_NTC
    frames = change_NTC.shape[0] // keep_B2.shape[0]
    return change_NTC * keep_B2[:, condition].repeat_interleave(frames)[:, None, None].to(change_NTC.dtype)


def grid_sinusoids(tokens: int, width: int, like: Tensor) -> Tensor:
    """2-D sinusoids of a square of `tokens`, (T, C), typed and placed as `like`; half rows, half columns."""
    side = round(tokens**0.5)
    steps = torch.arange(side, device=like.device) * (64.0 / side)  # a unit is 1/64 of the picture at every resolution
    wave = sinusoids(steps, width // 2)
    rows, columns = wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(tokens, -1).to(like.dtype)
