"""upscale_video: the crop's own size, the same picture, every frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scene import Scene

from linker.config import FinishSettings, UpscaleSettings
from linker.media import probe, read_frames
from linker.upscale import upscale_video


def upscaled(scene: Scene, settings: FinishSettings) -> list[np.ndarray]:
    scene.generate(3, noise=0, drift=0)
    path = scene.root / "upscaled.mkv"
    upscale_video(scene.generated, scene.crop, path, UpscaleSettings(), settings)
    assert probe(path).video.fps == 25
    return list(read_frames(path))


def test_the_crops_own_size(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    frames = upscaled(scene, FinishSettings())
    side = scene.box[2] - scene.box[0]
    assert [frame.shape for frame in frames] == [(side, side, 3)] * 3
    truth = scene.cut(scene.picture((0, 0.4 * 0.06 * scene.head_px * 0.94), 0.5), side).astype(int)
    assert np.abs(frames[0] - truth)[20:60, 20:60].mean() < 12  # in place: a shifted wall would differ more


def test_the_longest_side_is_limited(tmp_path: Path) -> None:
    frames = upscaled(Scene(tmp_path), FinishSettings(max_side_px=200))
    assert frames[0].shape == (104, 104, 3)  # a crop of 208 in a portrait 400 high
    frames = upscaled(Scene(tmp_path), FinishSettings(max_side_px=150, layout="crop"))
    assert frames[0].shape == (150, 150, 3)


def test_smaller_is_averaged_and_not_picked(tmp_path: Path) -> None:
    frames = upscaled(Scene(tmp_path, side=256), FinishSettings(max_side_px=128))
    before = list(read_frames(tmp_path / "generated.mkv"))
    assert abs(frames[0].mean() - before[0].mean()) < 1
