"""Finished files: every codec and container opens, is tagged, keeps its words, and puts sound where it was."""

from __future__ import annotations

import errno
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from film import film
from hypothesis import given
from hypothesis import strategies as st

from linker.config import FinishSettings
from linker.errors import EnvironmentError, LinkerError
from linker.formats import COPIED, MASTERS, PICTURES, frame_count, is_copied, sound_codec, source_frame
from linker.iso639 import three_letters
from linker.loudness import CEILING_DB, level, measure_loudness, mix_down
from linker.measure import offset_s, sound_of
from linker.media import Undecodable, opened, probe, read_frames, write_wav
from linker.mux import FrameWriter, created
from linker.subtitles import apart, read_srt, until

COUNT, RATE_HZ = 50, 48_000
ENCODERS = {"aac": ("m4a", "aac"), "alac": ("m4a", "alac"), "opus": ("opus", "libopus"), "flac": ("flac", "flac"),
            "pcm_s16le": ("wav", "pcm_s16le"), "pcm_s24le": ("wav", "pcm_s24le")}  # fmt: skip


def noise(seconds: float = COUNT / 25) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)


def frames(count: int = COUNT) -> list[np.ndarray]:
    return [np.full((48, 64, 3), (5 * index % 256, 90, 200), np.uint8) for index in range(count)]


def sound_file(folder: Path, codec: str) -> Path:
    """Two seconds of noise in a codec's usual file."""
    suffix, encoder = ENCODERS[codec]
    path = folder / f"s.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE_HZ, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", RATE_HZ)
        frame = av.AudioFrame.from_ndarray(noise()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


COPIES = sorted({(box, codec) for box, kinds in COPIED.items() for codecs in kinds.values() for codec in codecs})


@pytest.mark.parametrize(("box", "codec"), COPIES)
def test_copied_sound_comes_out_where_it_went_in(tmp_path: Path, box: str, codec: str) -> None:
    own = sound_file(tmp_path, codec)
    path = film(tmp_path / f"v.{box}", frames(), COUNT, own, sound_codec="copy", language="fr")
    heard, source = sound_of(path), sound_of(own)
    assert heard is not None
    assert source is not None
    assert (heard.codec, heard.language) == (codec, "fra")
    late_s, likeness = offset_s(heard.samples, source.samples)
    assert late_s == 0
    assert likeness > 0.999
    assert abs(heard.length_s - COUNT / 25) <= 1 / 25


@pytest.mark.parametrize(("codec", "box"), [("aac", "mp4"), ("opus", "mp4"), ("opus", "mkv"), ("pcm", "mov")])
def test_encoded_sound_comes_out_where_it_went_in(tmp_path: Path, codec: str, box: str) -> None:
    write_wav(tmp_path / "s.wav", noise(), RATE_HZ)
    heard = sound_of(film(tmp_path / f"v.{box}", frames(), COUNT, tmp_path / "s.wav", sound_codec=codec))
    source = sound_of(tmp_path / "s.wav")
    assert heard is not None
    assert source is not None
    assert offset_s(heard.samples, source.samples)[0] == 0


def test_what_is_copied() -> None:
    assert is_copied("aac", FinishSettings())
    assert not is_copied("opus", FinishSettings())  # not every player of MP4 plays it
    assert is_copied("opus", FinishSettings(audio_codec="opus"))
    assert not is_copied("aac", FinishSettings(loudness_lufs=-23))
    assert not is_copied("mp3", FinishSettings(container="mkv"))  # comes out 26 ms late
    assert sound_codec(FinishSettings(audio_codec="opus")) == "opus"


@pytest.mark.parametrize(
    ("codec", "box"),
    [("h264", "mp4"), ("h265", "mp4"), ("av1", "mp4"), ("h264", "mkv"), ("h265", "mkv"), ("av1", "mkv")],
)
def test_every_codec_of_a_deliverable(tmp_path: Path, codec: str, box: str) -> None:
    path = film(tmp_path / f"v.{box}", frames(), COUNT, codec=codec)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert (stream.start_time, stream.average_rate) == (0, 25)
        if (codec, box) == ("h265", "mp4"):
            assert context.codec_tag == "hvc1"  # the one that Apple's players take
    shown = np.stack(list(read_frames(path))).astype(int)
    assert shown.shape == (COUNT, 48, 64, 3)
    assert np.abs(shown - np.stack(frames())).mean() < 4


@pytest.mark.parametrize("codec", sorted(MASTERS))
def test_every_master(tmp_path: Path, codec: str) -> None:
    write_wav(tmp_path / "s.wav", noise(), 44_100)
    path = tmp_path / f"v.{MASTERS[codec]}"
    film(path, frames(), COUNT, tmp_path / "s.wav", codec=codec, sound_codec="pcm")
    info = probe(path)
    assert info.video is not None
    assert info.audio is not None
    assert (info.video.codec, info.audio.codec, info.audio.sample_rate_hz) == (codec, "pcm_s24le", 44_100)
    worst = np.abs(np.stack(list(read_frames(path))).astype(int) - np.stack(frames())).max()
    assert worst <= (0 if codec == "ffv1" else 4)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for codec in PICTURES:
        one, two = (film(tmp_path / f"{n}.mkv", frames(10), 10, codec=codec, sound_codec="pcm") for n in "ab")
        assert one.read_bytes() == two.read_bytes(), codec


def test_a_missing_encoder_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(LinkerError, match="no encoder libnone") as caught, created(tmp_path / "v.mp4", {}) as container:
        FrameWriter(container, "libnone", "yuv420p", (64, 48), 25, {})
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("box", ["mp4", "mkv"])
@pytest.mark.parametrize("tag", ["pt-BR", "zh-Hans", "yue", "fr", "und"])
def test_languages_and_subtitles_survive(tmp_path: Path, box: str, tag: str) -> None:
    write_wav(tmp_path / "s.wav", noise(), RATE_HZ)
    cues = ((0.2, 0.8, "Olá!"), (1.0, 1.5, "你好\nzwei Zeilen"))
    path = film(tmp_path / f"v.{box}", frames(), COUNT, tmp_path / "s.wav", language=tag, cues=cues)
    with av.open(str(path)) as container:
        track = container.streams.subtitles[0]
        told = [container.streams.audio[0].metadata.get("language", "und"), track.metadata.get("language", "und")]
        assert told == [three_letters(tag)] * 2
        shown = [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(track) if p.size and p.pts is not None]
    words = [(time, content.decode(errors="replace")) for time, content in shown if len(content) > 2]
    assert [time for time, _ in words] == pytest.approx([0.2, 1.0], abs=0.002)
    assert all(text in content for (_, content), (_, _, text) in zip(words, cues, strict=True))


# ---- frame rates


@given(st.sampled_from([24, 25, 30, 50]), st.floats(0.04, 4000))
def test_every_rate_shows_the_frame_of_its_time(fps: int, duration_s: float) -> None:
    source, count = frame_count(duration_s), frame_count(duration_s, fps)
    shown = [source_frame(index, fps, source) for index in range(0, count, max(1, count // 200))]
    assert shown == sorted(shown)
    assert shown[0] == 0
    assert source_frame(count - 1, fps, source) >= source - 2
    for index in range(0, count, max(1, count // 50)):
        middle_s = (index + 0.5) / fps
        frame = source_frame(index, fps, source)
        assert frame == source - 1 or frame / 25 <= middle_s + 1e-9 < (frame + 1) / 25 + 1e-9
    assert abs(count / fps - source / 25) <= 0.5 / fps + 0.5 / 25


# ---- loudness


@pytest.mark.parametrize("target", [-16, -23, -24])
def test_loudness_is_reached_under_the_ceiling(tmp_path: Path, target: int) -> None:
    peaky = noise(4.0) * np.where(np.arange(4 * RATE_HZ) % 24_000 < 400, 4.0, 0.4).astype(np.float32)
    write_wav(tmp_path / "s.wav", peaky, RATE_HZ)
    told = level(tmp_path / "s.wav", tmp_path / "l.wav", target, RATE_HZ)
    found = measure_loudness(tmp_path / "l.wav")
    assert found == told
    assert found.integrated_lufs == pytest.approx(target, abs=0.5)
    assert found.true_peak_db <= CEILING_DB
    heard, source = sound_of(tmp_path / "l.wav"), sound_of(tmp_path / "s.wav")
    assert heard is not None
    assert source is not None
    assert offset_s(heard.samples, source.samples)[0] == 0


# ---- subtitles


def test_subrip_is_read_in_order_and_apart(tmp_path: Path) -> None:
    text = "\ufeff2\n00:00:02,000 --> 00:00:04,500\nzwei\nZeilen\n\n1\n00:00:01.5 --> 00:00:03,000\nEins\x07\n"
    text = text.replace("\n", "\r\n")
    (tmp_path / "a.srt").write_bytes(text.encode())
    assert read_srt(tmp_path / "a.srt") == [(1.5, 2.0, "Eins"), (2.0, 4.5, "zwei\nZeilen")]
    assert until(read_srt(tmp_path / "a.srt"), 3.0) == [(1.5, 2.0, "Eins"), (2.0, 3.0, "zwei\nZeilen")]


@pytest.mark.parametrize(
    ("text", "words"),
    [("1\n00:00:01 -> 00:00:02\nx", "no subtitles"), ("1\n1 --> 2\nx", "a.srt:2"), ("", "is empty"),
     ("1\n00:00:02,000 --> 00:00:01,000\nx", "ends before"), ("\xff", "UTF-8")],
)  # fmt: skip
def test_what_is_no_subrip_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.srt").write_bytes(text.encode("latin-1"))
    with pytest.raises((LinkerError, ValueError), match=words):
        read_srt(tmp_path / "a.srt")


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.sampled_from(["", "a", "b"])), max_size=12))
def test_cues_never_overlap(cues: list[tuple[float, float, str]]) -> None:
    found = apart([(start, start + length, text) for start, length, text in cues])
    assert all(one[1] <= two[0] for one, two in pairwise(found))
    assert all(end > start and text for start, end, text in found)


def test_a_full_disk_is_the_machines_fault_and_not_the_sounds(tmp_path: Path) -> None:
    """Neither while sound is mixed or levelled, nor where its file is open while others are written."""
    write_wav(tmp_path / "s.wav", noise(), RATE_HZ)
    full = Path("/dev/full")
    for write in (
        lambda: mix_down(tmp_path / "s.wav", full, RATE_HZ),
        lambda: level(tmp_path / "s.wav", full, -23, RATE_HZ),
    ):
        with pytest.raises(EnvironmentError, match=r"^/dev: No space left on device; make room, and run again$"):
            write()
    for code, kind in ((errno.ENOSPC, av.error.OSError), (errno.EIO, Undecodable)):
        with pytest.raises(kind), opened(tmp_path / "s.wav"):
            av.error.err_check(-code)
    (tmp_path / "s.wav").write_bytes(b"RIFF no wave")
    with pytest.raises(Undecodable, match="cannot be mixed"):
        mix_down(tmp_path / "s.wav", full, RATE_HZ)
