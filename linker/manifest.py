"""Manifests: CSV, TSV or JSONL in, rows and every fault of every row out, in one pass and before any job starts."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linker.config import REGIONS
from linker.errors import ManifestError
from linker.records import CONTROL, ID_PATTERN, Fault, Manifest, Row, one_line

REQUIRED = ("clip", "portrait", "audio")
SCALES = tuple(f"scale_{region}" for region in REGIONS)
RANGES = tuple(f"range_{region}" for region in REGIONS)
TEXTS = ("title", "consent_ref", "licence_ref")
COLUMNS = (*REQUIRED, "language", "seed", *SCALES, *RANGES, "face", "preset", "subtitles", *TEXTS, "enabled")
PRESETS = ("quality", "balanced", "draft")
SEED_MAX = 2**31 - 1
TEXT_MAX = 500  # characters of a title or a reference
FACE_MAX = 99  # largest index of a face

_ID = re.compile(ID_PATTERN)
_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|\d{3}))?(-([A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}))*")
_TAG_OF_NAME = {
    **{"english": "en", "chinese": "zh", "mandarin": "zh", "cn": "zh", "japanese": "ja", "jp": "ja", "korean": "ko"},
    **{"french": "fr", "german": "de", "spanish": "es", "italian": "it", "portuguese": "pt", "russian": "ru"},
    **{"thai": "th", "arabic": "ar", "hindi": "hi"},
}
_TRUTH = {"": True, "1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

Wrong = list[tuple[str, str]]  # column, what is wrong with it
Record = tuple[int, dict[str, str], Wrong]  # line of the file, cells by column, what is wrong with its form
Fields = dict[str, Any]


def read_manifest(path: Path) -> Manifest:
    """Every good row and every fault of the others. Raises ManifestError when the file as a whole cannot be used."""
    reading = _Reading(path, Path(os.path.abspath(path)).parent)
    for line, cells, wrong in _records(path, reading):
        reading.take(line, cells, wrong)
    if reading.count == 0:
        raise ManifestError(
            f"{path}: found no rows; needed at least one line below the header (or one JSON object a line)"
        )
    return Manifest(Path(os.path.abspath(path)), tuple(reading.rows), tuple(reading.faults))


def is_whole_file(fault: Fault) -> bool:
    """True for a fault of a table's header, which concerns every row."""
    return fault.line == 1 and not fault.file.endswith(".jsonl")


@dataclass
class _Reading:
    """One pass over a manifest: what was found so far."""

    path: Path
    folder: Path
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)  # id (lower case) -> line that took it
    files: dict[str, tuple[Path, str]] = field(default_factory=dict)  # cell -> path and what is wrong with it
    count: int = 0

    def fault(self, line: int, column: str, message: str, clip: str = "") -> None:
        self.faults.append(Fault(str(self.path), line, one_line(column), one_line(message), clip))

    def take(self, line: int, cells: dict[str, str], wrong: Wrong) -> None:
        """Turn one line into a row, or into all of its faults. A row that is not enabled is passed over."""
        self.count += 1
        if _TRUTH.get(cells.get("enabled", "").lower()) is False:
            return
        fields: Fields = {}
        for column, check in self._checks() if cells else ():
            try:
                check(fields, column, cells.get(column, ""))
            except ValueError as error:
                wrong.append((column, str(error)))
        self._claim(line, cells.get("clip", ""), wrong)
        if wrong:
            clip = cells.get("clip", "") if _ID.fullmatch(cells.get("clip", "")) else ""
            for column, message in wrong:
                self.fault(line, column, message, clip)
        else:
            self.rows.append(_row(line, fields))

    def _checks(self) -> Iterator[tuple[str, Callable[[Fields, str, str], None]]]:
        yield "clip", _check_clip
        yield "portrait", self._check_file
        yield "audio", self._check_file
        yield "language", _check_language
        yield "seed", _check_seed
        yield from ((name, _check_scale) for name in SCALES)
        yield from ((name, _check_range) for name in RANGES)
        yield "face", _check_face
        yield "preset", _check_preset
        yield "subtitles", self._check_file_if_any
        yield from ((name, _check_text) for name in TEXTS)
        yield "enabled", _check_enabled

    def _claim(self, line: int, clip: str, wrong: Wrong) -> None:
        """The first line with an id keeps it; file systems may not tell case apart, so ids do not either."""
        first = self.lines.setdefault(clip.lower(), line) if clip else line
        if first != line:
            other = f"{clip.lower()}-2"
            wrong.append(("clip", f"{clip!r} is already the id of line {first}; type another, for example {other}"))

    def _check_file(self, fields: Fields, column: str, value: str) -> None:
        if value not in self.files:
            path = Path(os.path.abspath(self.folder / value)) if "\0" not in value else self.folder
            self.files[value] = (path, _file_fault(path, value))
        fields[column], fault = self.files[value]
        if fault:
            raise ValueError(fault)

    def _check_file_if_any(self, fields: Fields, column: str, value: str) -> None:
        fields[column] = None
        if value:
            self._check_file(fields, column, value)


def _file_fault(path: Path, value: str) -> str:
    if not value:
        return "is empty; type the path of a file, relative to the manifest's folder or absolute"
    if CONTROL.search(value):
        return f"{value!r} holds control characters or half a character; rename the file"
    if re.match(r"[a-z]+://", value):
        return f"{value} is an address; download it and type the path of the file"
    if not os.path.exists(path):  # unlike Path.exists, this bears names of any length
        return f"{path} does not exist{_neighbour(path)}; type a path relative to the manifest's folder or absolute"
    if not path.is_file():
        return f"{path} is not a regular file; type the path of one file"
    if not os.access(path, os.R_OK):
        return f"{path} may not be read; allow it, for example with chmod u+r"
    return f"{path} is empty (0 bytes); export it again" if path.stat().st_size == 0 else ""


def _neighbour(path: Path) -> str:
    """' (did you mean x.png?)' when the folder holds a file with nearly this name."""
    try:
        names = os.listdir(path.parent)[:5000]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _check_clip(fields: Fields, column: str, value: str) -> None:
    if not _ID.fullmatch(value):
        found = f"{value!r} is not an id" if value else "is empty"
        raise ValueError(f"{found}; type 1 to 64 of a-z 0-9 . _ - beginning with a letter or digit{_suggest(value)}")
    fields[column] = value


def _suggest(value: str) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", value.lower()).lstrip("._-").rstrip("-")[:64]
    return f", for example {slug}" if slug else ""


def _check_language(fields: Fields, column: str, value: str) -> None:
    known = _TAG_OF_NAME.get(value.lower())
    if known or (value and not _TAG.fullmatch(value)):
        hint = f"type {known}" if known else "type a BCP-47 tag such as en, zh-Hans or pt-BR"
        raise ValueError(f"{value!r} is not a language tag; {hint}, or leave it empty to detect it")
    fields[column] = value


def _check_seed(fields: Fields, column: str, value: str) -> None:
    if value and not (re.fullmatch(r"\d{1,10}", value, re.ASCII) and int(value) <= SEED_MAX):
        raise ValueError(f"{value!r} is not a seed; type a whole number from 0 to {SEED_MAX}, or leave it empty")
    fields[column] = int(value) if value else None


def _check_scale(fields: Fields, column: str, value: str) -> None:
    fields[column] = _number(value, 0.0, 3.0)


def _check_range(fields: Fields, column: str, value: str) -> None:
    fields[column] = _number(value, 0.1, 4.0)


def _number(value: str, low: float, high: float) -> float:
    """The number in a cell; an empty cell is 1."""
    wanted = f"type a number from {low:g} to {high:g} (1 = as trained), with a point, or leave it empty"
    try:
        number = float(value) if value else 1.0
    except ValueError:
        raise ValueError(f"{value!r} is not a number; {wanted}") from None
    if not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{value} is out of range; {wanted}")
    return number


def _check_face(fields: Fields, column: str, value: str) -> None:
    """'' (the only face), an index counted from 0 at the left, or a box x0,y0,x1,y1 in pixels."""
    numbers = re.split(r"[,;\s]+", value.strip("[]() "))
    if value and not all(re.fullmatch(r"\d{1,6}(\.\d+)?", number, re.ASCII) for number in numbers):
        numbers = []
    if len(numbers) == 4:
        left, top, right, bottom = map(float, numbers)
        fits = left < right and top < bottom
    else:
        fits = not value or (len(numbers) == 1 and numbers[0].isdigit() and int(numbers[0]) <= FACE_MAX)
    if not fits:
        raise ValueError(f"{value!r} names no face; type an index (0 = the leftmost) or a box in pixels: x0,y0,x1,y1")
    fields[column] = ",".join(numbers) if value else ""


def _check_preset(fields: Fields, column: str, value: str) -> None:
    if value and value not in PRESETS:
        raise ValueError(f"{value!r} is not a preset{_did_you_mean(value, PRESETS)}; type one of {', '.join(PRESETS)}")
    fields[column] = value


def _check_text(fields: Fields, column: str, value: str) -> None:
    if len(value) > TEXT_MAX or CONTROL.search(value):
        raise ValueError(
            f"holds control characters or half a character, or is long; type one line of at most {TEXT_MAX} characters"
        )
    fields[column] = value


def _check_enabled(fields: Fields, column: str, value: str) -> None:
    if value.lower() not in _TRUTH:
        raise ValueError(f"{value!r} is neither yes nor no; type true or false, or leave it empty (true)")


def _row(line: int, fields: Fields) -> Row:
    scales, ranges = (tuple(fields.pop(name) for name in names) for names in (SCALES, RANGES))
    return Row(line=line, scales=scales, ranges=ranges, **fields)


def _records(path: Path, reading: _Reading) -> Iterator[Record]:
    """(line, cells by column) of each line of the file; faults of lines that are no record go into `reading`."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".jsonl"):
        raise ManifestError(f"{path}: found a name ending in {kind or 'nothing'}; needed .csv, .tsv or .jsonl")
    text = _text(path)
    return _json_records(text, reading) if kind == ".jsonl" else _table_records(text, kind, reading)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read ({error.strerror}); type the path of an existing manifest"
        ) from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 (byte {error.start}); save it again as UTF-8 text") from None


def _table_records(text: str, kind: str, reading: _Reading) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",")
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, kind, reading)
        start = reader.line_num + 1
        for values in reader:
            if any(value.strip() for value in values):
                cells = dict(zip(header, (value.strip() for value in values), strict=False))
                yield start, cells, _too_many(values[len(header) :])
            start = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{reading.path}:{reader.line_num}: not a table ({error}); check its quotes") from None


def _too_many(extra: list[str]) -> Wrong:
    if not any(extra):
        return []
    return [("row", f"has cells beyond the header ({extra[0]!r}); quote values that hold the separator")]


def _check_header(header: list[str], kind: str, reading: _Reading) -> None:
    absent = [name for name in REQUIRED if name not in header]
    if absent:
        found = ", ".join(header) or "nothing"
        hint = "; separate the columns with tabs" if kind == ".tsv" else "; separate the columns with commas"
        hint = hint if len(header) == 1 else ""
        raise ManifestError(f"{reading.path}:1: needed the columns {', '.join(absent)}; found {found}{hint}")
    for index, name in enumerate(header):
        if name in header[:index]:
            reading.fault(1, name, "column is there twice; delete one")
        elif name not in COLUMNS:
            hint = _did_you_mean(name, COLUMNS)
            reading.fault(1, name or "header", f"column is unknown{hint}; the columns are {', '.join(COLUMNS)}")


def _json_records(text: str, reading: _Reading) -> Iterator[Record]:
    for line, entry in enumerate(text.split("\n"), start=1):
        if not entry.strip():
            continue
        try:
            cells = {name: _cell(item) for name, item in json.loads(entry).items()}
        except (ValueError, AttributeError, RecursionError) as error:
            yield line, {}, [("row", f"is not a JSON object ({error}); type one object a line with plain values")]
            continue
        unknown = [name for name in cells if name not in COLUMNS]
        yield line, cells, [(name, f"is unknown{_did_you_mean(name, COLUMNS)}; delete it") for name in unknown]


def _cell(value: Any) -> str:
    """A JSON value as the text a table's cell would hold."""
    if value is None or isinstance(value, bool | int | float | str):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value).strip()
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        return ",".join(str(item) for item in value)
    raise ValueError(f"found {type(value).__name__}")


def _did_you_mean(value: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
