"""Odd footage: what can be measured is, at its true size and time; what cannot is refused, and nothing else stops."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from linker.config import CurateSettings, LimitSettings
from linker.curate import measure
from linker.curate.measure import Measures, measure_video
from linker.errors import EnvironmentError
from linker.ticks import ticks

SETTINGS, LIMITS = CurateSettings(), LimitSettings()


def write(path: Path, sizes: list[tuple[int, int]], times: list[float] | None = None, **stream: Any) -> Path:
    """A video of drifting greys, a frame of each size (width, height) at each time (25 a second)."""
    with av.open(str(path), "w") as container:
        chosen = {"codec_name": "mpeg2video", "pix_fmt": "yuv420p", **stream}
        video = container.add_stream(chosen["codec_name"], rate=25)
        (video.width, video.height), video.pix_fmt = sizes[0], chosen["pix_fmt"]
        video.codec_context.time_base = Fraction(1, 25)
        for number, (width, height) in enumerate(sizes):
            picture = np.add.outer(np.arange(height), np.arange(width) + 3 * number) % 256
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, 2).astype(np.uint8), format="rgb24")
            at_s = times[number] if times else number / 25
            frame.pts, frame.time_base = round(at_s * 25), Fraction(1, 25)
            container.mux(video.encode(frame.reformat(format=chosen["pix_fmt"])))
        container.mux(video.encode(None))
    return path


def measured(video: Path) -> dict[str, Any]:
    """The facts that measure_video writes of it."""
    names = [video.parent / name for name in ("measures.npz", "sound.wav", "facts.json")]
    measure_video(video, *names, SETTINGS, LIMITS)
    facts: dict[str, Any] = json.loads(names[2].read_text())
    return facts


def kind(facts: dict[str, Any]) -> str:
    return str(facts["refusal"] and facts["refusal"]["kind"])


def test_pictures_of_another_size_take_the_first_ones(tmp_path: Path) -> None:
    for name, size in (("a.ts", (320, 180)), ("b.ts", (640, 360)), ("c.ts", (180, 320))):
        write(tmp_path / name, [size] * 10, [i / 25 for i in range(10)])
    whole = b"".join((tmp_path / name).read_bytes() for name in ("a.ts", "b.ts"))
    (tmp_path / "larger.ts").write_bytes(whole)
    frames = list(ticks(tmp_path / "larger.ts"))
    assert {tick.frame.shape for tick in frames} == {(180, 320, 3)}
    assert frames[-1].source > 10
    assert kind(measured(tmp_path / "larger.ts")) == "None"
    (tmp_path / "turned.ts").write_bytes(whole + (tmp_path / "c.ts").read_bytes())
    assert kind(measured(tmp_path / "turned.ts")) == "reshaped"


def test_a_flat_picture_is_refused(tmp_path: Path) -> None:
    facts = measured(write(tmp_path / "flat.mp4", [(640, 2)] * 10, codec_name="libx264"))
    assert kind(facts) == "too_small"
    assert facts["duration_s"] == pytest.approx(0.4, abs=0.05)  # its hours are hours of footage


def test_whatever_goes_wrong_in_a_video_is_its_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write(tmp_path / "a.mp4", [(96, 64)] * 10)
    for fault, wanted in ((AssertionError("odd"), "unmeasurable"), (ValueError(""), "unmeasurable")):
        monkeypatch.setattr(measure.Looker, "look", _raising(fault))
        facts = measured(video)
        assert kind(facts) == wanted
        assert type(fault).__name__ in facts["refusal"]["reason"]
    for fault in (OSError(28, "No space left on device"), MemoryError(), EnvironmentError("no weights")):
        monkeypatch.setattr(measure.Looker, "look", _raising(fault))
        with pytest.raises(type(fault)):
            measured(video)


def _raising(fault: BaseException) -> Any:
    def look(*_: Any) -> None:
        raise fault

    return look


def test_a_clock_that_leaps_is_no_hour_of_pictures(tmp_path: Path) -> None:
    ahead = [i / 25 for i in range(10)] + [1800 + i / 25 for i in range(10)]
    assert kind(measured(write(tmp_path / "ahead.mkv", [(96, 64)] * 20, ahead))) == "clock"
    back = [5 + i / 25 for i in range(50)] + [i / 25 for i in range(10)]
    for name, times in (("a.ts", back[:50]), ("b.ts", back[50:])):
        write(tmp_path / name, [(96, 64)] * len(times), times)
    (tmp_path / "back.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    assert kind(measured(tmp_path / "back.ts")) == "clock"


def test_the_longest_length_holds_for_what_a_file_does_not_state(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", [(96, 64)] * 50)
    assert len(list(ticks(video, most_s=2))) == 50
    with pytest.raises(measure.Undecodable, match="at most 1"):
        list(ticks(video, most_s=1))


def test_pixels_of_four_k_are_the_files_own(tmp_path: Path) -> None:
    facts = measured(write(tmp_path / "a.mp4", [(3840, 2160)] * 2, codec_name="mpeg4"))
    assert kind(facts) == "None"
    looked = Measures.load(tmp_path / "measures.npz")
    assert float(looked.scale) == pytest.approx(640 / 3840)
    assert tuple(looked.size) == (360, 640)


def test_ten_bits_are_measured(tmp_path: Path) -> None:
    facts = measured(write(tmp_path / "a.mp4", [(96, 64)] * 10, codec_name="libx264", pix_fmt="yuv420p10le"))
    assert (kind(facts), facts["video"]["pix_fmt"]) == ("None", "yuv420p10le")
