"""The temporal module (AnimateDiff's, by its diffusers names): attention over time at every place of the picture.

The paper adds preceding frames: four clean frames of the previous window, seen by the twelve new ones as extra keys and
values. Their features come from the reference net and do not depend on the noise, so they are computed once a window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from linker.model.layers import Attention, FeedForward, sinusoids


class TemporalBlock(nn.Module):
    """Two self-attentions over time and a feed-forward; queries are the new frames only.

    Shapes: P = places (batch x height x width), M = preceding frames, F = new frames, C = channels.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, new_PFC: Tensor, preceding_PMC: Tensor) -> Tensor:
        total = preceding_PMC.shape[1] + new_PFC.shape[1]
        when = frame_positions(total, new_PFC.shape[2], new_PFC)
        for norm, attention in ((self.norm1, self.attn1), (self.norm2, self.attn2)):
            all_frames = norm(torch.cat([preceding_PMC, new_PFC], dim=1)) + when
            queries = all_frames[:, preceding_PMC.shape[1] :]
            new_PFC = new_PFC + attention(queries, attention.key_value(all_frames))
        return new_PFC + self.ff(self.norm3(new_PFC))


class TemporalModule(nn.Module):
    """(B F, C, H, W) and preceding features (B M, C, H, W) -> (B F, C, H, W); starts as the identity."""

    index: int  # its place in the net's forward order

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, heads)])
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x_NCHW: Tensor, preceding_NCHW: Tensor, batch: int) -> Tensor:
        height, width = x_NCHW.shape[-2:]
        new = self.proj_in(over_time(self.norm(x_NCHW), batch))
        preceding = self.proj_in(over_time(self.norm(preceding_NCHW), batch))
        for block in self.transformer_blocks:
            new = block(new, preceding)
        change = self.proj_out(new).reshape(batch, height, width, -1, x_NCHW.shape[1])
        return x_NCHW + change.permute(0, 3, 4, 1, 2).reshape(x_NCHW.shape)


def frame_positions(frames: int, width: int, like: Tensor) -> Tensor:
    """AnimateDiff's sinusoids of the frame number, (frames, C): sines and cosines take turns."""
    sine, cosine = sinusoids(torch.arange(frames, device=like.device), width).chunk(2, dim=-1)
    return torch.stack([sine, cosine], dim=-1).flatten(-2).to(like.dtype)


def over_time(x_NCHW: Tensor, batch: int) -> Tensor:
    """(B F, C, H, W) -> (B H W, F, C): one sequence over time a place."""
    x = x_NCHW.unflatten(0, (batch, -1))
    return x.permute(0, 3, 4, 1, 2).flatten(0, 2)
