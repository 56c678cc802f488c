"""SyncNet as published: its size, its features, its distances; other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from linker.errors import EnvironmentError
from linker.model.syncnet import SyncNet, embed, load_syncnet, mfcc, score


def test_it_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = SyncNet()
    assert sum(value.numel() for value in net.parameters()) == 13_631_616
    assert "netcnnlip.0.weight" in net.state_dict()
    assert "netfcaud.3.bias" in net.state_dict()


def test_features_equal_python_speech_features() -> None:
    # What its version 0.6 gives for these 16-bit numbers; over all columns the largest difference was 2e-6.
    samples = (0.25 * np.sin(np.arange(1600) ** 1.5 / 40)).astype(np.float32)
    found = mfcc(samples)
    assert found.shape == (13, 9)
    expected = {(0, 0): 21.297116, (1, 0): 19.975478, (3, 5): 40.81, (12, 5): 10.484033}
    for (row, column), value in expected.items():
        assert found[row, column] == pytest.approx(value, rel=1e-4, abs=1e-4)


def test_score_finds_the_lag_and_its_margin() -> None:
    track = np.random.default_rng(0).standard_normal((80, 1024)).astype(np.float32)
    for early in (-6, 0, 4):
        found = score(track[20:60], track[20 - early : 60 - early])
        assert found.offset == -early
        # Matching rows are equal, the others two random vectors apart; rows past the padding count their own length.
        assert found.sync_d < found.sync_c
    assert score(track[20:60], track[20:60]).sync_d == pytest.approx(0, abs=0.01)


def test_windows_are_as_many_as_the_authors_take() -> None:
    torch.manual_seed(0)
    faces = np.zeros((8, 224, 224, 3), np.uint8)
    lips, sounds = embed(SyncNet().eval(), faces, np.zeros(16000, np.float32))
    assert lips.shape == sounds.shape == (3, 1024)  # min(frames, sound) - 5
    assert embed(SyncNet().eval(), faces[:4], np.zeros(16000, np.float32))[0].shape == (0, 1024)


def test_only_its_own_weights_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = SyncNet().eval()
    torch.save(net.state_dict(), tmp_path / "syncnet_v2.model")
    again = load_syncnet(tmp_path / "syncnet_v2.model")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.model")
    (tmp_path / "text.model").write_text("hello")
    for name in ("other.model", "text.model", "gone.model"):
        with pytest.raises(EnvironmentError, match=name):
            load_syncnet(tmp_path / name)
