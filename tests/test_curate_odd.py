"""Odd footage: what can be measured is, at its true size and time; what cannot is refused, and nothing else stops."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from linker.config import CRITIC_DIR, CurateSettings, LimitSettings
from linker.curate import judge, measure, segments
from linker.curate.funnel import count, in_order, uncut
from linker.curate.judge import judge_video, with_tracks
from linker.curate.measure import Measures, measure_video
from linker.curate.verdicts import STAGES, Verdict
from linker.errors import EnvironmentError
from linker.footage import Video
from linker.media import read_audio
from linker.ticks import ticks

SETTINGS, LIMITS = CurateSettings(), LimitSettings()


def write(path: Path, sizes: list[tuple[int, int]], times: list[float] | None = None, **stream: Any) -> Path:
    """A video of drifting greys, a frame of each size (width, height) at each time (25 a second); `wider`: how much
    wider than high its pixels are."""
    with av.open(str(path), "w") as container:
        chosen = {"codec_name": "mpeg2video", "pix_fmt": "yuv420p", **stream}
        video = container.add_stream(chosen["codec_name"], rate=25)
        (video.width, video.height), video.pix_fmt = sizes[0], chosen["pix_fmt"]
        video.options = chosen.get("options", {})
        video.codec_context.time_base = Fraction(1, 25)
        video.codec_context.sample_aspect_ratio = chosen.get("wider", Fraction(1))
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
    for fault, wanted in ((AssertionError("odd"), "unreadable"), (ValueError(""), "unreadable")):
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


def test_oblong_pixels_are_made_square(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", [(240, 180)] * 10, codec_name="libx264", wider=Fraction(4, 3))
    (whole, *_), (small, *_) = ticks(video), ticks(video, 160)
    assert (whole.frame.shape, whole.scale) == ((180, 320, 3), 1)
    assert (small.frame.shape, small.scale) == ((90, 160, 3), 0.5)
    assert kind(measured(video)) == "None"
    assert tuple(Measures.load(tmp_path / "measures.npz").size) == (180, 320)
    assert (
        kind(measured(write(tmp_path / "b.mp4", [(240, 180)] * 10, codec_name="libx264", wider=Fraction(99))))
        == "oblong"
    )


def test_ten_bits_are_measured(tmp_path: Path) -> None:
    facts = measured(write(tmp_path / "a.mp4", [(96, 64)] * 10, codec_name="libx264", pix_fmt="yuv420p10le"))
    assert (kind(facts), facts["video"]["pix_fmt"]) == ("None", "yuv420p10le")


@pytest.mark.parametrize(("codec", "crf"), [("libx264", 46), ("libx264", 20), ("mpeg4", None)])
def test_how_coarsely_a_file_was_compressed_is_told(tmp_path: Path, codec: str, crf: int | None) -> None:
    options = {"crf": str(crf)} if crf else {}
    write(tmp_path / "a.mp4", [(96, 64)] * 30, codec_name=codec, options=options)
    found = np.median([tick.qp for tick in ticks(tmp_path / "a.mp4")])
    assert abs(found - crf) <= 4 if crf else np.isnan(found)


def test_a_turned_picture_is_measured_upright(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", [(320, 180)] * 10, codec_name="libx264")
    upright = next(ticks(video)).frame
    data = bytearray(video.read_bytes())
    matrix = data.index(b"tkhd") + 44  # of the track header: a quarter turn
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    video.write_bytes(data)
    turned = [np.rot90(upright, turns) for turns in (1, 3)]
    found = next(ticks(video)).frame
    assert min(np.abs(found.astype(float) - one).mean() for one in turned) < 2
    assert next(ticks(video, 160)).frame.shape == (160, 90, 3)
    assert kind(measured(video)) == "None"
    assert tuple(Measures.load(tmp_path / "measures.npz").size) == (320, 180)


def test_the_first_of_two_sound_tracks_is_judged_and_told(tmp_path: Path) -> None:
    write(tmp_path / "silent.mp4", [(96, 64)] * 80)
    with av.open(str(tmp_path / "silent.mp4")) as source, av.open(str(tmp_path / "a.mkv"), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        tracks = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for packet in source.demux(source.streams.video[0]):
            packet.stream = video
            if packet.dts is not None:
                container.mux(packet)
        for track, level in zip(tracks, (0, 9000), strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, 51200), level, np.int16), format="s16", layout="mono")
            frame.rate, frame.pts = 16000, 0
            container.mux(track.encode(frame))
    facts = measured(tmp_path / "a.mkv")
    assert (kind(facts), facts["audio_tracks"]) == ("None", 2)
    samples, _ = read_audio(tmp_path / "sound.wav")
    assert np.abs(samples).max() == 0
    verdict = Verdict("a", 0, "sync", 0.0, 0.7, False)
    assert with_tracks(verdict, facts).measured["audio_tracks"] == 2


def test_what_a_time_stamp_holds_is_one_frame_of_the_file(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mkv", [(96, 64)] * 20, [i / 25 + (i > 10) for i in range(20)], codec_name="libx264")
    assert kind(measured(video)) == "None"
    looked = Measures.load(tmp_path / "measures.npz")
    held = looked.source == 10
    assert held.sum() == 26
    assert (looked.change[held][1:] == 0).all()


def test_refused_hours_are_hours_of_footage(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp4", [(96, 64)] * 50)
    names = [tmp_path / name for name in ("measures.npz", "sound.wav", "facts.json")]
    measure_video(whole, *names, CurateSettings(max_video_s=1), LIMITS)
    critic = CRITIC_DIR / "critic.safetensors"
    judge_video("a", *names, critic, tmp_path / "verdicts.json", tmp_path / "looks.npz", SETTINGS, [])
    told = json.loads((tmp_path / "verdicts.json").read_text())
    assert (told["duration_s"], told["verdicts"][0]["kind"]) == (pytest.approx(2, abs=0.1), "too_long")
    (refused,) = in_order(Video("a", whole), told)
    assert refused.hours == pytest.approx(2 / 3600, abs=1e-4)
    rows = count([refused], told["duration_s"] / 3600)
    assert (rows[0]["hours"], rows[1]["overall"]) == (pytest.approx(2 / 3600, abs=1e-4), 0)


def test_a_segment_that_cannot_be_cut_is_dropped_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write(tmp_path / "a.mp4", [(96, 64)] * 10)
    measured(video)
    kept = [{"segment": 0, "stage": stage, "kept": True, "measured": {"offset": 0}} for stage in STAGES]
    told = {"video": "a", "segments": [{"number": 0, "first": 0, "last": 10, "slot": 0}], "verdicts": kept}
    (tmp_path / "verdicts.json").write_text(json.dumps(told))
    names = [tmp_path / name for name in ("verdicts.json", "measures.npz", "sound.wav", "segments.json")]
    monkeypatch.setattr(segments, "_store", _raising(AssertionError("odd")))
    segments.cut_segments(video, *names)
    cut = json.loads(names[-1].read_text())
    assert (cut["segments"], cut["refusal"]["kind"]) == ({}, "unreadable")
    (verdict,) = uncut(told, cut)
    assert (verdict["segment"], verdict["stage"], verdict["kept"]) == (0, "cut", False)
    assert uncut(told, {"segments": {"0": "a.tar"}, "refusal": None}) == []


def test_what_cannot_be_judged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tmp_path / name for name in ("measures.npz", "sound.wav", "facts.json")]
    measured(write(tmp_path / "a.mp4", [(96, 64)] * 10))
    monkeypatch.setattr(judge, "judge", _raising(IndexError("odd")))
    critic = CRITIC_DIR / "critic.safetensors"
    judge_video("a", *names, critic, tmp_path / "verdicts.json", tmp_path / "looks.npz", SETTINGS, [])
    told = json.loads((tmp_path / "verdicts.json").read_text())
    assert [(verdict["stage"], verdict["kind"]) for verdict in told["verdicts"]] == [("cut", "unreadable")]
    assert told["duration_s"] == 0.4
