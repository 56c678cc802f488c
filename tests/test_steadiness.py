"""The figures of a steady background against clips whose swimming, motion and drift are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scene import Scene

from linker.background import stabilize_background
from linker.checks import steadied
from linker.config import BackgroundSettings
from linker.records import read_json
from linker.steadiness import POINTS, SIDE, Watch


def texture(side: int) -> np.ndarray:
    """Smooth noise, uint8 (side,side,3)."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (side, side, 3)).astype(np.float32), (0, 0), 4)
    return np.clip(noise / noise.std() * 40 + 128, 0, 255).astype(np.uint8)


def disc() -> np.ndarray:
    """A head in the middle of the crop, float32 (512,512)."""
    return cv2.circle(np.zeros((512, 512), np.float32), (256, 256), 100, 1.0, -1)


def watched(frames: list[np.ndarray], head: np.ndarray) -> Watch:
    watch = Watch(head)
    assert [frame is same for frame, same in zip(frames, watch.seen(frames), strict=True)] == [True] * len(frames)
    return watch


def test_a_planted_variance_is_found() -> None:
    wave = np.rint(8 * np.sin(np.arange(40) * np.pi / 4)).astype(int)  # whole periods
    signs = np.random.default_rng(1).choice([-1, 1], (SIDE, SIDE, 1))
    figures = watched([np.uint8(128 + level * np.repeat(signs, 3, axis=2)) for level in wave], disc()).figures(25)
    assert figures["background_variance"] == pytest.approx(wave.var(), abs=1e-3)
    assert figures["colour_drift"] < 0.5


def test_a_planted_motion_is_found() -> None:
    big, step = texture(400), 2.0
    moves = [np.float32([[1, 0, -50 - step * (index % 2)], [0, 1, -50]]) for index in range(12)]
    figures = watched([cv2.warpAffine(big, move, (256, 256)) for move in moves], disc()).figures(25)
    assert figures["head_motion"] == pytest.approx(1000 * step / 256, rel=0.25)
    assert watched([big] * 3, disc()).figures(25)["head_motion"] == 0


def test_a_planted_drift_of_colour_is_found() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    frames = [grey + np.uint8([0, 12 * index // 99, 0]) for index in range(100)]
    watch = watched(frames, disc())
    assert watch.figures(25)["colour_drift"] == pytest.approx(12 * 75 / 99, abs=0.6)
    curve = watch.curves()["colour"]
    assert len(curve) == POINTS
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(11.5, abs=0.8)


def test_the_rim_has_a_figure_of_its_own() -> None:
    """Hair that swims just outside the head is neither head nor background."""
    still = cv2.resize(texture(64), (512, 512))
    ring = cv2.circle(np.zeros((512, 512), np.uint8), (256, 256), 130, 1, 30).astype(bool)
    frames = [np.where(ring[..., None], still ^ np.uint8(16 * (index % 2)), still) for index in range(8)]
    swam, still_one = watched(frames, disc()).figures(25), watched([still] * 8, disc()).figures(25)
    assert (swam["background_variance"], still_one["rim_variance"]) == (0, 0)
    assert swam["rim_variance"] > 5
    steady = {**still_one, "background_variance": 1.0}
    found = {check.name: check for check in steadied({"before": steady, "after": swam})}
    assert found["rim about the head, share of its variance left"].state == "not applicable"
    found = {check.name: check for check in steadied({"before": swam, "after": {**swam, "rim_variance": 40.0}})}
    assert found["rim about the head, share of its variance left"].state == "warn"


def test_a_head_that_fills_the_crop_leaves_no_background() -> None:
    figures = watched([texture(64)] * 2, np.ones((512, 512), np.float32)).figures(25)
    assert (figures["background_variance"], figures["colour_drift"], figures["head_motion"]) == (None, None, 0)
    told = {"before": figures, "after": figures}
    assert {check.state for check in steadied(told)} == {"not applicable"}
    assert Watch(np.zeros((512, 512))).figures(25)["head_motion"] is None


def test_a_swimming_background_is_stilled_and_the_head_moves_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, side=96)
    scene.generate(50, sway=0.04, noise=6.0)
    told = tmp_path / "steadiness.json"
    stabilize_background(scene.generated, scene.face, scene.masks, tmp_path / "stable.mkv", told, BackgroundSettings())
    figures = read_json(told)
    planted = cv2.resize(np.random.default_rng(0).normal(0, 6, (8, 8, 3)).astype(np.float32), (96, 96)).var()
    assert figures["before"]["background_variance"] > 0.5 * planted
    assert figures["after"]["background_variance"] < 0.2 * figures["before"]["background_variance"]
    assert figures["before"]["colour_drift"] > 2
    assert figures["after"]["colour_drift"] < 1
    assert [check.state for check in steadied(figures)][::2] == ["pass", "pass"]
