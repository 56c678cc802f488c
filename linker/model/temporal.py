"""The temporal module (AnimateDiff's, by its diffusers names): attention over time at every place of the picture.

The paper adds preceding frames: four clean frames of the previous window, seen by the twelve new ones as extra keys and
values. Their features come from the reference net and depend neither on the noise nor on the timestep, so their keys
and values are computed once a window (`remember`), whatever the number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from linker.model.layers import Attention, FeedForward, GroupNorm, KeyValue, sinusoids

Memory = list[KeyValue]  # of the preceding frames: a pair (P, heads, M, C / heads) each for a block's two attentions


class TemporalBlock(nn.Module):
    """Two self-attentions over time and a feed-forward; queries are the new frames only.

    Shapes: P = places (batch x height x width), M = preceding frames, F = new frames, C = channels.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def attentions(self) -> tuple[tuple[nn.LayerNorm, Attention], ...]:
        """Both self-attentions with their norms."""
        return (self.norm1, self.attn1), (self.norm2, self.attn2)

    def remember(self, preceding_PMC: Tensor) -> Memory:
        """Keys and values of the preceding frames, which come first in time."""
        when = frame_positions(0, preceding_PMC)
        return [attention.key_value(norm(preceding_PMC) + when) for norm, attention in self.attentions()]

    def forward(self, new_PFC: Tensor, memory: Memory) -> Tensor:
        when = frame_positions(memory[0][0].shape[2], new_PFC)
        for (norm, attention), (key, value) in zip(self.attentions(), memory, strict=True):
            states = norm(new_PFC) + when
            own_key, own_value = attention.key_value(states)
            seen = torch.cat([key, own_key], dim=2), torch.cat([value, own_value], dim=2)
            new_PFC = new_PFC + attention(states, seen)
        return new_PFC + self.ff(self.norm3(new_PFC))


class TemporalModule(nn.Module):
    """(B F, C, H, W) and the memory of its preceding frames -> (B F, C, H, W); starts as the identity."""

    index: int  # its place in the net's forward order

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(width, heads)])
        self.proj_out = nn.Linear(width, width)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def remember(self, preceding_NCHW: Tensor, batch: int) -> list[Memory]:
        """Preceding features (B M, C, H, W) -> what each block keeps of them."""
        preceding_PMC = self.proj_in(over_time(self.norm(preceding_NCHW), batch))
        return [block.remember(preceding_PMC) for block in self.transformer_blocks]

    def forward(self, x_NCHW: Tensor, memories: list[Memory], batch: int) -> Tensor:
        height, width = x_NCHW.shape[-2:]
        new = self.proj_in(over_time(self.norm(x_NCHW), batch))
        for block, memory in zip(self.transformer_blocks, memories, strict=True):
            new = block(new, memory)
        change = self.proj_out(new).reshape(batch, height, width, -1, x_NCHW.shape[1])
        return x_NCHW + change.permute(0, 3, 4, 1, 2).reshape(x_NCHW.shape)


def frame_positions(first: int, frames_PFC: Tensor) -> Tensor:
    """AnimateDiff's sinusoids of the frame number from `first` on, (F, C): sines and cosines take turns."""
    numbers = torch.arange(first, first + frames_PFC.shape[1], device=frames_PFC.device)
    sine, cosine = sinusoids(numbers, frames_PFC.shape[2]).chunk(2, dim=-1)
    return torch.stack([sine, cosine], dim=-1).flatten(-2).to(frames_PFC.dtype)


def over_time(x_NCHW: Tensor, batch: int) -> Tensor:
    """(B F, C, H, W) -> (B H W, F, C): one sequence over time a place. Laid out anew: of a view, a linear layer would
    make a product for every place, with its weights copied as often."""
    x = x_NCHW.unflatten(0, (batch, -1))
    return x.permute(0, 3, 4, 1, 2).flatten(0, 2).contiguous()
