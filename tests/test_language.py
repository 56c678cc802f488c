"""detect_language: windows with speech vote, and too little, disagreement or no model give an honest 'und'."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper
from hypothesis import given
from hypothesis import strategies as st
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from linker.backends import find_whisper, load_whisper
from linker.config import LanguageSettings
from linker.errors import EnvironmentError
from linker.language import WINDOW_S, choose_windows, detect_language
from linker.media import write_wav

RATE = 16_000
SPANS = st.lists(st.tuples(st.floats(0.1, 20), st.floats(0.1, 50)), min_size=1, max_size=12)


def write_checkpoint(path: Path, favoured: dict[str, float], n_mels: int = 80, n_vocab: int = 51_865) -> Path:
    """A tiny whisper in OpenAI's layout that hears the `favoured` languages, each with its logit, in any sound."""
    torch.manual_seed(0)
    model = Whisper(ModelDimensions(n_mels, 1500, 16, 2, 1, n_vocab, 448, 16, 2, 1))
    model.decoder.positional_embedding.data.zero_()
    weight = model.decoder.token_embedding.weight.data.zero_()
    model.decoder.ln.weight.data.zero_()
    model.decoder.ln.bias.data.fill_(1)
    tokens = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    for code, logit in favoured.items():
        weight[tokens.to_language_token(code)] = logit / 16
    torch.save({"dims": vars(model.dims), "model_state_dict": model.state_dict()}, path)
    return path


def detected(folder: Path, speech: list[list[float]], refusal: Any = None, **settings: Any) -> dict[str, Any]:
    length_s = max([end for _, end in speech], default=1) + 1
    noise = np.random.default_rng(0).normal(0, 0.05, round(length_s * RATE)).astype(np.float32)
    write_wav(folder / "driver.wav", noise, RATE)
    told = {"refusal": refusal, "speech": speech, "speech_s": sum(end - start for start, end in speech)}
    (folder / "loudness.json").write_text(json.dumps(told))
    names = (folder / name for name in ("driver.wav", "loudness.json", "language.json"))
    detect_language(*names, LanguageSettings(**settings))
    found: dict[str, Any] = json.loads((folder / "language.json").read_text())
    return found


@pytest.mark.parametrize("code", ["ja", "th", "fr"])
def test_the_model_s_word_is_told(tmp_path: Path, code: str) -> None:
    weights = write_checkpoint(tmp_path / "w.pt", {code: 20.0})
    found = detected(tmp_path, [[0.5, 9.0], [40.0, 48.0]], whisper=str(weights))
    assert (found["language"], found["source"], found["windows"]) == (code, "whisper", 2)
    assert found["probability"] > 0.99
    assert found["reason"] == ""
    assert found["refusal"] is None


def test_the_large_model_s_layout_is_read_too(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "w.pt", {"yue": 20.0}, n_mels=128, n_vocab=51_866)
    assert detected(tmp_path, [[0.5, 9.0]], whisper=str(weights))["language"] == "yue"


def test_an_old_code_is_told_as_today_s(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "w.pt", {"jw": 20.0})
    assert detected(tmp_path, [[0.5, 9.0]], whisper=str(weights))["language"] == "jv"


def test_disagreement_stays_undetermined(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "w.pt", {"en": 20.0, "fr": 20.0})
    found = detected(tmp_path, [[0.5, 9.0]], whisper=str(weights))
    assert (found["language"], found["source"]) == ("und", "whisper")
    assert found["probability"] == pytest.approx(0.5, abs=0.01)
    assert "en 0.50" in found["reason"]
    assert "fr 0.50" in found["reason"]


def test_windows_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows surely English and one surely French: English by two thirds."""
    answers = iter([{"en": 1.0, "fr": 0.0}, {"en": 0.0, "fr": 1.0}, {"en": 1.0, "fr": 0.0}])
    monkeypatch.setattr(whisper, "detect_language", lambda model, picture: (None, next(answers)))
    weights = write_checkpoint(tmp_path / "w.pt", {"en": 1.0})
    found = detected(tmp_path, [[0.0, 90.0]], whisper=str(weights))
    assert (found["language"], found["windows"]) == ("en", 3)
    assert found["probability"] == pytest.approx(2 / 3, abs=1e-3)


def test_without_a_model_the_reason_says_what_to_do(tmp_path: Path) -> None:
    found = detected(tmp_path, [[0.0, 20.0]])
    assert (found["language"], found["source"], found["probability"]) == ("und", "none", None)
    assert "language.whisper" in found["reason"]
    assert "manifest" in found["reason"]


@pytest.mark.parametrize("speech", [[], [[1.0, 3.0], [5.0, 7.9]]])
def test_little_speech_stays_undetermined(tmp_path: Path, speech: list[list[float]]) -> None:
    weights = write_checkpoint(tmp_path / "w.pt", {"en": 20.0})
    found = detected(tmp_path, speech, whisper=str(weights))
    assert found["language"] == "und"
    assert "needed 5 s" in found["reason"]
    assert detected(tmp_path, [], whisper=str(weights), min_speech_s=0)["reason"] == "no speech was found"


def test_a_refused_audio_is_passed_on(tmp_path: Path) -> None:
    refusal = {"kind": "silent", "reason": "a.wav: is silent", "step": "normalize_audio"}
    found = detected(tmp_path, [], refusal, whisper="/none.pt")
    assert found["refusal"] == refusal
    assert (found["language"], found["reason"]) == ("und", "a.wav: is silent")


@given(gaps=SPANS, count=st.integers(1, 8))
def test_windows_hold_speech_and_lie_apart(gaps: list[tuple[float, float]], count: int) -> None:
    ends = np.cumsum([length for pair in gaps for length in pair])
    speech = list(zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True))
    starts = choose_windows(speech, count)
    assert 1 <= len(starts) <= count
    assert all(later - earlier >= WINDOW_S - 1e-6 for earlier, later in pairwise(starts))
    assert all(any(begin <= start < end for begin, end in speech) for start in starts)


def test_windows_are_spread_and_prefer_more_speech() -> None:
    assert choose_windows([[0, 3600]], 4) == [0, 1200, 2370, 3570]
    assert choose_windows([[0, 0.5], [100, 110], [200, 200.5]], 4) == [100]
    assert choose_windows([[3, 3.5]], 4) == [3]
    assert choose_windows([], 4) == []


def test_named_weights_are_looked_for_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINKER_WHISPER_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentError, match=r"whisper.load_model\('small'\)"):
        load_whisper("small")
    (tmp_path / "whisper").mkdir()
    write_checkpoint(tmp_path / "whisper" / "large-v3.pt", {"en": 1.0})
    assert find_whisper("large") == find_whisper("large-v3") == tmp_path / "whisper" / "large-v3.pt"
    assert load_whisper("large").is_multilingual
    monkeypatch.setenv("LINKER_WHISPER_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(EnvironmentError, match="elsewhere"):
        load_whisper("large")


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError, match=r"existing \.pt file"):
        load_whisper(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("not weights")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(EnvironmentError, match="no openai-whisper checkpoint"):
            load_whisper(str(tmp_path / name))
    write_checkpoint(tmp_path / "english.pt", {}, n_vocab=51_864)
    with pytest.raises(EnvironmentError, match="English alone"):
        load_whisper(str(tmp_path / "english.pt"))
