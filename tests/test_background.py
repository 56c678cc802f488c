"""stabilize_background against a video whose truth is known: the wall stands still, the head goes on moving."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scene import Scene

from linker import compose
from linker.background import stabilize_background
from linker.config import BackgroundSettings
from linker.errors import LinkerError
from linker.media import lossless_writer, read_frames

FRAMES = 25


def stabilized(scene: Scene, settings: BackgroundSettings) -> np.ndarray:
    stable = scene.root / "stable.mkv"
    stabilize_background(scene.generated, scene.face, scene.masks, stable, scene.root / "steadiness.json", settings)
    return np.stack(list(read_frames(stable))).astype(np.float32)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(tmp_path_factory.mktemp("scene"), side=96)
    scene.generate(FRAMES, sway=0.12)
    return scene


@pytest.fixture(scope="module")
def result(scene: Scene) -> np.ndarray:
    return stabilized(scene, BackgroundSettings())


def away(scene: Scene, distance: float) -> np.ndarray:
    """Bool: pixels further than `distance` crop sides from the head."""
    return compose.head_weight(compose.read_masks(scene.masks)["head"], scene.video_px, distance, 0.001) == 0


def test_every_frame_is_there(result: np.ndarray) -> None:
    assert result.shape == (FRAMES, 96, 96, 3)


def test_the_wall_stands_still_and_is_the_portraits(scene: Scene, result: np.ndarray) -> None:
    before = np.stack(list(read_frames(scene.generated))).astype(np.float32)
    wall = away(scene, 0.15)
    assert result.std(axis=0)[wall].mean() < 0.2 * before.std(axis=0)[wall].mean()
    still = scene.cut(scene.picture(), 96).astype(np.float32)
    assert np.abs(result[:, wall] - still[wall]).mean() < 1.5


def test_the_head_moves_on_without_a_ghost(scene: Scene, result: np.ndarray) -> None:
    before = np.stack(list(read_frames(scene.generated))).astype(np.float32)
    truth = np.stack(list(scene.moved(FRAMES, 0.12))).astype(np.float32)
    around = ~away(scene, 0.12)
    assert np.abs(result - truth)[:, around].mean() < 0.7 * np.abs(before - truth)[:, around].mean()
    worst = max(cv2.GaussianBlur(error, (0, 0), 2).max() for error in np.abs(result - truth))
    ghostly = np.abs(scene.cut(scene.picture(), 96) - truth[12]).max()
    assert worst < 0.3 * ghostly  # nowhere does the portrait's own, unmoved hair show through


def test_colour_comes_back_to_the_portraits(scene: Scene, result: np.ndarray) -> None:
    before = np.stack(list(read_frames(scene.generated))).astype(np.float32)
    truth = np.stack(list(scene.moved(FRAMES, 0.12))).astype(np.float32)
    skin = np.s_[:, 40:60, 38:58]
    found, was = (np.abs((video - truth)[skin].mean(axis=(0, 1, 2))).max() for video in (result, before))
    assert found < 0.6 * was


def test_a_still_video_of_the_portrait_stays_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    still = compose.resize(scene.cut(scene.picture(), 512), 64)
    with lossless_writer(scene.generated, 64, 64) as writer:
        for _ in range(3):
            writer.write(still)
    assert np.abs(stabilized(scene, BackgroundSettings()) - still).max() <= 1


def test_settings_change_the_result(scene: Scene, result: np.ndarray) -> None:
    for change in ({"margin": 0.3}, {"feather": 0.3}, {"follow": 0.0}):
        assert not np.array_equal(stabilized(scene, BackgroundSettings(**change)), result), change


def test_a_head_that_fills_the_crop_is_left_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.generate(2)
    np.savez(scene.masks, **{name: np.ones((512, 512), np.float16) for name in ("head", "mouth", "eyes", "alpha")})
    before = np.stack(list(read_frames(scene.generated)))
    assert np.array_equal(stabilized(scene, BackgroundSettings()), before)


def test_a_video_that_is_not_square_is_named(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with lossless_writer(scene.generated, 64, 48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(LinkerError, match="64 x 48"):
        stabilized(scene, BackgroundSettings())
    assert not (tmp_path / "stable.mkv").exists()
