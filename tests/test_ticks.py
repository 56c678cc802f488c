"""Footage by an even clock: any frame rate becomes 25 a second, and the sound stays with its pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from linker.config import SAMPLE_RATE_HZ
from linker.media import Undecodable
from linker.ticks import read_clocks, read_sound, ticks

SIZE = 64


def write_video(
    path: Path, times: list[Fraction], sound_from_s: float | None = None, clicks: tuple[float, ...] = ()
) -> None:
    """Frames at the given times, each a grey of its own number; a click in the sound at each of `clicks` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "5", "bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1200)
        heard = (
            container.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono") if sound_from_s is not None else None
        )
        for number, time in enumerate(times):
            grey = np.full((SIZE, SIZE, 3), 20 + 4 * (number % 50), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = int(time * 1200), Fraction(1, 1200)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None and sound_from_s is not None:
            container.mux(heard.encode(sound(float(times[-1]) + 0.1, sound_from_s, clicks)))
            container.mux(heard.encode(None))


def sound(until_s: float, from_s: float, clicks: tuple[float, ...]) -> av.AudioFrame:
    """Silence with clicks, its clock starting at `from_s`."""
    samples = np.zeros(round((until_s - from_s) * SAMPLE_RATE_HZ), np.int16)
    for click in clicks:
        samples[round((click - from_s) * SAMPLE_RATE_HZ)] = 30000
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, round(from_s * SAMPLE_RATE_HZ), Fraction(1, SAMPLE_RATE_HZ)
    return frame


@pytest.mark.parametrize("fps", [12, 24, 25, 30, 50, 60])
def test_any_rate_becomes_twenty_five(tmp_path: Path, fps: int) -> None:
    write_video(tmp_path / "a.mkv", [Fraction(i, fps) for i in range(2 * fps)])
    found = [tick.source for tick in ticks(tmp_path / "a.mkv")]
    assert abs(len(found) - 50) <= 1
    # Each tick shows the frame whose start is nearest before its middle.
    wanted = [min(int((n + 0.5) * fps / 25 - 1e-6), 2 * fps - 1) for n in range(len(found))]
    assert found == wanted


def test_an_uneven_clock_is_followed(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 25), Fraction(10, 25), Fraction(11, 25), Fraction(20, 25)]
    write_video(tmp_path / "a.mkv", times)
    found = [tick.source for tick in ticks(tmp_path / "a.mkv")]
    assert found[:20] == [0] + [1] * 9 + [2] + [3] * 9
    assert found[20] == 4


@pytest.mark.parametrize("late_s", [0.0, 0.2])
def test_the_sound_keeps_its_place_beside_the_pictures(tmp_path: Path, late_s: float) -> None:
    write_video(tmp_path / "a.mkv", [Fraction(i, 25) for i in range(50)], sound_from_s=late_s, clicks=(1.0,))
    assert read_clocks(tmp_path / "a.mkv").audio_s == pytest.approx(late_s, abs=0.002)
    samples = read_sound(tmp_path / "a.mkv", 50)
    assert len(samples) == 2 * SAMPLE_RATE_HZ
    assert np.abs(samples).argmax() == pytest.approx(SAMPLE_RATE_HZ, abs=32)


def test_large_pictures_shrink_and_bad_files_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", [Fraction(i, 25) for i in range(5)])
    assert next(ticks(tmp_path / "a.mkv", 32)).frame.shape == (32, 32, 3)
    (tmp_path / "b.mp4").write_text("this is no video")
    with pytest.raises(Undecodable):
        next(ticks(tmp_path / "b.mp4"))
