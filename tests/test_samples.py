"""What is shown while a net is trained: people it is not trained on, by the real sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, tiny_model, write_tiny

from linker.config import SAMPLE_RATE_HZ
from linker.media import probe, read_frames
from linker.train.journal import Journal
from linker.train.samples import SHOWN, shower

FRAMES = 2 * TINY.window


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """A noisy video and a half, as held-out ones are kept."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "held_out"
    folder.mkdir()
    for name, frames in {"anna": FRAMES + 3, "short": FRAMES - 1}.items():
        pictures = rng.integers(0, 256, (frames, TINY.sample_px, TINY.sample_px, 3), np.uint8)
        np.save(folder / f"{name}.frames.npy", pictures)
        samples = rng.standard_normal(frames * SAMPLE_RATE_HZ // 25).astype(np.float32) / 10
        np.savez(folder / f"{name}.npz", samples=samples, masks=rng.random((frames, 3, 8, 8)).astype(np.float16) / 3)
    return folder


def test_held_out_people_are_shown_beside_the_truth(held_out: Path, tmp_path: Path) -> None:
    model, parts, run = tiny_model(), write_tiny(tmp_path / "start"), tmp_path / "run"
    show = shower(model, held_out, parts, run, torch.float32)
    assert show
    journal = Journal(run, 0)
    for step in (1, 2):
        show(step, journal)
    with torch.no_grad():
        model.denoising.conv_out.bias.add_(1.0)
    show(3, journal)
    journal.close()
    first, again, other = (np.asarray(Image.open(run / "samples" / f"000000{step}.png")) for step in (1, 2, 3))
    side = TINY.sample_px
    assert first.shape == (2 * side, SHOWN * side, 3)
    assert (first == again).all()
    assert (first[:side] == other[:side]).all()  # the truth
    assert (first[side:] != other[side:]).any()
    truth = np.load(held_out / "anna.frames.npy")
    assert (first[:side, :side] == truth[0]).all()
    film = run / "samples" / "0000001-anna.mp4"
    assert [frame.shape for frame in read_frames(film)] == [(side, 2 * side, 3)] * FRAMES
    assert probe(film).audio is not None


def test_nothing_is_shown_where_nothing_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = write_tiny(tmp_path / "start")
    assert shower(tiny_model(), tmp_path / "none", parts, tmp_path, torch.float32) is None
    assert "no samples are shown" in capsys.readouterr().err
