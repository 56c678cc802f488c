"""The sheet of a codec in training: whom it shows, and at which moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_lids import COUNT, write_blinking_twins
from tiny import SMALL_CODEC, small_motion_codec

from linker.model.motion_codec import MotionCodec
from linker.train.codec_samples import codec_sheet

SIDE = 64
WIDEST, SHUT = 2, 4


def held_out(folder: Path) -> list[Path]:
    """The blinking twins, whose mouths are widest in a frame with a white chin."""
    files = [path for twins in write_blinking_twins(folder) for path in twins]
    for path in files:
        frames, beside = np.load(path), path.with_name(path.name.replace(".frames.npy", ".npz"))
        with np.load(beside) as told:
            truth = dict(told)
        frames[WIDEST, 40:48] = 255
        truth["opening_px"] = np.eye(COUNT)[WIDEST]
        np.save(path, frames)
        np.savez(beside, **truth)
    return files


def test_a_row_shows_portrait_mouth_and_lids_each_beside_what_is_drawn(tmp_path: Path) -> None:
    files = held_out(tmp_path)
    sheet = codec_sheet(small_motion_codec(), files)
    assert sheet.shape == (2 * SIDE, 5 * SIDE, 3)
    for row, path in zip(np.split(sheet, 2), files, strict=True):
        portrait, wide, wide_drawn, shut, shut_drawn = np.split(row, 5, axis=1)
        frames = np.load(path)
        assert (portrait == frames[0]).all()
        assert (wide == frames[WIDEST]).all()
        assert (shut == frames[SHUT]).all()
        assert (wide_drawn != shut_drawn).any()


def test_a_codec_that_learned_nothing_draws_the_portrait(tmp_path: Path) -> None:
    row = codec_sheet(MotionCodec(**SMALL_CODEC), held_out(tmp_path)[:1])
    portrait, _, wide_drawn, _, shut_drawn = np.split(row.astype(int), 5, axis=1)
    assert np.abs(wide_drawn - portrait).max() <= 5  # the paint's cover starts at 0.02
    assert np.abs(shut_drawn - portrait).max() <= 5
