"""The reading of lids in latents: what it finds in drawn videos, and what it holds a net to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from linker.model.architecture import MINI
from linker.train.dataset import Windows
from linker.train.lids import LidReading, performed_blink

EYES_AT = (slice(5, 7), slice(4, 11))
SHUT = np.random.default_rng(1).standard_normal(MINI.latent_channels).astype(np.float32)  # how shut lids look


def write_videos(folder: Path, count: int = 12, **told: np.ndarray) -> Windows:
    """Encoded videos whose eyes show lids along SHUT, amid other motion."""
    side, frames = MINI.latent_px, 40
    for number in range(count):
        rng = np.random.default_rng(number)
        blink = (rng.random(frames) < 0.2).astype(np.float32)
        latents = 0.3 * rng.standard_normal((frames, MINI.latent_channels, side, side)).astype(np.float32)
        latents[(slice(None), slice(None), *EYES_AT)] += 0.5 * blink[:, None, None, None] * SHUT[:, None, None]
        masks = np.zeros((frames, 3, side, side), np.float32)
        masks[(slice(None), 2, *EYES_AT)] = 1
        drawn = {"blink": blink, "scales": np.array([1, 1, 0.5]), "ranges": np.ones(3)} | told
        known = {name: value for name, value in drawn.items() if value.size}
        np.savez(folder / f"{number:06d}.npz", latents=latents, masks=masks, **known)
    return Windows(folder, MINI)


def eyes() -> torch.Tensor:
    mask = torch.zeros(1, MINI.latent_px, MINI.latent_px)
    mask[(0, *EYES_AT)] = 1
    return mask


def shut(share: float) -> torch.Tensor:
    """An error of latents (1, 3, C, h, w): lids that are shut so far, everywhere."""
    seen = torch.from_numpy(SHUT) * 0.5 * share
    return seen[None, None, :, None, None].expand(1, 3, -1, MINI.latent_px, MINI.latent_px)


def test_lids_that_stay_open_cost_what_they_should_have_moved(tmp_path: Path) -> None:
    reading = LidReading(write_videos(tmp_path), torch.device("cpu"))
    half, whole = (float(reading.loss(shut(share), eyes())) for share in (0.5, 1.0))
    assert abs(whole / half - 4) < 1e-3
    assert 0.7 < whole * 0.16 < 1.3  # deviations of a blink in a fifth of the frames: 1 / 0.16 of its square


def test_what_moves_otherwise_or_elsewhere_costs_little(tmp_path: Path) -> None:
    reading = LidReading(write_videos(tmp_path), torch.device("cpu"))
    whole = float(reading.loss(shut(1.0), eyes()))
    elsewhere = shut(1.0).clone()
    elsewhere[..., EYES_AT[0].start - 1 : EYES_AT[0].stop + 1, :] = 0
    assert float(reading.loss(elsewhere, eyes())) == 0
    other = torch.from_numpy(np.random.default_rng(2).standard_normal(SHUT.shape).astype(np.float32))
    other -= torch.from_numpy(SHUT) * (other @ torch.from_numpy(SHUT)) / (SHUT @ SHUT)
    assert float(reading.loss(other[None, None, :, None, None].expand(shut(1.0).shape), eyes())) < 0.1 * whole


def test_footage_tells_nothing_of_lids(tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    (tmp_path / "rest").mkdir()
    footage = write_videos(tmp_path / "footage", blink=np.zeros(0))
    at_rest = write_videos(tmp_path / "rest", blink=np.zeros(40, np.float32))
    for windows in (footage, at_rest):
        reading = LidReading(windows, torch.device("cpu"))
        assert reading.kernel is None
        assert not reading.loss(shut(1.0), eyes()).any()


def test_lids_are_read_as_they_are_acted() -> None:
    video = {"blink": np.array([0, 0.5, 1.0]), "scales": np.array([1, 1, 2]), "ranges": np.array([1, 1, 0.75])}
    assert performed_blink(video).tolist() == [0, 0.75, 1]
