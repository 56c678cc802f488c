"""Manifests: every fault of every row is named in one pass, and says what to type instead."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linker.errors import ManifestError
from linker.manifest import COLUMNS, is_whole_file, read_manifest
from linker.records import ID_PATTERN, Fault

Write = Callable[..., Path]


def one(write: Write, column: str, value: str) -> list[Fault]:
    """The faults of a manifest whose single row has `value` in `column`."""
    row = {"clip": "a", "portrait": "p.png", "audio": "a.wav", column: value}
    return list(read_manifest(write(json.dumps(row), "jobs.jsonl")).faults)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("clip", "", "is empty; type 1 to 64"),
        ("clip", "../x", "for example x"),
        ("clip", "$(touch PWNED)", "for example touch-pwned"),
        ("clip", "Upper", "for example upper"),
        ("clip", "a" * 65, "1 to 64"),
        ("clip", "a/b", "for example a-b"),
        ("clip", "a\nb", "not an id"),
        ("portrait", "", "type the path"),
        ("portrait", "p.pgn", "did you mean p.png?"),
        ("portrait", ".", "not a regular file"),
        ("portrait", "https://x.org/p.png", "download it"),
        ("audio", "none.wav", "does not exist"),
        ("audio", "a\tb.wav", "control characters"),
        ("audio", "empty.wav", "0 bytes"),
        ("language", "english", "type en,"),
        ("language", "jp", "type ja,"),
        ("language", "en_US", "BCP-47"),
        ("language", "e", "BCP-47"),
        ("seed", "-1", "0 to 2147483647"),
        ("seed", "2147483648", "0 to 2147483647"),
        ("seed", "1.5", "whole number"),
        ("seed", "٣", "whole number"),
        ("scale_head", "3.1", "0 to 3"),
        ("scale_mouth", "nan", "0 to 3"),
        ("scale_eyes", "1,5", "with a point"),
        ("range_head", "0", "0.1 to 4"),
        ("range_eyes", "inf", "0.1 to 4"),
        ("face", "left", "x0,y0,x1,y1"),
        ("face", "100", "index"),
        ("portrait", "x" * 300, "does not exist"),
        ("face", "30,10,20,40", "x0,y0,x1,y1"),
        ("preset", "drafty", "did you mean draft?"),
        ("title", "x" * 501, "at most 500"),
        ("title", "two\nlines", "one line"),
        ("title", "two\u2028lines", "one line"),
        ("consent_ref", "two\u2029lines", "one line"),
        ("licence_ref", "two\x85lines", "one line"),
        ("title", "half a smile \ud83d", "half a character"),
        ("portrait", "half a smile \ud83d.png", "half a character"),
        ("audio", "two\u2028lines.wav", "control characters"),
        ("clip", "a\ud83d", "not an id"),
        ("enabled", "perhaps", "true or false"),
    ],
)
def test_each_wrong_field_is_named(write_manifest: Write, tmp_path: Path, column: str, value: str, told: str) -> None:
    (tmp_path / "empty.wav").touch()
    faults = one(write_manifest, column, value)
    assert [fault.column for fault in faults] == [column]
    assert told in faults[0].message
    assert len(str(faults[0]).encode().decode().splitlines()) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [("language", tag) for tag in ("en", "zh-Hans", "pt-BR", "es-419", "yue", "zh-Hant-TW", "de-1996")]
    + [("seed", "0"), ("seed", "2147483647"), ("scale_head", "0"), ("range_mouth", "4"), ("face", "0")]
    + [("face", "10, 20, 30, 40"), ("preset", "draft"), ("title", "Élan 顔"), ("enabled", "YES"), ("enabled", "")],
)
def test_each_right_field_is_taken(write_manifest: Write, column: str, value: str) -> None:
    assert one(write_manifest, column, value) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.one_of(st.text(max_size=70), st.from_regex(ID_PATTERN, fullmatch=True)))
def test_an_id_is_taken_exactly_when_it_matches(write_manifest: Write, clip: str) -> None:
    faults = one(write_manifest, "clip", clip)
    assert (not faults) == bool(re.fullmatch(ID_PATTERN, clip.strip()))
    for fault in faults:  # what the message proposes is itself an id
        proposed = re.search(r"for example (\S+)$", fault.message)
        assert proposed is None or re.fullmatch(ID_PATTERN, proposed[1])


def test_a_row_is_read_in_full(write_manifest: Write, tmp_path: Path) -> None:
    header = ",".join(COLUMNS)
    line = 'a,p.png,a.wav,zh-Hans,7,0,1.5,3,0.1,1,4,"1,2,30,40",draft,p.png,"Hello, you",c1,l1,true'
    (row,) = read_manifest(write_manifest(f"{header}\n{line}\n")).rows
    assert (row.clip, row.line, row.language, row.seed, row.face) == ("a", 2, "zh-Hans", 7, "1,2,30,40")
    assert (row.portrait, row.audio) == (tmp_path / "p.png", tmp_path / "a.wav")
    assert (row.scales, row.ranges) == ((0, 1.5, 3), (0.1, 1, 4))
    assert (row.preset, row.title, row.consent_ref, row.licence_ref) == ("draft", "Hello, you", "c1", "l1")
    assert row.subtitles == tmp_path / "p.png"
    assert read_manifest(write_manifest("clip,portrait,audio,subtitles\na,p.png,a.wav,\n")).rows[0].subtitles is None
    (fault,) = read_manifest(write_manifest("clip,portrait,audio,subtitles\na,p.png,a.wav,no.srt\n")).faults
    assert fault.column == "subtitles"


def test_all_formats_say_the_same(write_manifest: Write) -> None:
    table = [("clip", "portrait", "audio", "seed"), ("a", "p.png", "a.wav", "3"), ("b", "p.png", "a.wav", "")]
    csv = "\ufeff" + "\r\n".join(",".join(cells) for cells in table)
    tsv = "\n".join("\t".join(cells) for cells in table)
    shared = '"portrait":"p.png","audio":"a.wav"'
    jsonl = f'\n{{"clip":"a",{shared},"seed":3}}\n{{"clip":"b",{shared}}}'
    read = [read_manifest(write_manifest(csv)), read_manifest(write_manifest(tsv, "j.tsv"))]
    read.append(read_manifest(write_manifest(jsonl, "j.jsonl")))
    assert [[row.line for row in manifest.rows] for manifest in read] == [[2, 3]] * 3
    assert len({repr([(row.clip, row.seed, row.portrait) for row in manifest.rows]) for manifest in read}) == 1


def test_the_first_of_equal_ids_wins(write_manifest: Write) -> None:
    text = "clip,portrait,audio\na,p.png,a.wav\nb,p.png,a.wav\na,p.png,a.wav\nA,p.png,a.wav\n"
    manifest = read_manifest(write_manifest(text))
    assert [row.line for row in manifest.rows] == [2, 3]
    told = [str(fault) for fault in manifest.faults if "already" in fault.message]
    assert len(told) == 2
    assert all("already the id of line 2; type another, for example a-2" in line for line in told)


def test_every_fault_of_a_row_is_told_at_its_line(write_manifest: Write) -> None:
    text = 'clip,portrait,audio,seed,title\nok,p.png,a.wav,,"two\nlines"\n\n..,no.png,a.wav,x,\n'
    manifest = read_manifest(write_manifest(text))
    assert [(fault.line, fault.column) for fault in manifest.faults] == [
        (2, "title"), (5, "clip"), (5, "portrait"), (5, "seed"),
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_what_looks_like_a_line_end_ends_no_row(write_manifest: Write, end: str, quote: str) -> None:
    """As spreadsheets put it into a cell: the row keeps its consent, or is refused, and the next one its line."""
    lines = [f"a,p.png,a.wav,{quote}soft{end}return{quote},c1", "b,p.png,a.wav,,c2", "..,p.png,a.wav,,"]
    manifest = read_manifest(write_manifest("\n".join(["clip,portrait,audio,title,consent_ref", *lines])))
    assert [(row.clip, row.line, row.consent_ref) for row in manifest.rows] == [("b", 3, "c2")]
    assert [(fault.line, fault.column) for fault in manifest.faults] == [(2, "title"), (4, "clip")]
    row = json.dumps({"clip": "a", "portrait": "p.png", "audio": "a.wav", "title": f"soft{end}return"})
    (fault,) = read_manifest(write_manifest(row.replace("soft", f"very{end} soft"), "j.jsonl")).faults
    assert (fault.line, fault.column) == (1, "row" if end < " " else "title")


def test_faults_can_be_told_whatever_they_are_about(write_manifest: Write) -> None:
    row = '{"clip":"a\\ud83d","portrait":"p.png","audio":"a.wav","two\\nlines":1,"\\ud83d":1}'
    faults = read_manifest(write_manifest(f"{row}\n{row}", "j.jsonl")).faults
    assert [fault.column for fault in faults] == ["two\\nlines", "\\ud83d", "clip"] * 2 + ["clip"]
    for fault in faults:
        assert len(str(fault).encode().splitlines()) == 1


def test_a_row_that_is_not_enabled_is_passed_over_with_its_faults(write_manifest: Write) -> None:
    text = "clip,portrait,audio,enabled\na,p.png,a.wav,no\n..,no.png,,false\nb,p.png,a.wav,yes\n"
    manifest = read_manifest(write_manifest(text))
    assert [row.clip for row in manifest.rows] == ["b"]
    assert manifest.faults == ()


@pytest.mark.parametrize("name", ["langage", "scale_moth", "Clip", ""])
def test_an_unknown_column_is_a_fault_of_the_whole_table(write_manifest: Write, name: str) -> None:
    manifest = read_manifest(write_manifest(f"clip,portrait,audio,{name}\na,p.png,a.wav,1\n"))
    assert [is_whole_file(fault) for fault in manifest.faults] == [True]
    assert name == "" or "did you mean" in manifest.faults[0].message


def test_odd_json_lines_are_faults_of_their_rows(write_manifest: Write) -> None:
    good = '{"clip":"a","portrait":"p.png","audio":"a.wav"}'
    lines = ["{", "[1]", '"x"', good.replace('"a"', '"b"')[:-1] + ',"sed":1}', good, '{"clip":{"x":1}}', "NaN"]
    manifest = read_manifest(write_manifest("\n".join(lines), "j.jsonl"))
    assert [row.line for row in manifest.rows] == [5]
    assert [(fault.line, fault.column) for fault in manifest.faults] == [
        (1, "row"), (2, "row"), (3, "row"), (4, "sed"), (6, "row"), (7, "row"),
    ]  # fmt: skip


def test_cells_beyond_the_header_are_a_fault(write_manifest: Write) -> None:
    manifest = read_manifest(write_manifest("clip,portrait,audio\na,p.png,a.wav,more\nb,p.png,a.wav,\n"))
    assert [fault.column for fault in manifest.faults] == ["row"]
    assert [row.clip for row in manifest.rows] == ["b"]


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (b"\xff\xfec\0l\0", "jobs.csv", "not UTF-8"),
        ("", "jobs.csv", "needed the columns clip, portrait, audio"),
        ("clip,portrait\na,p.png\n", "jobs.csv", "needed the columns audio"),
        ("clip;portrait;audio\na;p.png;a.wav\n", "jobs.csv", "separate the columns with commas"),
        ("clip,portrait,audio\n\n", "jobs.csv", "found no rows"),
        ("", "jobs.jsonl", "found no rows"),
        ("clip,portrait,audio\na,p.png,a.wav\n", "jobs.xlsx", "needed .csv, .tsv or .jsonl"),
        ("clip,portrait,audio\na,p.png,\"" + "x" * 200_000, "jobs.csv", "not a table"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(write_manifest: Write, text: str | bytes, name: str, told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        read_manifest(write_manifest(text, name))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv")


def test_ten_thousand_rows_are_read_quickly(write_manifest: Write) -> None:
    lines = [f"r{index},p.png,a.wav,en,{index},1.5" for index in range(10_000)]
    path = write_manifest("\n".join(["clip,portrait,audio,language,seed,scale_mouth", *lines]))
    began = time.process_time()
    assert len(read_manifest(path).rows) == 10_000
    assert time.process_time() - began < 3
