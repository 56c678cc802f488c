"""The mini model's codec: a frame as its change from the portrait, drawn by moving the portrait's own pixels.

A plain autoencoder of this size must learn every face anew; here the latents say how things move, and the portrait
says what they look like (decision 0010). The latent of the portrait itself is zero, and two people who do the same have
the same latents: the decoder sees whom it moves (decision 0016).

Shape suffixes: B = pictures, C = channels, H x W = pixels, h x w = a latent's sides, H / 16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

PATCH = 4  # pixels a side that the finest level takes as one place
FLOW_UNIT = 0.1  # of half the picture: what a flow of 1 moves
PICTURE = 3
LEAST_CONTRAST = 0.05  # deviation of a grey portrait under which it is not raised to 1
COVER_START = -4.0  # logit of paint: at first, none
DECIDED = 2.0  # how much steeper the logit of what paint covers is in what is shown
ABOUT_PX = 7  # how far the light about a painted pixel is looked at, to either side
LIDS_REACH = 2  # places beyond the eyes that shut lids may change
LIDS_RATE = 10.0  # how much quicker than others the few numbers are learnt that shut all lids


@dataclass(frozen=True)
class Appearance:
    """What is read of portraits once: `pixels` (B, 3, H, W) in -1..1 as the nets see them, `fine` (B, 3, S, S) as
    frames are drawn, their `latent` (B, C, h, w), and `maps` of who is to be moved, coarsest first."""

    pixels: Tensor
    fine: Tensor
    latent: Tensor
    maps: tuple[Tensor, ...]

    def repeated(self, count: int) -> Appearance:
        """One portrait, for `count` frames."""
        pixels, fine, latent, *maps = (
            each.expand(count, -1, -1, -1) for each in (self.pixels, self.fine, self.latent, *self.maps)
        )
        return Appearance(pixels, fine, latent, tuple(maps))


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the identity; no norm, so that what happens at the mouth stays there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def encoder(inside: int, widths: tuple[int, ...], outside: int) -> nn.Sequential:
    """Pictures (B, inside, H, W) -> (B, outside, H / 16, W / 16)."""
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(PATCH),
        nn.Conv2d(inside * PATCH**2, widths[0], 3, padding=1),
        Residual(widths[0]),
    ]
    for fine, coarse in pairwise(widths):
        layers += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), Residual(coarse)]
    return nn.Sequential(*layers, Residual(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], outside, 3, padding=1))


class Reader(nn.Module):
    """Portraits (B, 3, H, W) -> a map at each size, coarsest first: (B, widths[-1], H / 16, W / 16) and finer."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.PixelUnshuffle(PATCH), nn.Conv2d(PICTURE * PATCH**2, widths[0], 3, padding=1))
        self.blocks = nn.ModuleList([Residual(width) for width in widths])
        self.falls = nn.ModuleList(
            [nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths)]
        )

    def forward(self, portrait_B3HW: Tensor) -> tuple[Tensor, ...]:
        maps = [self.blocks[0](self.start(portrait_B3HW))]
        for fall, block in zip(self.falls, self.blocks[1:], strict=True):
            maps.append(block(fall(maps[-1])))
        return tuple(maps[::-1])


class Mover(nn.Module):
    """How things move (B, C, h, w), and who is moved -> features (B, widths[0], H / 4, W / 4)."""

    def __init__(self, inside: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        rising = widths[::-1]
        self.start = nn.Conv2d(inside, rising[0], 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(Residual(width), Residual(width)) for width in rising])
        self.rises = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2))
                for coarse, fine in pairwise(rising)
            ]
        )

    def forward(self, latent_BChw: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        x = self.blocks[0](self.start(latent_BChw) + maps[0])
        for rise, block, seen in zip(self.rises, self.blocks[1:], maps[1:], strict=True):
            x = block(rise(x) + seen)
        return x


class MotionCodec(ModelMixin, ConfigMixin):
    """encode: how a frame differs from its portrait. decode: the portrait, moved by a flow and painted where a flow
    cannot help (an open mouth, closed lids)."""

    @register_to_config
    def __init__(
        self, latent_channels: int = 16, widths: tuple[int, ...] = (64, 96, 128), paint_width: int = 96
    ) -> None:
        super().__init__()
        self.fineness = math.isqrt(latent_channels)
        if self.fineness**2 != latent_channels:
            raise ValueError(f"latent_channels is {latent_channels}, needed a square number")
        self.motion = encoder(2 * PICTURE, widths, latent_channels)
        self.reader = Reader(widths)
        self.mover = Mover(latent_channels, widths)
        self.flow_out = nn.Conv2d(widths[0], 2 * 4, 3, padding=1)
        self.paint = nn.Sequential(
            nn.Conv2d(widths[0] + PICTURE * PATCH**2, paint_width, 3, padding=1),
            Residual(paint_width), Residual(paint_width), nn.SiLU(),
            nn.Conv2d(paint_width, (PICTURE + 1) * PATCH**2, 3, padding=1),
        )  # fmt: skip
        self.lids = nn.Conv2d(1, latent_channels, 2 * LIDS_REACH + 1, padding=LIDS_REACH, bias=False)
        nn.init.zeros_(self.lids.weight)
        for last in (self.flow_out, self.paint[-1]):  # starts as the portrait itself
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def read(self, portrait_B3HW: Tensor, fine_B3SS: Tensor | None = None) -> Appearance:
        """What decoding and the reference net need of portraits in -1..1; `fine` are the same at another size."""
        fine = portrait_B3HW if fine_B3SS is None else fine_B3SS
        return Appearance(portrait_B3HW, fine, self.look(portrait_B3HW), self.reader(portrait_B3HW))

    def look(self, portrait_B3HW: Tensor) -> Tensor:
        """What the reference net is shown, (B, C, h, w): the portrait small, grey, of even contrast; `fineness` pixels
        a side in every place. It says where lips and lids are; how they look is the decoder's business."""
        stride = self.stride // self.fineness
        grey = F.avg_pool2d(portrait_B3HW.float().mean(1, keepdim=True), stride)
        even = (grey - grey.mean((2, 3), keepdim=True)) / grey.std((2, 3), keepdim=True).clamp(min=LEAST_CONTRAST)
        return F.pixel_unshuffle(even, self.fineness)

    @property
    def stride(self) -> int:
        """Pixels a side of a latent's place."""
        return int(PATCH * 2 ** (len(self.config["widths"]) - 1))

    def encode(self, frame_B3HW: Tensor, portrait_B3HW: Tensor) -> Tensor:
        """(B, C, h, w), zero where the frame is the portrait; one portrait may stand for all."""
        pairs = torch.cat([frame_B3HW, portrait_B3HW.expand_as(frame_B3HW)], 1)
        rest = torch.cat([portrait_B3HW, portrait_B3HW], 1)
        return self.motion(pairs).float() - self.motion(rest).float()

    def shut(self, eyes_B1hw: Tensor, shut_B: Tensor) -> Tensor:
        """What lids that are shut by `shut` (0..1) add to latents, (B, C, h, w), about where the mask says there are
        eyes: the same for everybody (decision 0019)."""
        return LIDS_RATE * self.lids(eyes_B1hw) * shut_B[:, None, None, None]

    def decode(self, latent_BChw: Tensor, appearance: Appearance, shown: bool = True) -> Tensor:
        """Pictures (B, 3, S, S) in -1..1, as large as the appearance's `fine`; those that are not `shown`, but learnt
        from, have their paint as it is."""
        features = self.mover(latent_BChw, appearance.maps)
        flow = self.flow_of(features)
        paint = self.painted(moved(appearance.pixels, flow), features)
        return laid(moved(appearance.fine, flow), *(crisp(*paint) if shown else paint))

    def flow_of(self, features: Tensor) -> Tensor:
        """Where to take each place from, (B, 2, H / 2, W / 2): x and y, relative to it, in half pictures."""
        return F.pixel_shuffle(self.flow_out(features), 2).float() * FLOW_UNIT

    def painted(self, moved_B3HW: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """New pixels (B, 3, H, W), and how far they cover the moved ones, (B, 1, H, W) in 0..1."""
        seen = torch.cat([features, F.pixel_unshuffle(moved_B3HW, PATCH).to(features)], 1)
        made = F.pixel_shuffle(self.paint(seen), PATCH).float()
        return torch.tanh(made[:, :PICTURE]), torch.sigmoid(made[:, PICTURE:] + COVER_START)


def moved(pixels_B3HW: Tensor, flow_B2hw: Tensor) -> Tensor:
    """Pictures whose every pixel is taken from where the flow says; the edge is repeated beyond it."""
    height, width = pixels_B3HW.shape[-2:]
    flow = F.interpolate(flow_B2hw, (height, width), mode="bilinear", align_corners=False)
    grid = identity_grid(height, width, flow.device) + flow.permute(0, 2, 3, 1)
    return F.grid_sample(pixels_B3HW.float(), grid, padding_mode="border", align_corners=False)


def laid(picture_B3SS: Tensor, colour_B3HW: Tensor, cover_B1HW: Tensor) -> Tensor:
    """Paint laid over a picture that may be larger."""
    if picture_B3SS.shape[-2:] != colour_B3HW.shape[-2:]:
        paint = F.interpolate(torch.cat([colour_B3HW, cover_B1HW], 1), picture_B3SS.shape[-2:], mode="bicubic")
        colour_B3HW, cover_B1HW = paint[:, :PICTURE], paint[:, PICTURE:].clamp(0, 1)
    return picture_B3SS + (colour_B3HW - picture_B3SS) * cover_B1HW


def crisp(colour_B3HW: Tensor, cover_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Paint as it is shown. What is learnt is the mean of what could be there, a smear: here it covers or does not, and
    how its light differs from that about it is doubled (decision 0026)."""
    light = colour_B3HW.mean(1, keepdim=True)
    about, span = F.pad(light, [ABOUT_PX] * 4, mode="replicate"), 2 * ABOUT_PX + 1
    for kernel in ((1, span), (span, 1)):
        about = F.avg_pool2d(about, kernel, stride=1)
    return (colour_B3HW + light - about).clamp(-1, 1), torch.sigmoid(DECIDED * torch.logit(cover_B1HW))


def identity_grid(height: int, width: int, device: torch.device) -> Tensor:
    """(1, H, W, 2): every pixel's own place in grid_sample's coordinates."""
    y, x = ((torch.arange(n, device=device) * 2 + 1) / n - 1 for n in (height, width))
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)[None]
