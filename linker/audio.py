"""normalize_audio: what the model hears of an audio file, at one rate and loudness, and where in it somebody speaks.

The viewer hears the file itself; only the driver is changed, by one linear gain.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linker.config import SAMPLE_RATE_HZ, AudioSettings, LimitSettings
from linker.loudness import SHORTEST_S, Loudness, measure_loudness, measure_samples
from linker.media import AudioInfo, Undecodable, check_file, plain, probe, read_audio, write_wav
from linker.records import Refusal, sha256_file, write_json

_STEP = "normalize_audio"
_CEILING_DB = -1.0  # dBTP the driver may reach: the gain stops there, so that nothing clips
_REFUSED_S = 0.2  # silence that stands in for the driver of a refused audio


@dataclass(frozen=True)
class Heard:
    """An accepted audio: float32 (samples,) at 16 kHz before the gain, and the loudness of it and of its source."""

    samples: np.ndarray
    track: AudioInfo
    source: Loudness
    mono: Loudness


def normalize_audio(audio: Path, driver: Path, loudness: Path, settings: AudioSettings, limits: LimitSettings) -> None:
    """Write `driver` (16 kHz mono PCM16 at the target loudness) and `loudness` (JSON), or the refusal and silence."""
    try:
        check_file(audio)
        source = sha256_file(audio)  # before it is read: a file replaced meanwhile is noticed
        heard = hear(audio, settings, limits)
    except Undecodable as fault:
        refusal = Refusal(fault.kind, str(fault), _STEP)
        print(f"refused ({refusal.kind}): {refusal.reason}", file=sys.stderr)
        write_wav(driver, np.zeros(round(_REFUSED_S * SAMPLE_RATE_HZ), np.float32), SAMPLE_RATE_HZ)
        write_json(loudness, _told_refused(refusal))
        return
    gain_db = min(settings.target_lufs - heard.mono.integrated_lufs, _CEILING_DB - heard.mono.true_peak_db)
    samples = heard.samples * np.float32(10 ** (gain_db / 20))
    write_wav(driver, samples, SAMPLE_RATE_HZ)
    write_json(loudness, {**_told(heard, gain_db, samples, settings), "source_sha256": source})


def examine_audio(path: Path, limits: LimitSettings, settings: AudioSettings | None = None) -> Refusal | None:
    """What `normalize_audio` would refuse, without writing anything: the whole file is decoded and measured."""
    try:
        hear(path, settings or AudioSettings(), limits)
    except Undecodable as fault:
        return Refusal(fault.kind, str(fault), _STEP)
    return None


def hear(path: Path, settings: AudioSettings, limits: LimitSettings) -> Heard:
    """Decode and measure. Raises Undecodable for everything that an audio can be refused for."""
    size_mb = check_file(path) / 1e6
    if size_mb > limits.max_audio_mb:
        raise _unusable("too_large", path, f"{size_mb:.1f} MB, at most {limits.max_audio_mb:g}")
    track = probe(path).audio
    if track is None:
        raise Undecodable("no_audio", f"{plain(path)}: holds no sound track")
    samples, _ = read_audio(path, SAMPLE_RATE_HZ, max_s=limits.max_audio_s + 1)
    _check_length(path, len(samples) / SAMPLE_RATE_HZ, limits)
    is_short = len(samples) < SHORTEST_S * SAMPLE_RATE_HZ
    mono = measure_samples(samples, SAMPLE_RATE_HZ)
    source = mono if is_short else measure_loudness(path)
    if mono.integrated_lufs <= settings.silence_lufs < source.integrated_lufs:  # channels that cancel each other
        samples = _loudest_channel(path)
        mono = measure_samples(samples, SAMPLE_RATE_HZ)
    if mono.integrated_lufs <= settings.silence_lufs:
        raise _unusable("silent", path, f"{_level(mono)}, needed over {settings.silence_lufs:g} LUFS")
    return Heard(samples, track, source, mono)


def _check_length(path: Path, length_s: float, limits: LimitSettings) -> None:
    if length_s < limits.min_audio_s:
        raise _unusable("too_short", path, f"{length_s:.2f} s, at least {limits.min_audio_s:g}")
    if length_s > limits.max_audio_s:
        raise _unusable("too_long", path, f"over {limits.max_audio_s:g} s")


def _unusable(kind: str, path: Path, found: str) -> Undecodable:
    return Undecodable(kind, f"{plain(path)}: is {kind.replace('_', ' ')} ({found})")


def _loudest_channel(path: Path) -> np.ndarray:
    channels, _ = read_audio(path, SAMPLE_RATE_HZ, mono=False)
    return np.asarray(channels[np.square(channels).mean(axis=1).argmax()])


def _level(loudness: Loudness) -> str:
    return f"{loudness.integrated_lufs:.1f} LUFS" if math.isfinite(loudness.integrated_lufs) else "nothing to measure"


def find_speech(samples: np.ndarray, threshold: float) -> list[list[float]]:
    """Where somebody speaks in float32 (samples,) at 16 kHz: [[start_s, end_s], ...]; empty for song and noise too."""
    import torch
    from silero_vad import get_speech_timestamps

    from linker.backends import load_voice_activity

    spans = get_speech_timestamps(torch.from_numpy(samples), load_voice_activity(), threshold=threshold)
    return [[round(span["start"] / SAMPLE_RATE_HZ, 3), round(span["end"] / SAMPLE_RATE_HZ, 3)] for span in spans]


def _told(heard: Heard, gain_db: float, samples: np.ndarray, settings: AudioSettings) -> dict[str, Any]:
    speech = find_speech(samples, settings.speech_threshold)
    after = measure_samples(samples, SAMPLE_RATE_HZ)
    return {
        "refusal": None,
        "duration_s": len(samples) / SAMPLE_RATE_HZ,
        "sample_rate_hz": heard.track.sample_rate_hz,
        "channels": heard.track.channels,
        "input_lufs": _finite(heard.source.integrated_lufs),
        "input_true_peak_db": _finite(heard.source.true_peak_db),
        "mono_lufs": heard.mono.integrated_lufs,
        "gain_db": round(gain_db, 2),
        "output_lufs": after.integrated_lufs,
        "output_true_peak_db": after.true_peak_db,
        "speech": speech,
        "speech_s": round(sum(end - start for start, end in speech), 3),
    }


def _told_refused(refusal: Refusal) -> dict[str, Any]:
    figures = ("input_lufs", "input_true_peak_db", "mono_lufs", "gain_db", "output_lufs", "output_true_peak_db")
    return {
        "refusal": refusal.to_json(),
        "duration_s": 0.0,
        "sample_rate_hz": None,
        "channels": None,
        **dict.fromkeys(figures),
        "speech": [],
        "speech_s": 0.0,
    }


def _finite(figure: float) -> float | None:
    """JSON knows no infinity."""
    return figure if math.isfinite(figure) else None
