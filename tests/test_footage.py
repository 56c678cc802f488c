"""Footage: a folder or a list becomes videos with safe ids; every bad line is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from linker.errors import ManifestError
from linker.footage import read_footage, read_listing, write_listing
from linker.records import ID_PATTERN


def test_a_folder_gives_every_video_below_it_by_name(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/c.MOV", ".hidden.mp4", "notes.txt", ".cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    elsewhere = tmp_path / ".elsewhere"
    elsewhere.mkdir()
    (elsewhere / "e.mp4").write_text("x")
    (tmp_path / "link.mp4").symlink_to(elsewhere / "e.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    footage = read_footage(tmp_path)
    videos = footage.videos
    assert [video.path.name for video in videos] == ["b.mp4", "link.mp4", "c.MOV"]
    assert footage.passed == (tmp_path / "loop",)  # it is told, not followed
    assert all(re.fullmatch(ID_PATTERN, video.id) for video in videos)


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl"])
def test_a_list_carries_licence_source_and_person(tmp_path: Path, name: str) -> None:
    (tmp_path / "a b.mp4").write_text("x")
    gap = "\t" if name.endswith("tsv") else ","
    rows = [gap.join(("video", "licence", "source", "identity")), gap.join(("a b.mp4", "CC BY 4.0", "here", "ann"))]
    json_line = '{"video": "a b.mp4", "licence": "CC BY 4.0", "source": "here", "identity": "ann"}'
    (tmp_path / name).write_text(json_line if name.endswith("jsonl") else "\n".join(rows) + "\n")
    footage = read_footage(tmp_path / name)
    (video,) = footage.videos
    assert (video.licence, video.source, video.identity, video.path) == (
        "CC BY 4.0",
        "here",
        "ann",
        tmp_path / "a b.mp4",
    )
    assert read_listing(write_listing(footage)) == [video]


def test_every_bad_line_is_named_and_the_good_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_text("x")
    lines = ["video,licence", "good.mp4,MIT", "gone.mp4,", ",MIT", "good.mp4,again", 'bad\x01.mp4,"x"', f"{'x' * 300},"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    footage = read_footage(tmp_path / "list.csv")
    assert [video.path.name for video in footage.videos] == ["good.mp4"]
    assert [fault.line for fault in footage.faults] == [3, 4, 5, 6, 7]
    assert "twice" in str(footage.faults[2])


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_what_looks_like_a_line_end_ends_no_entry(tmp_path: Path, end: str, quote: str) -> None:
    (tmp_path / "good.mp4").write_text("x")
    lines = ["video,source,licence", f"good.mp4,{quote}soft{end}return{quote},MIT", "gone.mp4,,", "good.mp4,,MIT"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    footage = read_footage(tmp_path / "list.csv")
    assert [video.licence for video in footage.videos] == ["MIT"]
    assert [(fault.line, fault.column) for fault in footage.faults] == [(2, "source"), (3, "video")]
    entries = [json.dumps({"video": "good.mp4", "source": f"soft{end}return"}), '{"video": "gone.mp4"}']
    text = "\r\n".join(entries) if end < " " else "\r\n".join(entries).replace(json.dumps(end)[1:-1], end)
    (tmp_path / "list.jsonl").write_text(text, encoding="utf-8", newline="")
    faults = read_footage(tmp_path / "list.jsonl").faults
    assert [(fault.line, fault.column) for fault in faults] == [(1, "source"), (2, "video")]


def test_a_quoted_line_end_is_told_where_its_entry_begins(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('video,source\ngone.mp4,\n\ngone.mp4,"two\nlines"\ngone.mp4,a,b\n')
    faults = read_footage(tmp_path / "list.csv").faults
    assert [(fault.line, fault.column) for fault in faults] == [
        (2, "video"), (4, "source"), (4, "video"), (6, "video"),
    ]  # fmt: skip


def test_half_a_character_is_refused_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x")
    lines = [
        r'{"video": "a.mp4", "identity": "\ud83d"}',
        r'{"video": "\ud83d.mp4"}',
        r'{"video": "a.mp4", "\ud83d": ""}',
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    faults = read_footage(tmp_path / "list.jsonl").faults
    assert [(fault.line, fault.column) for fault in faults] == [(1, "identity"), (2, "video"), (3, r"\ud83d")]
    assert all(str(fault).encode() for fault in faults)


@pytest.mark.parametrize("text", ["path\na.mp4\n", "", "{", "video\n"])
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ManifestError):
        read_footage(tmp_path / "list.csv")
    with pytest.raises(ManifestError, match="found nothing"):
        read_footage(tmp_path / "nowhere")
