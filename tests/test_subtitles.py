"""Subtitles that whisper hears: in order, apart, within the clip; and no guess without weights."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from film import film
from test_language import write_checkpoint
from whisper.tokenizer import get_tokenizer

from linker.errors import LinkerError
from linker.media import write_wav
from linker.subtitles import apart, read_srt, transcribe, whisper_language


def test_whisper_s_segments_become_cues(tmp_path: Path) -> None:
    """A tiny whisper in the real layout that says one word over and over: its segments come back as cues."""
    path = write_checkpoint(tmp_path / "w.pt", {"en": 9.0})
    checkpoint = torch.load(path, weights_only=True)
    tokenizer = get_tokenizer(multilingual=True, num_languages=99)
    word = tokenizer.encode(" hello")[0]
    checkpoint["model_state_dict"]["decoder.token_embedding.weight"][word] = 1.0
    torch.save(checkpoint, path)
    write_wav(tmp_path / "d.wav", np.random.default_rng(0).normal(0, 0.1, 5 * 16_000).astype(np.float32), 16_000)
    cues = transcribe(tmp_path / "d.wav", str(path), "en")
    assert cues == transcribe(tmp_path / "d.wav", str(path), "en")
    assert len(cues) == 1
    assert cues[0][0] == 0
    assert set(cues[0][2].split()) == {"hello"}


def test_without_weights_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(LinkerError, match=r"set language\.whisper"):
        transcribe(tmp_path / "d.wav", "", "en")


@pytest.mark.parametrize(
    ("tag", "known"),
    [("fr", "fr"), ("pt-BR", "pt"), ("nb", "no"), ("nn", "nn"), ("jv", "jw"), ("fil", "tl"), ("und", None),
     ("ga", None), ("zu", None), ("yue", None), ("eng", None)],
)  # fmt: skip
def test_languages_that_whisper_does_not_list_are_left_to_its_ears(tag: str, known: str | None) -> None:
    assert whisper_language(tag, 99) == known
    assert whisper_language("yue", 100) == "yue"
    if known:
        get_tokenizer(multilingual=True, num_languages=99, language=known)


CARELESS = """1
00:00:00,000 --> 00:00:01,000
One
2
00:00:01,000 --> 00:00:02,000
{\\an8}<i>Two</i> <3

and a half

3
00:00:03,000 --> 00:00:04,000
1984
00:00:05,000 --> 00:00:06,000
Five"""


def test_careless_files_are_read_as_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(CARELESS)
    assert [text for _, _, text in read_srt(tmp_path / "a.srt")][:2] == ["One", "{\\an8}<i>Two</i> <3\nand a half"]
    assert apart([(0.0, 2.0, "a"), (0.0, 1.0, "b"), (1.5, 3.0, "c")]) == [(0.0, 1.5, "a\nb"), (1.5, 3.0, "c")]


def test_a_subtitle_that_is_too_long_is_named_and_not_cut(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\n" + "long " * 120)
    with pytest.raises(LinkerError, match=r"a\.srt:2: a subtitle of 599 characters, needed at most 500"):
        read_srt(tmp_path / "a.srt")


@pytest.mark.parametrize(
    ("name", "shown"), [("v.mp4", "Two <3\nand a half"), ("v.mkv", "{\\an8}<i>Two</i> <3\nand a half")]
)
def test_marks_of_style_are_kept_where_players_know_them(tmp_path: Path, name: str, shown: str) -> None:
    (tmp_path / "a.srt").write_text(CARELESS)
    frames = [np.zeros((48, 64, 3), np.uint8)] * 100
    film(tmp_path / name, frames, 100, cues=tuple(read_srt(tmp_path / "a.srt")))
    with av.open(tmp_path / name) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams.subtitles[0]) if packet.size > 2]
    words = [packet[2:] if name.endswith("mp4") else packet for packet in packets]
    assert words[1].decode() == shown
