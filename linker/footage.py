"""Footage: the videos that curation is pointed at, a folder or a list with licences and sources."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linker.errors import ManifestError
from linker.records import CONTROL, Fault, content_name, one_line, read_json

COLUMNS = ("video", "licence", "source", "identity", "language")
SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv")
TEXT_MAX = 500


@dataclass(frozen=True)
class Video:
    """One file; `id` names its folder in the results. `identity` is who speaks, where the list says so."""

    id: str
    path: Path
    licence: str = ""
    source: str = ""
    identity: str = ""
    language: str = ""

    def to_json(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Footage:
    """What was listed: good entries, every fault of the others, and links to folders, passed over as possible loops."""

    videos: tuple[Video, ...]
    faults: tuple[Fault, ...] = ()
    passed: tuple[Path, ...] = ()


def read_footage(path: Path) -> Footage:
    """Every video below a folder, or of a list (.csv, .tsv, .jsonl with a column `video`). Raises ManifestError."""
    where = Path(os.path.abspath(path))
    if where.is_dir():
        passed: list[Path] = []
        videos = tuple(Video(content_name(video, ""), video) for video in _below(where, passed))
        footage = Footage(videos, passed=tuple(passed))
    elif where.is_file():
        footage = _listed(where)
    else:
        raise ManifestError(f"{path}: found nothing there; needed a folder of videos or a .csv, .tsv or .jsonl list")
    if not footage.videos and not footage.faults:
        raise ManifestError(f"{path}: found no video; known are {' '.join(SUFFIXES)}")
    return footage


def _below(folder: Path, passed: list[Path]) -> Iterator[Path]:
    """Video files, and links to files, in a folder and its subfolders, by name; hidden ones are left out. Links to
    folders are not followed but noted in `passed`."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        passed += [Path(root, name) for name in folders if Path(root, name).is_symlink()]
        for name in sorted(files):
            path = Path(root, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                yield path


def _listed(path: Path) -> Footage:
    videos: dict[str, Video] = {}
    faults: list[Fault] = []
    for line, cells in _records(path):
        wrong = _wrong(cells, path.parent)
        video = None if wrong else _video(cells, path.parent)
        if video and video.id in videos:
            wrong = [("video", f"{cells['video']!r} is listed twice; remove one line")]
        faults += [Fault(str(path), line, one_line(column), message) for column, message in wrong]
        if video and not wrong:
            videos[video.id] = video
    return Footage(tuple(videos.values()), tuple(faults))


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and cells. Raises ManifestError for a file that is no such list."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".jsonl":
            yield from ((n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        else:
            yield from _table_records(path, text)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ManifestError(f"{path}: is no list of videos ({error})") from None


def _table_records(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    separator = "\t" if path.suffix == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header = next(reader, [])
    if "video" not in header:
        raise ManifestError(f"{path}:1: found columns {header}, needed `video`; others: {COLUMNS[1:]}")
    start = reader.line_num + 1
    for values in reader:
        if values:
            beyond = {"row": values[len(header) :]} if len(values) > len(header) else {}
            yield start, dict(zip(header, values, strict=False)) | beyond
        start = reader.line_num + 1


def _wrong(cells: Any, folder: Path) -> list[tuple[str, str]]:
    if not isinstance(cells, dict) or not all(isinstance(v, str | None) for v in cells.values()):
        return [("video", "needed one object of texts a line")]
    unknown = [str(name) for name in cells if name not in COLUMNS]
    wrong = [(name, f"unknown column; known are {', '.join(COLUMNS)}") for name in unknown]
    for name in COLUMNS:
        value = cells.get(name) or ""
        if CONTROL.search(value) or len(value) > TEXT_MAX:
            wrong.append((name, f"control characters or half a character, or over {TEXT_MAX} characters"))
    value = cells.get("video") or ""
    if not value:
        wrong.append(("video", "is empty; type the file's path"))
    elif not CONTROL.search(value) and not os.path.isfile(Path(folder, value)):
        wrong.append(("video", f"{value!r}: no such file below {folder}"))
    return wrong


def _video(cells: dict[str, str | None], folder: Path) -> Video:
    path = Path(os.path.abspath(folder / (cells["video"] or "")))
    texts = {name: (cells.get(name) or "").strip() for name in COLUMNS[1:]}
    return Video(content_name(path, ""), path, **texts)


def refusals(results: Path, videos: Iterable[Video]) -> Counter[str]:
    """How many videos measuring refused, by kind, as their facts in a results folder say."""
    told = (read_json(results / "footage" / video.id / "facts.json")["refusal"] for video in videos)
    return Counter(refusal["kind"] for refusal in told if refusal)


def write_listing(footage: Footage) -> list[dict[str, str]]:
    """The videos as JSON values."""
    return [video.to_json() for video in footage.videos]


def read_listing(values: list[dict[str, str]]) -> list[Video]:
    """What `write_listing` gave."""
    return [Video(value["id"], Path(value["path"]), *(value[name] for name in COLUMNS[1:])) for value in values]
