"""The door to ffmpeg: what goes out is what went in, and what should not come in stays outside."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from film import film
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linker.iso639 import three_letters
from linker.media import (
    Undecodable,
    audio_chunks,
    frame_md5,
    lossless_writer,
    pcm_md5,
    probe,
    read_audio,
    read_frames,
    write_wav,
)

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sine(seconds: float, rate: int, amplitude: float = 0.25) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise_frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def deliver(
    path: Path, audio: Path | None, count: int = 30, language: str = "en", colour: tuple[int, ...] = (200, 60, 90)
) -> Path:
    frames = iter([np.full((48, 64, 3), colour, np.uint8)] * count)
    return film(path, frames, count, audio, language=language, metadata={"title": "Één"})


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    write_wav(path, np.stack([sine(1.2, 44_100), sine(1.2, 44_100, 0.1)]), 44_100)
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(Undecodable) as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)
    return caught.value.kind


# ---- what goes out is what went in


@FEW
@given(count=st.integers(1, 40), height=st.integers(2, 40), width=st.integers(2, 40), seed=st.integers(0, 99))
def test_lossless_frames_come_back_bit_for_bit(tmp_path: Path, count: int, height: int, width: int, seed: int) -> None:
    frames = noise_frames(count, height, width, seed)
    with lossless_writer(tmp_path / "a.mkv", width, height) as out:
        for frame in frames:
            out.write(frame)
    assert out.count == count
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path / "a.mkv"))), frames)


@FEW
@given(channels=st.integers(1, 6), length=st.integers(100, 5000), rate=st.sampled_from([8000, 16_000, 44_100, 192_000]))
def test_wav_comes_back_bit_for_bit(tmp_path: Path, channels: int, length: int, rate: int) -> None:
    pcm = np.random.default_rng(length).integers(-32768, 32768, (channels, length)) / 32768
    write_wav(tmp_path / "a.wav", pcm, rate)
    samples, found_rate = read_audio(tmp_path / "a.wav", mono=False)
    assert found_rate == rate
    np.testing.assert_array_equal(samples, pcm.astype(np.float32))


def test_wav_clips_instead_of_wrapping(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([2.0, -2.0] * 400, np.float32), 16_000)
    samples, _ = read_audio(tmp_path / "a.wav")
    assert samples[0] > 0.999
    assert samples[1] == -1.0


@FEW
@given(
    count=st.integers(1, 60), sound_s=st.floats(0.1, 3), rate=st.sampled_from([8000, 16_000, 22_050, 48_000, 192_000])
)
def test_a_deliverable_has_its_frames_and_sound_of_equal_length(
    tmp_path: Path, count: int, sound_s: float, rate: int
) -> None:
    write_wav(tmp_path / "s.wav", sine(sound_s, rate), rate)
    path = deliver(tmp_path / "v.mp4", tmp_path / "s.wav", count)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert video.frames == count
        assert float(video.duration * video.time_base) == pytest.approx(count / 25)
        assert abs(float(sound.duration * sound.time_base) - count / 25) <= 1 / 25
    assert sum(1 for _ in read_frames(path)) == count


def test_the_delivered_sound_is_the_row_s_own_in_place(tmp_path: Path, speech: Path) -> None:
    delivered, rate = read_audio(deliver(tmp_path / "v.mp4", speech, 50), mono=False)
    own, own_rate = read_audio(speech, mono=False)
    assert rate == own_rate
    length = own.shape[1] - 4096
    correlation = [np.corrcoef(delivered[i, :length], own[i, :length])[0, 1] for i in range(2)]
    assert min(correlation) > 0.99  # shifted by one AAC frame it would be under 0.9
    assert np.abs(delivered[:, own.shape[1] + 4096 :]).max() < 0.01  # the rest is padded with silence


@pytest.mark.parametrize(
    ("tag", "stored"),
    [("en", "eng"), ("zh", "zho"), ("zh-Hans", "zho"), ("pt-BR", "por"), ("th", "tha"), ("ja", "jpn"), ("ko", "kor"),
     ("yue", "yue"), ("", "und"), ("und", "und"), ("x-klingon", "und")],
)  # fmt: skip
def test_mp4_keeps_the_language(tmp_path: Path, speech: Path, tag: str, stored: str) -> None:
    assert three_letters(tag) == stored
    track = probe(deliver(tmp_path / "v.mp4", speech, 5, tag)).audio
    assert track is not None
    assert track.language == stored


def test_colours_survive_and_are_tagged(tmp_path: Path) -> None:
    path = deliver(tmp_path / "v.mp4", None, colour=(30, 200, 220))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"
        assert not container.streams.audio
    middle = next(read_frames(path))[24, 32].astype(int)
    assert np.abs(middle - (30, 200, 220)).max() <= 3
    assert probe(path).metadata["title"] == "Één"


def test_a_player_can_start_before_the_end_has_come(tmp_path: Path, speech: Path) -> None:
    content = deliver(tmp_path / "v.mp4", speech).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, speech: Path) -> None:
    first, second = (deliver(tmp_path / name, speech).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert first == second
    assert b" threads=1 " in first  # x264's own note of its settings: more threads give other bytes on other machines
    for name in ("a.mkv", "b.mkv"):
        with lossless_writer(tmp_path / name, 32, 32) as out:
            for frame in noise_frames(30, 32, 32):
                out.write(frame)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_digests_tell_one_changed_pixel_and_one_changed_sample(tmp_path: Path) -> None:
    frames, digests = noise_frames(3, 32, 32), []
    for step in (0, 0, 1):
        frames[1, 5, 5, 0] = frames[1, 5, 5, 0] // 2 * 2 + step
        with lossless_writer(tmp_path / "a.mkv", 32, 32) as out:
            for frame in frames:
                out.write(frame)
        sound = sine(0.5, 16_000)
        sound[77] += step * 0.01
        write_wav(tmp_path / "a.wav", sound, 16_000)
        digests.append((frame_md5(tmp_path / "a.mkv"), pcm_md5(tmp_path / "a.wav")))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


@FEW
@given(rate=st.sampled_from([8000, 22_050, 44_100, 48_000, 96_000]), seconds=st.floats(0.3, 2))
def test_resampling_keeps_length_and_tone(tmp_path: Path, rate: int, seconds: float) -> None:
    write_wav(tmp_path / "a.wav", np.stack([sine(seconds, rate)] * 2), rate)
    samples, found_rate = read_audio(tmp_path / "a.wav", 16_000)
    assert found_rate == 16_000
    assert abs(len(samples) - seconds * 16_000) <= 2
    wanted = sine(seconds, 16_000)[: len(samples)]
    inner = slice(400, min(len(samples), len(wanted)) - 400)
    np.testing.assert_allclose(samples[inner], wanted[inner], atol=2e-3)


def test_decoding_stops_at_the_limit(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(20, 16_000), 16_000)
    samples, _ = read_audio(tmp_path / "a.wav", max_s=1)
    assert 16_000 <= len(samples) < 32_000


# ---- outputs appear whole or not at all


def failing() -> Iterator[np.ndarray]:
    yield np.zeros((48, 64, 3), np.uint8)
    raise RuntimeError("the generator died")


def test_a_failed_encoding_leaves_the_last_good_file(tmp_path: Path) -> None:
    good = deliver(tmp_path / "v.mp4", None).read_bytes()
    with pytest.raises(RuntimeError):
        film(tmp_path / "v.mp4", failing(), 2)
    assert (tmp_path / "v.mp4").read_bytes() == good
    assert os.listdir(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("count", [29, 31])
def test_a_wrong_number_of_frames_is_an_error(tmp_path: Path, count: int) -> None:
    frames = iter(noise_frames(30, 48, 64))
    with pytest.raises(ValueError, match="30 frames came"):
        film(tmp_path / "v.mp4", frames, count)
    assert not os.listdir(tmp_path)


def test_frames_of_another_shape_and_odd_sides_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needed uint8"), lossless_writer(tmp_path / "a.mkv", 32, 32) as out:
        out.write(np.zeros((32, 30, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one frame"), lossless_writer(tmp_path / "a.mkv", 32, 32):
        pass
    with pytest.raises(ValueError, match="even sides"):
        film(tmp_path / "v.mp4", iter([]), 0, size=(63, 48))
    assert not os.listdir(tmp_path)


# ---- hostile files


def riff(
    data: bytes, stated: int | None = None, kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16
) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * block, block, bits)
    length = len(data) if stated is None else stated
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + length, 0xFFFFFFFF))
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", length)
        + data
    )


CONCAT = b"ffconcat version 1.0\nfile speech.wav\n"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nspeech.wav\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"only some text that somebody renamed\n" * 40, "undecodable"),
        (CONCAT, "undecodable"),
        (PLAYLIST, "undecodable"),
        (bytes(4000), "undecodable"),
        (riff(np.full(8000, np.nan, "<f4").tobytes(), kind=3, bits=32), "undecodable"),
        (riff(bytes(1000), channels=0), "undecodable"),
        (riff(b""), "no_audio"),
        (riff(bytes(1000), stated=100_000), "truncated"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, speech: Path, content: bytes, kind: str) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    assert refusal_of(tmp_path / "bad.wav") == kind


def test_a_length_the_writer_did_not_know_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "piped.wav").write_bytes(riff(bytes(32_000), stated=0xFFFFFFFF))
    assert len(read_audio(tmp_path / "piped.wav")[0]) == 16_000


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_truncated_files_are_refused(tmp_path: Path, speech: Path, part: float) -> None:
    sources = [speech, deliver(tmp_path / "v.mp4", speech, 40)]
    for source in sources:
        content = source.read_bytes()
        (tmp_path / "cut.bin").write_bytes(content[: int(len(content) * part)])
        assert refusal_of(tmp_path / "cut.bin") in ("truncated", "undecodable")


def test_a_truncated_intermediate_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    with lossless_writer(tmp_path / "a.mkv", 32, 32) as out:
        for frame in noise_frames(30, 32, 32):
            out.write(frame)
    (tmp_path / "cut.mkv").write_bytes((tmp_path / "a.mkv").read_bytes()[:-30_000])
    with pytest.raises(Undecodable):
        list(read_frames(tmp_path / "cut.mkv"))


def test_things_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (
        tmp_path,
        tmp_path / "none.wav",
        tmp_path / "pipe.wav",
        Path("/dev/zero"),
        Path("http://127.0.0.1/a.wav"),
    ):
        assert refusal_of(path) == "missing"


def test_names_are_only_names(tmp_path: Path) -> None:
    for name in ("-i.wav", "concat:a|b.wav", "a\nb.wav", "$(touch PWNED).wav", "日本 語.wav"):
        write_wav(tmp_path / name, sine(0.5, 16_000), 16_000)
        assert len(read_audio(tmp_path / name)[0]) == 8000
        (tmp_path / name).write_bytes(b"x" * 100)
        assert refusal_of(tmp_path / name) == "undecodable"
    assert len(os.listdir(tmp_path)) == 5


@FEW
@given(seed=st.integers(0, 10_000), place=st.floats(0, 1))
def test_damage_anywhere_is_refused_or_decoded_but_never_a_crash(tmp_path: Path, seed: int, place: float) -> None:
    speech = tmp_path / "s.wav"
    write_wav(speech, sine(1, 16_000), 16_000)
    content = bytearray(deliver(tmp_path / "v.mp4", speech, 25).read_bytes())
    start = int(place * (len(content) - 200))
    content[start : start + 200] = np.random.default_rng(seed).bytes(200)
    (tmp_path / "hurt.mp4").write_bytes(content)
    with contextlib.suppress(Undecodable):
        for chunk, _ in audio_chunks(tmp_path / "hurt.mp4"):
            assert np.isfinite(chunk).all()


def test_what_is_missing_is_said(tmp_path: Path, speech: Path) -> None:
    assert refusal_of(deliver(tmp_path / "v.mp4", None)) == "no_audio"
    with pytest.raises(Undecodable, match="no moving pictures"):
        list(read_frames(speech))
    info = probe(speech)
    assert info.video is None
    assert info.audio is not None
    assert (info.audio.sample_rate_hz, info.audio.channels) == (44_100, 2)
    assert info.duration_s == pytest.approx(1.2, abs=0.01)
