"""EBU R128 loudness, by ffmpeg's own meter: the same figures a broadcaster's tools show."""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from linker.errors import EnvironmentError
from linker.media import GUARDS, Undecodable, plain, read_audio

SHORTEST_S = 0.5  # the meter's gating blocks last 0.4 s: shorter sound has no integrated loudness of its own
CEILING_DB = -1.0  # dBTP that levelled sound stays under
_LIMIT_DB = -1.5  # where the limiter works: a lossy encoder adds some tenths, and more at under 64 kbit/s
_REPEATED_S = 3.0
_FLOOR_LUFS = -70.0  # what the meter shows when no block passed the absolute gate
_FIGURE = re.compile(r"^\s*(I|LRA|Peak):\s+(-?inf|nan|-?[\d.]+) (?:LUFS|LU|dBFS)\s*$", re.MULTILINE)
_FULL = re.compile(r"^\S.*(No space left on device|Disk quota exceeded)", re.MULTILINE)  # what ffmpeg cites is indented


@dataclass(frozen=True)
class Loudness:
    """Integrated loudness (LUFS) and highest true peak (dBTP), both -inf in silence, and loudness range (LU)."""

    integrated_lufs: float
    true_peak_db: float
    range_lu: float


def ffmpeg_exe() -> str:
    """The ffmpeg program: the wheel's, unless IMAGEIO_FFMPEG_EXE names another. Raises EnvironmentError."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise EnvironmentError("no ffmpeg program; pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE") from None


def measure_loudness(path: Path) -> Loudness:
    """Loudness of a file's first sound track, all its channels. Raises Undecodable."""
    metered = _metered(ffmpeg.input(f"file:{path.resolve()}", **GUARDS)["a:0"])
    done = _run(metered, b"")
    if done.returncode:
        raise Undecodable("undecodable", f"{plain(path)}: cannot be decoded ({_last_line(done)})")
    return _figures(done)


def measure_samples(samples: np.ndarray, rate_hz: int) -> Loudness:
    """Loudness of float samples (samples,), one channel. Sound too short for the meter is measured as repeated."""
    if len(samples) < SHORTEST_S * rate_hz:
        samples = np.tile(samples, math.ceil(_REPEATED_S * rate_hz / len(samples)))
    metered = _metered(ffmpeg.input("pipe:", format="f32le", ar=rate_hz, ac=1))
    done = _run(metered, samples.astype("<f4").tobytes())
    if done.returncode:
        raise EnvironmentError(f"{ffmpeg_exe()} cannot measure loudness ({_last_line(done)}); unset IMAGEIO_FFMPEG_EXE")
    return _figures(done)


def mix_down(path: Path, mixed: Path, rate_hz: int) -> None:
    """Write the first sound track of `path` as two channels into `mixed` (WAV, float). Raises Undecodable, and
    EnvironmentError where there is no room."""
    sound = ffmpeg.input(f"file:{path.resolve()}", **GUARDS)["a:0"]
    written = sound.output(
        f"file:{mixed.resolve()}", format="wav", acodec="pcm_f32le", ac=2, ar=rate_hz, fflags="+bitexact"
    )
    done = _run(written.overwrite_output(), b"")
    _refuse_failed(done, mixed, f"{plain(path)}: cannot be mixed to two channels")


def level(path: Path, levelled: Path, target_lufs: float, rate_hz: int) -> Loudness:
    """Write the first sound track of `path` at `target_lufs` into `levelled` (WAV, float, `rate_hz`); its loudness now.

    One gain for the whole clip, and a limiter at four times the rate for true peaks over CEILING_DB. What the limiter
    takes away, a second and third try give back. Raises Undecodable for silence, which no gain makes loud, and
    EnvironmentError where there is no room.
    """
    before = _even_if_short(path)
    if not math.isfinite(before.integrated_lufs):
        raise Undecodable("silent", f"{plain(path)}: has no loudness to bring to {target_lufs:g} LUFS")
    gain_db, after = target_lufs - before.integrated_lufs, before
    for _ in range(3):
        sound = ffmpeg.input(f"file:{path.resolve()}", **GUARDS)["a:0"].filter("volume", f"{gain_db:.3f}dB")
        sound = sound.filter("aresample", 4 * rate_hz)
        sound = sound.filter(
            "alimiter", limit=10 ** (_LIMIT_DB / 20), attack=2, release=60, level="disabled", latency="1"
        )
        sound = sound.filter("aresample", rate_hz)
        written = sound.output(f"file:{levelled.resolve()}", format="wav", acodec="pcm_f32le", fflags="+bitexact")
        done = _run(written.overwrite_output(), b"")
        _refuse_failed(done, levelled, f"{plain(path)}: cannot be levelled")
        after = _even_if_short(levelled)
        if abs(after.integrated_lufs - target_lufs) < 0.1:
            break
        gain_db += target_lufs - after.integrated_lufs
    return after


def _even_if_short(path: Path) -> Loudness:
    """Loudness of a file, of its mean channel where it is too short for the meter."""
    samples, rate_hz = read_audio(path, max_s=SHORTEST_S)
    return measure_samples(samples, rate_hz) if len(samples) < SHORTEST_S * rate_hz else measure_loudness(path)


def _metered(sound: Any) -> Any:
    return sound.filter("ebur128", peak="true", framelog="quiet").output("-", format="null")


def _run(stream: Any, sound: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ffmpeg.compile(stream.global_args("-hide_banner", "-nostats"), cmd=ffmpeg_exe())
    return subprocess.run(command, input=sound, capture_output=True, check=False)


def _refuse_failed(done: subprocess.CompletedProcess[bytes], written: Path, told: str) -> None:
    """Raises EnvironmentError where there was no room for what was written, else Undecodable with what is told."""
    if done.returncode == 0:
        return
    if full := _FULL.search(done.stderr.decode(errors="replace")):
        raise EnvironmentError(f"{written.parent}: {full[1]}; make room, and run again")
    raise Undecodable("undecodable", f"{told} ({_last_line(done)})")


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")


def _figures(done: subprocess.CompletedProcess[bytes]) -> Loudness:
    """The summary that the meter leaves at the end."""
    found = {name: float(figure) for name, figure in _FIGURE.findall(done.stderr.decode(errors="replace"))}
    integrated = found["I"] if found["I"] > _FLOOR_LUFS else -math.inf
    return Loudness(integrated, found["Peak"], found["LRA"])
