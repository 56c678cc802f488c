"""Stable Diffusion 1.5's U-Net by its parameter names, in two roles (Figure 2 of the paper).

The reference net reads clean latents and returns its features; the denoising net takes them as conditions, hears the
audio, and sees time. Conditions travel as values: nothing is stored on a module, so `train()`, `eval()` and gradient
checkpointing cannot change the result.

Shape suffixes: N = batch x frames, B = batch, C = channels, H x W = a latent's sides, T = tokens, E = time embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linker.config import REGIONS
from linker.model.architecture import Architecture
from linker.model.gate import LayerConditions, TransformerBlock
from linker.model.layers import ControlEmbedding, Downsample, GroupNorm, KeyValue, ResnetBlock, TimeEmbedding, Upsample
from linker.model.temporal import Memory, TemporalModule

Role = Literal["reference", "denoising"]


@dataclass
class Features:
    """What the reference net saw: `tokens` for each transformer (Eq. 4), `maps` for each temporal module."""

    tokens: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Conditions:
    """What the denoising net is told; lists run over the net's transformers or temporal modules in forward order.

    masks: side of a latent in pixels -> (B, T, R);  scales: (B, R);  keep: see LayerConditions.
    preceding: what the temporal modules remember of the preceding frames; None = single frames, no temporal modules.
    ranges: (B, R), what the masks' areas were scaled by, where the net is told; they multiply the gates as scales do.
    """

    batch: int
    masks: dict[int, Tensor]
    scales: Tensor
    reference: list[KeyValue] | None = None
    audio: list[KeyValue] | None = None
    preceding: list[list[Memory]] | None = None
    keep: Tensor | None = None
    ranges: Tensor | None = None

    def controls(self) -> Tensor:
        """Scales and ranges: (B, 2 R)."""
        return torch.cat([self.scales, torch.ones_like(self.scales) if self.ranges is None else self.ranges], dim=1)

    def layer(self, index: int, tokens: int) -> LayerConditions:
        """The conditions of transformer `index`, which sees `tokens` places."""
        reference = None if self.reference is None else self.reference[index]
        audio = None if self.audio is None else self.audio[index]
        strength = self.scales if self.ranges is None else self.scales * self.ranges
        return LayerConditions(reference, audio, self.masks[round(tokens**0.5)], strength, self.keep)


@dataclass(frozen=True)
class Begun:
    """A pass up to the first place where portrait or speech could matter: what both halves of guidance begin with.

    time_NE: what the net knows of the timestep and the controls;  noisy: after the first convolution;  seen: after the
    first resnet;  looked: what the first transformer makes of it before it is told anything.
    """

    time_NE: Tensor
    noisy_NCHW: Tensor
    seen_NCHW: Tensor
    looked: tuple[Tensor, Tensor] | None


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of a feature map; `index` is its place in the net's forward order."""

    index: int

    def __init__(self, width: int, time_width: int, arch: Architecture, role: Role) -> None:
        super().__init__()
        audio_width = arch.audio_dim if role == "denoising" else None
        self.norm = GroupNorm(arch.norm_groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(width, arch.heads, time_width, audio_width, arch.reference_positions)]
        )
        self.proj_out = nn.Conv2d(width, width, 1)

    @property
    def block(self) -> TransformerBlock:
        """Stable Diffusion 1.5 has one block a transformer."""
        block = self.transformer_blocks[0]
        assert isinstance(block, TransformerBlock)
        return block

    def look(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer does before it is told anything: tokens (N, T, C), and those to hand over."""
        return self.block.look(self.proj_in(self.norm(x_NCHW)).flatten(2).transpose(1, 2))

    def forward(
        self,
        x_NCHW: Tensor,
        time_NE: Tensor,
        conditions: LayerConditions | None = None,
        looked: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> the same, and the tokens that a reference net hands over; `looked`: what `look` gives."""
        h_NTC, tokens_NTC = looked or self.look(x_NCHW)
        h_NTC = self.block.told(h_NTC, time_NE, conditions)
        return x_NCHW + self.proj_out(h_NTC.transpose(1, 2).reshape(x_NCHW.shape)), tokens_NTC


class Stage(nn.Module):
    """One block of the U-Net: resnets, each followed by a transformer and a temporal module where the net has them."""

    def __init__(self, widths: list[tuple[int, int]], attends: bool, time_width: int, arch: Architecture, role: Role):
        super().__init__()
        last = widths[-1][1]
        self.resnets = nn.ModuleList([ResnetBlock(a, b, time_width, arch.norm_groups) for a, b in widths])
        if attends:
            self.attentions = nn.ModuleList([SpatialTransformer(last, time_width, arch, role) for _ in widths])
        if role == "denoising":
            self.motion_modules = nn.ModuleList(
                [TemporalModule(last, arch.motion_heads, arch.norm_groups) for _ in widths]
            )


class UNet(nn.Module):
    """(N, C, H, W) noisy latents at timesteps (N,) -> prediction of the same shape, and features."""

    def __init__(self, arch: Architecture, role: Role) -> None:
        super().__init__()
        self.arch, self.role = arch, role
        self.checkpointing = False
        widths, time_width, layers = arch.channels, 4 * arch.channels[0], arch.layers_per_block
        self.time_embedding = TimeEmbedding(widths[0])
        if role == "denoising" and arch.told_controls:
            self.control_embedding = ControlEmbedding(2 * len(REGIONS), time_width)
        self.conv_in = nn.Conv2d(arch.latent_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            pairs = [(before if layer == 0 else width, width) for layer in range(layers)]
            stage = Stage(pairs, arch.attention[level], time_width, arch, role)
            if level < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(width)])
            self.down_blocks.append(stage)
        self.mid_block = self._middle(widths[-1], time_width)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            stage = Stage(up_widths(widths, level, layers), arch.attention[level], time_width, arch, role)
            if level > 0:
                stage.upsamplers = nn.ModuleList([Upsample(widths[level])])
            self.up_blocks.append(stage)
        self.conv_norm_out = GroupNorm(arch.norm_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], arch.latent_channels, 3, padding=1)
        for modules in (self.transformers(), self.temporal_modules()):
            for index, module in enumerate(modules):
                module.index = index

    def _middle(self, width: int, time_width: int) -> Stage:
        """SD's middle: resnet, transformer, (temporal module,) resnet."""
        stage = Stage([(width, width)], True, time_width, self.arch, self.role)
        stage.resnets.append(ResnetBlock(width, width, time_width, self.arch.norm_groups))
        return stage

    def stages(self) -> Iterator[Stage]:
        """All blocks in forward order."""
        for stage in (*self.down_blocks, self.mid_block, *self.up_blocks):
            assert isinstance(stage, Stage)
            yield stage

    def transformers(self) -> list[SpatialTransformer]:
        """In forward order: the order of Conditions.reference and Conditions.audio."""
        return [t for stage in self.stages() for t in getattr(stage, "attentions", ())]

    def temporal_modules(self) -> list[TemporalModule]:
        """In forward order: the order of Conditions.preceding; empty at the reference net."""
        return [m for stage in self.stages() for m in getattr(stage, "motion_modules", ())]

    def begin(self, latents_NCHW: Tensor, timestep_N: Tensor, conditions: Conditions | None = None) -> Begun:
        """The part of a pass that depends on neither portrait nor speech, nor on the preceding frames."""
        time_NE, stage = self._embedded(timestep_N, conditions), next(self.stages())
        noisy = self.conv_in(latents_NCHW)
        seen = self._run(stage.resnets[0], noisy, time_NE)
        looked = self._run(stage.attentions[0].look, seen) if hasattr(stage, "attentions") else None
        return Begun(time_NE, noisy, seen, looked)

    def forward(
        self,
        latents_NCHW: Tensor,
        timestep_N: Tensor,
        conditions: Conditions | None = None,
        begun: Begun | None = None,
    ) -> tuple[Tensor, Features]:
        """`begun`: what `begin` gives for the same latents, timesteps and controls."""
        features = Features()
        begun = begun or self.begin(latents_NCHW, timestep_N, conditions)
        time_NE, x = begun.time_NE, begun.noisy_NCHW
        skips = [x]
        for stage in self.down_blocks:  # down: keep what every layer saw
            for layer in range(len(stage.resnets)):
                first = begun if len(skips) == 1 else None
                x = self._layer(stage, layer, x, time_NE, conditions, features, first)
                skips.append(x)
            if hasattr(stage, "downsamplers"):
                x = stage.downsamplers[0](x)
                skips.append(x)
        x = self._layer(self.mid_block, 0, x, time_NE, conditions, features)  # middle
        x = self._run(self.mid_block.resnets[1], x, time_NE)
        for stage in self.up_blocks:  # up: with what down saw
            for layer in range(len(stage.resnets)):
                x = self._layer(stage, layer, torch.cat([x, skips.pop()], dim=1), time_NE, conditions, features)
            if hasattr(stage, "upsamplers"):
                x = stage.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x))), features

    def _embedded(self, timestep_N: Tensor, conditions: Conditions | None) -> Tensor:
        """The timestep's embedding, and what is asked of the regions where the net is told."""
        time_NE: Tensor = self.time_embedding(timestep_N)
        if conditions is None or not hasattr(self, "control_embedding"):
            return time_NE
        asked_BE = self.control_embedding(conditions.controls())
        return time_NE + asked_BE.repeat_interleave(len(time_NE) // len(asked_BE), dim=0)

    def _layer(
        self,
        stage: Stage,
        layer: int,
        x: Tensor,
        time_NE: Tensor,
        conditions: Conditions | None,
        features: Features,
        begun: Begun | None = None,
    ) -> Tensor:
        """Resnet, then transformer and temporal module if the stage has them; what they saw goes into `features`."""
        x = begun.seen_NCHW if begun else self._run(stage.resnets[layer], x, time_NE)
        if hasattr(stage, "attentions"):
            transformer = stage.attentions[layer]
            tokens = x.shape[-1] * x.shape[-2]
            told = None if conditions is None else conditions.layer(transformer.index, tokens)
            x, seen = self._run(transformer, x, time_NE, told, begun.looked if begun else None)
            features.tokens.append(seen)
        features.maps.append(x)
        if conditions is not None and conditions.preceding is not None:
            module = stage.motion_modules[layer]
            x = self._run(module, x, conditions.preceding[module.index], conditions.batch)
        return x

    def _run(self, module: Callable[..., Any], *arguments: object) -> Any:
        """Call a module, recomputing it in the backward pass when `checkpointing` (same result, less memory)."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *arguments, use_reentrant=False)
        return module(*arguments)


def up_widths(widths: tuple[int, ...], level: int, layers: int) -> list[tuple[int, int]]:
    """(in, out) of the resnets of an up block: what comes from below and from the skip of the mirrored down layer."""
    width, below = widths[level], widths[min(level + 1, len(widths) - 1)]
    skips = [width] * layers + [widths[max(level - 1, 0)]]
    return [((below if layer == 0 else width) + skip, width) for layer, skip in enumerate(skips)]
