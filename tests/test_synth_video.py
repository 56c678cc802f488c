"""Drawn training videos: twins do the same, the truth lies beside the pictures, a folder holds what was asked for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from linker.synth.acting import draw_acting
from linker.synth.motion import Motion
from linker.synth.video import draw_videos, make_video


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("videos")
    draw_videos(folder, 4, size_px=64)
    return folder


def truth(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as stored:
        return dict(stored)


def test_twins_say_and_do_the_same(drawn: Path) -> None:
    one, twin, other = (truth(drawn, name) for name in ("000000", "000001", "000002"))
    said = ("samples", "phonemes", "scales", *(f"acted_{field.name}" for field in fields(Motion)))
    assert all(np.array_equal(one[name], twin[name]) for name in said)
    assert not np.array_equal(one["samples"], other["samples"])
    faces = [np.load(drawn / f"{name}.frames.npy") for name in ("000000", "000001")]
    assert faces[0].shape == faces[1].shape
    assert np.abs(faces[0].astype(float) - faces[1]).mean() > 5


def test_the_truth_lies_beside_the_pictures(drawn: Path) -> None:
    found = truth(drawn, "000000")
    frames = len(np.load(drawn / "000000.frames.npy", mmap_mode="r"))
    assert all(len(found[f"acted_{field.name}"]) == frames for field in fields(Motion))
    assert len(found["opening_px"]) == len(found["blink"]) == len(found["masks"]) == frames
    assert found["tracked"].shape == (frames, 231, 2)
    ends = found["phoneme_ends_s"]
    assert len(ends) == len(found["phonemes"])
    assert (np.diff(ends) >= 0).all()
    assert ends[-1] == pytest.approx(len(found["samples"]) / 16_000, abs=0.02)


def test_a_folder_holds_what_was_asked_for_however_many_draw(drawn: Path, tmp_path: Path) -> None:
    draw_videos(tmp_path, 2, size_px=64, processes=2)
    for name in ("000000", "000001"):
        again, first = truth(tmp_path, name), truth(drawn, name)
        assert all(np.array_equal(again[key], first[key]) for key in first if key != "tracked")
        np.testing.assert_array_equal(again["tracked"], first["tracked"])  # in which there are NaN
        frames = [np.load(folder / f"{name}.frames.npy") for folder in (tmp_path, drawn)]
        assert np.array_equal(*frames)
    kept = (tmp_path / "000000.npz").stat().st_mtime_ns
    draw_videos(tmp_path, 1, size_px=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.frames.npy", "000000.npz"]
    assert (tmp_path / "000000.npz").stat().st_mtime_ns == kept


def test_acted_eyes_are_where_the_eyes_are() -> None:
    """A head that the acting holds still, though plain speech would move it."""
    pytest.importorskip("espeakng_loader")
    seed = next(seed for seed in range(1000) if draw_acting(seed).scales[0] == 0)
    video = make_video(seed, 64)
    assert np.ptp(video.acted_eyes, axis=0).max() < 0.5 * np.ptp(video.masks[:, 2], axis=0).max()
    assert video.acted_eyes[0] == pytest.approx(video.masks[0, 2])
