"""The plain layers of Stable Diffusion 1.5, with its parameter names, so that its weights load strictly.

Shape suffixes: N = batch x frames, T = spatial tokens, S = context tokens, C = channels, H x W = pixels of a latent.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]


def sinusoids(positions: Tensor, width: int, cosine_first: bool = False) -> Tensor:
    """Sinusoidal embedding of `positions` (...,) -> (..., width): sines and cosines of `width / 2` frequencies."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[..., None] * rates
    parts = (angles.cos(), angles.sin()) if cosine_first else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=-1)


class TimeEmbedding(nn.Module):
    """Timestep (N,) -> (N, 4 x width), as in Stable Diffusion (cosines first)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timestep_N: Tensor) -> Tensor:
        wave = sinusoids(timestep_N, self.width, cosine_first=True).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))


class ControlEmbedding(nn.Module):
    """What is asked of the regions (B, n) -> (B, E), added to the timestep's embedding; starts as zero."""

    def __init__(self, asked: int, time_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(asked, time_width)
        self.linear_2 = nn.Linear(time_width, time_width)
        nn.init.zeros_(self.linear_2.weight)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, asked_Bn: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(asked_Bn.to(self.linear_1.weight.dtype))))


class Attention(nn.Module):
    """Multi-head attention; keys and values may be computed once (`key_value`) and passed to many calls."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])  # SD's names: to_out.0, then dropout 0

    def split(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, heads, T, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def key_value(self, context_NSC: Tensor, key_context_NSC: Tensor | None = None) -> KeyValue:
        """Keys and values of a context, each (N, heads, S, C / heads); keys may come from a positioned copy."""
        keys = context_NSC if key_context_NSC is None else key_context_NSC
        return self.split(self.to_k(keys)), self.split(self.to_v(context_NSC))

    def forward(self, x_NTC: Tensor, key_value: KeyValue | None = None) -> Tensor:
        key, value = key_value or self.key_value(x_NTC)
        out = attend(self.split(self.to_q(x_NTC)), key, value)
        return self.to_out[0](out.transpose(1, 2).flatten(2))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention. Training on a CPU takes the plain product: the fused kernel's backward pass is two
    to ten times slower there for our short sequences."""
    if query.device.type == "cpu" and query.requires_grad and torch.is_grad_enabled():
        with torch.autocast("cpu", enabled=False):  # which would take the softmax to float32 and back
            logits = (query * query.shape[-1] ** -0.5).to(value.dtype) @ key.to(value.dtype).transpose(-1, -2)
            return torch.softmax(logits, dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate.contiguous())  # of a view, a CPU's kernel takes one number at a time


class FeedForward(nn.Module):
    """GEGLU and a Linear, four times as wide inside; SD's names net.0.proj and net.2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class GroupNorm(nn.GroupNorm):
    """In float32 and back: in bfloat16, where autocast leaves it on a CPU, channels last take it five times as long."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResnetBlock(nn.Module):
    """Two 3 x 3 convolutions with the timestep added between them."""

    def __init__(self, inside: int, outside: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inside, eps=1e-5)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, outside)
        self.norm2 = GroupNorm(groups, outside, eps=1e-5)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x_NCHW: Tensor, time_NE: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_NCHW)))
        h = h + self.time_emb_proj(F.silu(time_NE))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x_NCHW if self.conv_shortcut is None else self.conv_shortcut(x_NCHW)) + h


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
