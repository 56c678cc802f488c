"""normalize_audio: one loudness, no clipping, and a reason for every file that cannot be used."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linker.audio import examine_audio, find_speech, normalize_audio
from linker.config import AudioSettings, LimitSettings
from linker.loudness import measure_loudness, measure_samples
from linker.media import read_audio, write_wav

FEW = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RATE = 16_000


def tone(seconds: float, db: float, rate: int = RATE, hertz: float = 997) -> np.ndarray:
    time_s = np.arange(round(seconds * rate)) / rate
    return (10 ** (db / 20) * np.sin(2 * np.pi * hertz * time_s)).astype(np.float32)


def normalised(folder: Path, audio: Path, **limits: Any) -> tuple[np.ndarray, dict[str, Any]]:
    driver, loudness = folder / "driver.wav", folder / "loudness.json"
    normalize_audio(audio, driver, loudness, AudioSettings(), LimitSettings(**limits))
    with wave.open(str(driver)) as stream:
        assert (stream.getframerate(), stream.getnchannels(), stream.getsampwidth()) == (RATE, 1, 2)
    return read_audio(driver)[0], json.loads(loudness.read_text())


@FEW
@given(db=st.floats(-45, -3), rate=st.sampled_from([16_000, 44_100, 48_000]))
def test_the_meter_agrees_with_the_standard(tmp_path: Path, db: float, rate: int) -> None:
    """EBU Tech 3341: a 997 Hz sine of X dBFS in both channels measures X LUFS; in one channel 3 dB less."""
    write_wav(tmp_path / "a.wav", np.stack([tone(3, db, rate)] * 2), rate)
    both = measure_loudness(tmp_path / "a.wav")
    assert both.integrated_lufs == pytest.approx(db, abs=0.2)
    assert both.true_peak_db == pytest.approx(db, abs=0.3)
    assert measure_samples(tone(3, db, rate), rate).integrated_lufs == pytest.approx(db - 3.01, abs=0.2)


@FEW
@given(db=st.floats(-40, -3), rate=st.sampled_from([8000, 22_050, 48_000]), channels=st.integers(1, 3))
def test_the_driver_has_the_target_loudness(tmp_path: Path, db: float, rate: int, channels: int) -> None:
    write_wav(tmp_path / "a.wav", np.stack([tone(2, db, rate)] * channels), rate)
    driver, told = normalised(tmp_path, tmp_path / "a.wav")
    assert told["refusal"] is None
    assert told["output_lufs"] == pytest.approx(-23, abs=0.2)
    assert measure_loudness(tmp_path / "driver.wav").integrated_lufs == pytest.approx(told["output_lufs"], abs=0.1)
    assert (told["sample_rate_hz"], told["channels"]) == (rate, channels)
    assert told["duration_s"] == pytest.approx(2, abs=0.01) == len(driver) / RATE
    assert told["mono_lufs"] + told["gain_db"] == pytest.approx(told["output_lufs"], abs=0.15)


def test_the_gain_is_one_number_and_stops_before_clipping(tmp_path: Path) -> None:
    quiet = tone(4, -50)
    quiet[30_000:30_040] = 0.9  # a click over quiet sound: the full gain of 24 dB would clip it
    write_wav(tmp_path / "a.wav", quiet, RATE)
    driver, told = normalised(tmp_path, tmp_path / "a.wav")
    own, _ = read_audio(tmp_path / "a.wav")
    gains = driver[np.abs(own) > 1e-3] / own[np.abs(own) > 1e-3]
    assert gains.std() < 0.02 * gains.mean()
    assert told["output_true_peak_db"] <= -0.9
    assert np.abs(driver).max() < 0.95
    assert told["output_lufs"] < -23


def test_channels_that_cancel_each_other_are_heard(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.stack([tone(2, -20), -tone(2, -20)]), RATE)
    _, told = normalised(tmp_path, tmp_path / "a.wav")
    assert told["refusal"] is None
    assert told["output_lufs"] == pytest.approx(-23, abs=0.2)


@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.39, 0.45, 0.5])
def test_clips_shorter_than_the_meter_s_block_reach_the_target_too(tmp_path: Path, seconds: float) -> None:
    write_wav(tmp_path / "a.wav", tone(seconds, -35), RATE)
    driver, told = normalised(tmp_path, tmp_path / "a.wav")
    assert told["refusal"] is None
    assert told["output_lufs"] == pytest.approx(-23, abs=0.5)
    assert len(driver) == round(seconds * RATE)
    assert np.sqrt(np.mean(driver**2)) == pytest.approx(
        10 ** (-23 / 20), rel=0.1
    )  # a sine's LUFS in one channel is its RMS


@pytest.mark.parametrize(
    ("samples", "limits", "kind"),
    [
        (np.zeros(RATE * 2, np.float32), {}, "silent"),
        (tone(2, -75), {}, "silent"),
        (np.zeros(4000, np.float32), {}, "silent"),
        (tone(0.19, -20), {}, "too_short"),
        (tone(0.5, -20), {"min_audio_s": 1}, "too_short"),
        (tone(2, -20), {"max_audio_s": 1}, "too_long"),
        (tone(2, -20), {"max_audio_mb": 0.01}, "too_large"),
    ],
)
def test_sound_that_cannot_be_used_is_refused(
    tmp_path: Path, samples: np.ndarray, limits: dict[str, float], kind: str
) -> None:
    write_wav(tmp_path / "a.wav", samples, RATE)
    driver, told = normalised(tmp_path, tmp_path / "a.wav", **limits)
    assert told["refusal"]["kind"] == kind
    assert told["refusal"]["step"] == "normalize_audio"
    assert len(driver) > 0
    assert not driver.any()
    found = examine_audio(tmp_path / "a.wav", LimitSettings(**limits))
    assert found is not None
    assert found.to_json() == told["refusal"]


def test_files_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("to be or not to be\n" * 50)
    (tmp_path / "zero.wav").write_bytes(b"")
    for name, kind in {"text.wav": "undecodable", "zero.wav": "empty", "none.wav": "missing"}.items():
        _, told = normalised(tmp_path, tmp_path / name)
        assert told["refusal"]["kind"] == kind
        assert told["refusal"]["reason"].startswith(f"{name}: ")


def test_a_good_file_passes_the_examination(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", tone(1, -20), RATE)
    assert examine_audio(tmp_path / "a.wav", LimitSettings()) is None


def test_the_same_audio_gives_the_same_bytes(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.stack([tone(1, -20, 44_100), tone(1, -30, 44_100)]), 44_100)
    for name in ("one", "two"):
        normalised(tmp_path / name, tmp_path / "a.wav")
    for name in ("driver.wav", "loudness.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def voice(seconds: float) -> np.ndarray:
    """A buzzing voice: pulses through moving formants, in syllables; enough for a voice detector."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    pitch = np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time_s)) / RATE
    pulses = sum(np.sin(2 * np.pi * k * pitch) * _formants(k * 120, time_s) for k in range(1, 30))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time_s) + 0.6, 0, 1)
    return (0.1 * pulses * syllables).astype(np.float32)


def _formants(hertz: float, time_s: np.ndarray) -> np.ndarray:
    first, second = 550 + 200 * np.sin(2 * np.pi * 1.3 * time_s), 1500 + 500 * np.sin(2 * np.pi * 0.9 * time_s)
    return np.exp(-(((hertz - first) / 120) ** 2)) + 0.5 * np.exp(-(((hertz - second) / 150) ** 2))


def test_speech_is_found_where_it_is() -> None:
    sound = np.concatenate([np.zeros(2 * RATE, np.float32), voice(4), np.zeros(2 * RATE, np.float32)])
    spans = find_speech(sound, 0.5)
    assert spans
    assert 1.5 < spans[0][0] < 3.5
    assert spans[-1][1] < 6.6
    assert find_speech(np.zeros(2 * RATE, np.float32), 0.5) == []
