"""The loss on what is seen: nothing where pictures agree, and of each region the frame that tells most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY, tiny_codec
from torch import Tensor, nn

from linker.model.motion_codec import MotionCodec
from linker.train.seen import Seen, telling

MOUTH_AT, EYES_AT = (slice(6, 8), slice(2, 6)), (slice(0, 2), slice(2, 6))
MOUTH_FRAME, EYES_FRAME = 1, 3
OPEN = torch.zeros(1, 5)  # lids, a frame


def motion_codec() -> MotionCodec:
    """Weights drawn, so that latents move and paint."""
    torch.manual_seed(0)
    codec = MotionCodec(latent_channels=4, widths=(8, 8, 8), paint_width=8)
    for last in (codec.flow_out, codec.paint[-1]):
        nn.init.normal_(last.weight, std=0.1)
    return codec


@pytest.fixture(params=[motion_codec, tiny_codec])
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Seen:
    request.param().save_pretrained(tmp_path / "codec")
    return Seen(tmp_path / "codec", TINY, torch.device("cpu"))


def window() -> tuple[Tensor, Tensor, Tensor]:
    """Latents (1, 5, 4, 8, 8) whose mouth and eyes each move in one frame; a portrait; masks."""
    torch.manual_seed(1)
    latents, masks = torch.zeros(1, 5, 4, 8, 8), torch.zeros(1, 3, 8, 8)
    for region, frame, at in ((1, MOUTH_FRAME, MOUTH_AT), (2, EYES_FRAME, EYES_AT)):
        masks[(0, region, *at)] = 1
        latents[(0, frame, slice(None), *at)] = 1
    return latents, torch.rand(1, 3, 128, 128) * 2 - 1, masks


def test_the_frame_that_tells_most_is_the_one_that_moves() -> None:
    latents, _, masks = window()
    assert telling(latents, masks[:, 1], OPEN).tolist() == [MOUTH_FRAME]
    assert telling(latents, masks[:, 2], OPEN).tolist() == [EYES_FRAME]


def test_a_frame_whose_lids_the_speech_shuts_tells_more() -> None:
    latents, _, masks = window()
    latents[(0, 0, slice(None), *EYES_AT)] = -0.8
    assert telling(latents, masks[:, 2], OPEN).tolist() == [EYES_FRAME]
    shut = OPEN.clone()
    shut[0, 0] = 1
    assert telling(latents, masks[:, 2], shut).tolist() == [0]


def test_pictures_that_agree_cost_nothing(seen: Seen) -> None:
    latents, portrait, masks = window()
    made = (latents, 0.5 * latents, torch.zeros_like(latents))
    for same, halfway, still in zip(*(seen.losses(one, latents, portrait, masks, OPEN) for one in made), strict=True):
        assert 0 == same.item() < halfway.item() < still.item() < 2


@pytest.mark.parametrize(("region", "frame"), [(0, MOUTH_FRAME), (1, EYES_FRAME)])
def test_only_the_telling_frame_is_taught(seen: Seen, region: int, frame: int) -> None:
    latents, portrait, masks = window()
    made = torch.zeros_like(latents).requires_grad_()
    seen.losses(made, latents, portrait, masks, OPEN)[region].sum().backward()
    assert made.grad is not None
    assert (made.grad.abs().amax((0, 2, 3, 4)) > 0).nonzero().flatten().tolist() == [frame]


def test_the_codec_sees_latents_as_it_gave_them(tmp_path: Path) -> None:
    """The nets model latents without their mean and deviation."""
    motion_codec().save_pretrained(tmp_path / "codec")
    arch = TINY.model_copy(update={"latent_mean": (1.0, 2.0, 3.0, 4.0), "latent_std": (2.0,) * 4})
    latents, portrait, _ = window()
    seen = Seen(tmp_path / "codec", arch, torch.device("cpu"))
    plain = Seen(tmp_path / "codec", TINY, torch.device("cpu"))
    appearance = seen.codec.read(portrait)
    shown = latents[:, EYES_FRAME]
    given = shown * 2 + torch.tensor([1.0, 2.0, 3.0, 4.0]).view(-1, 1, 1)
    assert torch.equal(seen.drawn(shown, appearance), plain.drawn(given, appearance))
    assert torch.equal(seen.drawn(shown, appearance), seen.codec.decode(given, appearance, shown=False))
