"""detect_language: which language a driver speaks, by whisper on several windows with speech, or an honest 'und'."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linker.config import SAMPLE_RATE_HZ, LanguageSettings
from linker.media import read_audio
from linker.records import read_json, write_json

WINDOW_S = 30.0  # what whisper listens to at once
_ENOUGH_S = 2.0  # speech in a window that may vote, where there are such windows
_OLD_CODES = {"jw": "jv"}  # whisper's codes that BCP-47 has given up
_UNCONFIGURED = "no language model is configured; name the language in the manifest or set language.whisper"


def detect_language(driver: Path, loudness: Path, language: Path, settings: LanguageSettings) -> None:
    """Write `language` (JSON) for a normalised `driver` and its `loudness` (JSON with the spans of speech).

    Raises EnvironmentError when weights are configured but missing.
    """
    told = read_json(loudness)
    if told["refusal"]:
        write_json(language, {**_undetermined(told["refusal"]["reason"]), "refusal": told["refusal"]})
        return
    found = _listen(driver, told, settings)
    print(f"language {found['language']} {found['reason']}".strip(), file=sys.stderr)
    write_json(language, {**found, "refusal": None})


def _listen(driver: Path, told: dict[str, Any], settings: LanguageSettings) -> dict[str, Any]:
    if not settings.whisper:
        return _undetermined(_UNCONFIGURED)
    if told["speech_s"] < settings.min_speech_s:
        return _undetermined(f"{told['speech_s']:.1f} s of speech, needed {settings.min_speech_s:g} s")
    starts = choose_windows(told["speech"], settings.windows)
    if not starts:
        return _undetermined("no speech was found")
    samples, _ = read_audio(driver)
    windows = [samples[round(start * SAMPLE_RATE_HZ) :][: round(WINDOW_S * SAMPLE_RATE_HZ)] for start in starts]
    return _verdict(probabilities(windows, settings.whisper), settings.min_agreement)


def choose_windows(speech: Sequence[Sequence[float]], count: int) -> list[float]:
    """Starts (s) of at most `count` windows, apart from each other and spread over the spans of `speech`."""
    starts, free_s = [], 0.0
    for begin, end in speech:
        while max(begin, free_s) < end:
            starts.append(max(begin, free_s))
            free_s = starts[-1] + WINDOW_S
    voting = [start for start in starts if _speech_after(start, speech) >= _ENOUGH_S] or starts
    spread = np.linspace(0, len(voting) - 1, min(count, len(voting)))
    return [voting[round(place)] for place in spread]


def _speech_after(start: float, speech: Sequence[Sequence[float]]) -> float:
    """Seconds of speech in the window that begins at `start`."""
    return sum(max(0.0, min(end, start + WINDOW_S) - max(begin, start)) for begin, end in speech)


def probabilities(windows: list[np.ndarray], weights: str) -> list[dict[str, float]]:
    """Of each window, float32 (samples,) at 16 kHz: how probable every language is. Raises EnvironmentError."""
    import whisper

    from linker.backends import load_whisper

    model = load_whisper(weights)
    heard = []
    for window in windows:
        picture = whisper.log_mel_spectrogram(whisper.pad_or_trim(window), n_mels=model.dims.n_mels)
        heard.append(whisper.detect_language(model, picture.to(model.device))[1])
    return heard


def _verdict(heard: list[dict[str, float]], min_agreement: float) -> dict[str, Any]:
    """The language with the highest mean probability, if that reaches `min_agreement`."""
    means = {code: sum(window[code] for window in heard) / len(heard) for code in heard[0]}
    first, second = sorted(means, key=lambda code: -means[code])[:2]
    found = {
        "language": _OLD_CODES.get(first, first),
        "source": "whisper",
        "probability": round(means[first], 4),
        "windows": len(heard),
        "reason": "",
    }
    if means[first] < min_agreement:
        close = f"{first} {means[first]:.2f}, {second} {means[second]:.2f}, needed {min_agreement:g}"
        found |= {"language": "und", "reason": f"{len(heard)} windows do not agree ({close})"}
    return found


def _undetermined(reason: str) -> dict[str, Any]:
    return {"language": "und", "source": "none", "probability": None, "windows": 0, "reason": reason}
