"""The embedded weights speak: mouths in generated pixels follow their own speech, not another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from figures import correlation, generated, prepare, sync_of

from linker.config import GenerateSettings


def test_mouths_follow_their_own_speech(tmp_path: Path) -> None:
    """Portraits and voices never trained on; `python tests/figures.py` is the whole measurement."""
    pytest.importorskip("espeakng_loader")
    prepared = [prepare(number, tmp_path) for number in range(4)]
    found = sync_of(prepared, generated(prepared, tmp_path, GenerateSettings(), "clips"))
    assert found["own"] - found["other"] >= 0.3


def test_the_measure_knows_a_shifted_curve_from_its_own() -> None:
    time = np.arange(60) / 5
    curve = np.maximum(np.sin(time), 0)
    assert correlation(curve, curve) == pytest.approx(1)
    assert correlation(curve, np.maximum(np.sin(time + np.pi), 0)) < 0
    assert correlation(np.where(time < 6, np.nan, curve), curve) == pytest.approx(1)
