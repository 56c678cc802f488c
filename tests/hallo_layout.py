"""Hallo's net.pth as a layout: the names and shapes that its classes give, for any width, on any device.

Written from Hallo's published code (UNet2DConditionModel, UNet3DConditionModel with motion and audio modules,
FaceLocator, ImageProjModel, AudioProjModel) and independent of linker.train.hallo, which reads such files.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from torch import Tensor, nn

State = dict[str, Tensor]
MOTION_NAMES = (
    ("attn1.", "attention_blocks.0."), ("attn2.", "attention_blocks.1."), ("norm1.", "norms.0."),
    ("norm2.", "norms.1."), ("norm3.", "ff_norm."),
)  # fmt: skip


def hallo_state(
    channels: tuple[int, ...], attends: tuple[bool, ...], layers: int, context: int, faces: int = 4, tokens: int = 32
) -> State:
    """Everything in net.pth."""
    down = tuple("CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attends)
    up = tuple("CrossAttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attends))
    shape = {"block_out_channels": channels, "layers_per_block": layers, "cross_attention_dim": context}
    nets = [UNet2DConditionModel(**shape, down_block_types=down, up_block_types=up).state_dict() for _ in range(2)]
    state = {f"reference_unet.{k}": v for k, v in nets[0].items() if not k.startswith(("conv_norm_out", "conv_out"))}
    denoising = nets[1] | motion_state(channels, layers) | audio_state(channels, attends, layers, context)
    state |= {f"denoising_unet.{key}": value for key, value in denoising.items()}
    return state | others(channels[0], context, faces, tokens)


def motion_state(channels: tuple[int, ...], layers: int) -> State:
    """AnimateDiff's modules under their first names, middle block included."""
    adapter = MotionAdapter(
        block_out_channels=channels, motion_layers_per_block=layers, motion_max_seq_length=32,
        motion_mid_block_layers_per_block=1, use_motion_mid_block=True,
    )  # fmt: skip
    state = {}
    for key, value in adapter.state_dict().items():
        stage, inner = key.split(".motion_modules.")
        number, rest = inner.split(".", 1)
        for theirs, first in MOTION_NAMES:
            rest = rest.replace(f"transformer_blocks.0.{theirs}", f"transformer_blocks.0.{first}")
        if rest.endswith("pos_embed.pe"):
            for block in (0, 1):
                place = f"transformer_blocks.0.attention_blocks.{block}.pos_encoder.pe"
                state[f"{stage}.motion_modules.{number}.temporal_transformer.{place}"] = value
        else:
            state[f"{stage}.motion_modules.{number}.temporal_transformer.{rest}"] = value
    return state


def audio_state(channels: tuple[int, ...], attends: tuple[bool, ...], layers: int, context: int) -> State:
    """The second transformer of every layer with attention; as wide inside as what comes into the *block*."""
    state: State = {}
    for level, width in enumerate(channels):
        for layer in range(layers if attends[level] else 0):
            inner = channels[max(level - 1, 0)] if layer == 0 else width
            state |= audio_module(f"down_blocks.{level}.audio_modules.{layer}.", width, inner, context)
    state |= audio_module("mid_block.audio_modules.0.", channels[-1], channels[-1], context)
    for number, level in enumerate(reversed(range(len(channels)))):
        for layer in range(layers + 1 if attends[level] else 0):
            name = f"up_blocks.{number}.audio_modules.{layer}."
            state |= audio_module(name, channels[level], channels[max(level - 1, 0)], context)
    return state


def audio_module(name: str, width: int, inner: int, context: int) -> State:
    def attention(keys: int) -> nn.ModuleDict:
        plain = {part: nn.Linear(size, inner, bias=False) for part, size in
                 (("to_q", inner), ("to_k", keys), ("to_v", keys))}  # fmt: skip
        return nn.ModuleDict({**plain, "to_out": nn.ModuleList([nn.Linear(inner, inner)])})

    block = nn.ModuleDict({f"zero_conv_{region}": nn.Conv2d(inner, inner, 1) for region in ("full", "face", "lip")})
    block.update({"attn1": attention(inner), **{f"attn2_{region}": attention(context) for region in range(3)}})
    block.update({f"norm{number}": nn.LayerNorm(inner) for number in (1, 2, 3)})
    gated = nn.ModuleDict({"proj": nn.Linear(inner, 8 * inner)})
    block["ff"] = nn.ModuleDict({"net": nn.ModuleList([gated, nn.Identity(), nn.Linear(4 * inner, inner)])})
    module = nn.ModuleDict({
        "norm": nn.GroupNorm(32, width), "proj_in": nn.Conv2d(width, inner, 1),
        "transformer_blocks": nn.ModuleList([block]), "proj_out": nn.Conv2d(inner, width, 1),
    })  # fmt: skip
    return {f"{name}{key}": value for key, value in module.state_dict().items()}


def others(width: int, context: int, faces: int, tokens: int) -> State:
    """Face locator, face embedding and audio projector."""
    widths = (16, 32, 64, 128)
    steps = [pair for a, b in pairwise(widths) for pair in ((a, a), (a, b))]
    nets = {
        "face_locator": nn.ModuleDict({
            "conv_in": nn.Conv2d(3, 16, 3), "blocks": nn.ModuleList([nn.Conv2d(a, b, 3) for a, b in steps]),
            "conv_out": nn.Conv2d(128, width, 3),
        }),
        "imageproj": nn.ModuleDict({"proj": nn.Linear(512, faces * context), "norm": nn.LayerNorm(context)}),
        "audioproj": nn.ModuleDict({
            "proj1": nn.Linear(5 * 12 * 768, 512), "proj2": nn.Linear(512, 512),
            "proj3": nn.Linear(512, tokens * context), "norm": nn.LayerNorm(context),
        }),
    }  # fmt: skip
    return {f"{part}.{key}": value for part, net in nets.items() for key, value in net.state_dict().items()}


def millions(state: State, part: str) -> float:
    """Parameters of the keys that contain `part`, tables of sinusoids left out."""
    counted = (value.numel() for key, value in state.items() if part in key and not key.endswith(".pe"))
    return torch.tensor(list(counted)).sum().item() / 1e6
