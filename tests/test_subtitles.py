"""Subtitles that whisper hears: in order, apart, within the clip; and no guess without weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_language import write_checkpoint
from whisper.tokenizer import get_tokenizer

from linker.errors import LinkerError
from linker.media import write_wav
from linker.subtitles import transcribe


def test_whisper_s_segments_become_cues(tmp_path: Path) -> None:
    """A tiny whisper in the real layout that says one word over and over: its segments come back as cues."""
    path = write_checkpoint(tmp_path / "w.pt", {"en": 9.0})
    checkpoint = torch.load(path, weights_only=True)
    tokenizer = get_tokenizer(multilingual=True, num_languages=99)
    word = tokenizer.encode(" hello")[0]
    checkpoint["model_state_dict"]["decoder.token_embedding.weight"][word] = 1.0
    torch.save(checkpoint, path)
    write_wav(tmp_path / "d.wav", np.random.default_rng(0).normal(0, 0.1, 5 * 16_000).astype(np.float32), 16_000)
    cues = transcribe(tmp_path / "d.wav", str(path), "en")
    assert cues == transcribe(tmp_path / "d.wav", str(path), "en")
    assert len(cues) == 1
    assert cues[0][0] == 0
    assert set(cues[0][2].split()) == {"hello"}


def test_without_weights_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(LinkerError, match=r"set language\.whisper"):
        transcribe(tmp_path / "d.wav", "", "en")
