"""The drift guard: planted drift is a breach, motion and speech are none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scene import Scene

from linker.drift import Guard


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"), side=128)


def guard_of(scene: Scene) -> tuple[Guard, np.ndarray]:
    portrait = scene.cut(scene.picture(), 128)
    with np.load(scene.masks) as arrays:
        masks = np.stack([arrays[name].astype(np.float32) for name in ("head", "mouth", "eyes")])
    return Guard(portrait, masks), portrait


def tinted(picture: np.ndarray, red: int, blue: int) -> np.ndarray:
    return np.clip(picture.astype(int) + np.array([red, 0, blue]), 0, 255).astype(np.uint8)


def test_the_portrait_has_not_drifted(scene: Scene) -> None:
    guard, portrait = guard_of(scene)
    found = guard.look(portrait)
    assert (found.sharpness, found.colour, found.is_breach) == (1.0, 0.0, False)
    assert found.likeness == pytest.approx(1, abs=1e-3)


def test_a_moving_speaking_head_is_no_breach(scene: Scene) -> None:
    guard, _ = guard_of(scene)
    assert not [found for frame in scene.moved(50) if (found := guard.look(frame)).is_breach]


@pytest.mark.parametrize("name", ["blurred", "oversharp", "tinted", "dark", "another", "flat"])
def test_planted_drift_is_a_breach(scene: Scene, name: str, tmp_path: Path) -> None:
    guard, portrait = guard_of(scene)
    spoilt = {
        "blurred": cv2.GaussianBlur(portrait, (0, 0), 2.5),
        "oversharp": np.clip(3.0 * portrait - 2.0 * cv2.GaussianBlur(portrait, (0, 0), 2), 0, 255).astype(np.uint8),
        "tinted": tinted(portrait, 18, -18),
        "dark": (portrait * 0.8).astype(np.uint8),
        "another": np.ascontiguousarray(portrait[::-1]),
        "flat": np.full_like(portrait, 128),
    }
    assert guard.look(spoilt[name]).is_breach


def test_drift_grows_with_what_causes_it(scene: Scene) -> None:
    guard, portrait = guard_of(scene)
    blurred = [guard.look(cv2.GaussianBlur(portrait, (0, 0), sigma)).sharpness for sigma in (0.5, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)
    redder = [guard.look(tinted(portrait, shift, 0)).colour for shift in (4, 8, 16)]
    assert redder == sorted(redder)
