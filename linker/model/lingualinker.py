"""The whole model: reference net, denoising net and audio projector; how they are saved, checked and loaded.

A checkpoint is a folder: lingualinker.json (architecture, hashes, training), linker.safetensors, codec/ and speech/ in
the layouts of diffusers and transformers. Nothing in it is a pickle, nothing needs a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linker.errors import EnvironmentError
from linker.model.architecture import Architecture
from linker.model.audio_context import AudioProjector
from linker.model.card import CARD, WEIGHTS, read_architecture, read_card, weight_files, weights_hash
from linker.model.layers import KeyValue
from linker.model.schedule import signal_levels
from linker.model.temporal import Memory
from linker.model.unet import Conditions, UNet
from linker.records import atomic, sha256_file, write_json

LEAST_INPUT = 0.05  # of the input at the last timestep under `quiet_noise`: the seed still counts


class LinguaLinker(nn.Module):
    """B = batch, F = new frames, M = preceding frames, C x h x w = a latent, R = regions (head, mouth, eyes)."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.reference = UNet(arch, "reference")
        self.denoising = UNet(arch, "denoising")
        self.audio = AudioProjector(arch.speech_dim, arch.audio_dim, arch.audio_context)
        nn.init.zeros_(self.denoising.conv_out.weight)  # the first prediction is zero, not noise
        nn.init.zeros_(self.denoising.conv_out.bias)

    def read_portrait(self, latent_BChw: Tensor) -> list[KeyValue]:
        """Keys and values of every reference attention: one pass at timestep 0, once a portrait (Eq. 4)."""
        _, seen = self.reference(latent_BChw, latent_BChw.new_zeros(latent_BChw.shape[0]))
        transformers = self.denoising.transformers()
        return [t.block.reference_key_value(tokens) for t, tokens in zip(transformers, seen.tokens, strict=True)]

    def preceding_maps(self, latents_BMChw: Tensor) -> list[Tensor]:
        """The reference net's maps of the preceding frames, (B M, C, H, W) for each temporal module."""
        flat = latents_BMChw.flatten(0, 1)
        _, seen = self.reference(flat, flat.new_zeros(flat.shape[0]))
        return seen.maps

    def remember(self, maps: list[Tensor], batch: int) -> list[list[Memory]]:
        """Keys and values that every temporal module keeps of such maps, once a window."""
        modules = self.denoising.temporal_modules()
        return [module.remember(seen, batch) for module, seen in zip(modules, maps, strict=True)]

    def read_preceding(self, latents_BMChw: Tensor) -> list[list[Memory]]:
        """What a window knows of the frames before it."""
        return self.remember(self.preceding_maps(latents_BMChw), len(latents_BMChw))

    def hear(self, speech_BSD: Tensor) -> list[KeyValue]:
        """Keys and values of every audio attention, from padded speech features (B, F + l - 1, D) (Eq. 5)."""
        blocks = self.audio(speech_BSD).flatten(0, 1)
        return [t.block.attn2.key_value(blocks) for t in self.denoising.transformers()]

    def asked(self, ranges_BR: Tensor) -> Tensor | None:
        """The ranges, where the net is told them; else the masks' areas alone say them, as in the paper."""
        return ranges_BR if self.arch.told_controls else None

    def denoise(self, latents_BFChw: Tensor, timestep_B: Tensor, *conditions: Conditions) -> Tensor:
        """Prediction (B, F, C, h, w) for noisy latents. Of several conditions, which must have the same controls, the
        predictions (B x conditions, F, C, h, w) one after the other; what they share is computed once."""
        frames = latents_BFChw.shape[1]
        if self.arch.quiet_noise:
            latents_BFChw = latents_BFChw * input_scale(timestep_B)[:, None, None, None, None].to(latents_BFChw)
        noisy, time = latents_BFChw.flatten(0, 1), timestep_B.repeat_interleave(frames)
        begun = self.denoising.begin(noisy, time, conditions[0]) if len(conditions) > 1 else None
        made = [self.denoising(noisy, time, each, begun)[0] for each in conditions]
        return torch.cat(made).unflatten(0, (-1, frames))

    def mask_pyramid(self, masks_BRHW: Tensor) -> dict[int, Tensor]:
        """Region masks area-averaged to every resolution that has transformers: side -> (B, T, R)."""
        sides = [self.arch.latent_px >> level for level, attends in enumerate(self.arch.attention) if attends]
        sides.append(self.arch.latent_px >> (len(self.arch.channels) - 1))  # the middle block
        return {side: F.adaptive_avg_pool2d(masks_BRHW, side).flatten(2).transpose(1, 2) for side in set(sides)}

    def normalise(self, latents: Tensor) -> Tensor:
        """The codec's latents (..., C, h, w) -> zero mean and unit deviation a channel."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.arch.latent_channels
        mean = like.new_tensor(self.arch.latent_mean or (0.0,) * channels)
        std = like.new_tensor(self.arch.latent_std or (1.0,) * channels)
        return mean[:, None, None], std[:, None, None]

    def save_pretrained(self, folder: Path, training: dict[str, Any], dtype: torch.dtype | None = None) -> None:
        """Write the weights, as they are or in another precision, and the card; codec/ and speech/ are hashed as they
        lie there."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / WEIGHTS) as temporary:
            save_file(
                {k: v.detach().to(dtype or v.dtype).contiguous() for k, v in self.state_dict().items()}, temporary
            )
        write_json(folder / CARD, {
            "format": "lingualinker 1",
            "architecture": self.arch.model_dump(mode="json"),
            "files": {str(path.relative_to(folder)): sha256_file(path) for path in weight_files(folder)},
            "training": training,
        })  # fmt: skip

    @staticmethod
    def from_pretrained(folder: Path) -> LinguaLinker:
        """Load strictly, in float32. Raises EnvironmentError naming the file and what is wrong with it."""
        model = LinguaLinker(read_architecture(folder))
        model.load_state_dict(checked_weights(folder / WEIGHTS, model), strict=True)
        return model.eval()


def input_scale(timestep_B: Tensor) -> Tensor:
    """Share of the signal in noisy latents, (B,), never quite 0. Near the last timestep the input is all noise: a small
    net that must learn to look away from it learns far slower what the portrait and the speech say."""
    return signal_levels().to(timestep_B.device)[timestep_B].sqrt().clamp(min=LEAST_INPUT)


def checked_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a safetensors file, proved to be this architecture's and finite; float32."""
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise EnvironmentError(f"{path}: missing; the checkpoint is not whole") from None
    except (SafetensorError, OSError) as error:
        raise EnvironmentError(f"{path}: not a whole safetensors file ({error})") from None
    wanted = model.state_dict()
    odd = sorted(set(found) ^ set(wanted))
    if odd:
        where = "missing" if odd[0] in wanted else "unknown"
        raise EnvironmentError(f"{path}: another architecture: {len(odd)} names differ, {odd[0]} is {where}")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            need, has = tuple(wanted[name].shape), tuple(value.shape)
            raise EnvironmentError(f"{path}: another architecture: {name} has shape {has}, needed {need}")
        if not torch.isfinite(value).all():
            raise EnvironmentError(f"{path}: {name} holds NaN or infinity")
    return {name: value.float() for name, value in found.items()}


def describe(folder: Path) -> dict[str, Any]:
    """Check a checkpoint for use (load, hash) and tell its dimensions, for `linker weights`."""
    card = read_card(folder)
    wrong = [name for name, digest in card["files"].items() if sha256_file(folder / name) != digest]
    if wrong:
        raise EnvironmentError(f"{folder / wrong[0]}: its SHA-256 is not the card's; the checkpoint is damaged")
    model = LinguaLinker.from_pretrained(folder)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {"folder": str(folder), "hash": weights_hash(folder), "parameters": counts, **card}
