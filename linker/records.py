"""What travels between steps: rows, refusals, and JSON sidecars that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ID_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # ends of lines and halves of characters, too
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}(\.[^.]+)?")  # names that `temporary_name` gives


@dataclass(frozen=True)
class Row:
    """One line of a manifest: one clip. Paths are absolute; scales and ranges in the order head, mouth, eyes."""

    clip: str
    portrait: Path
    audio: Path
    line: int
    language: str = ""
    seed: int | None = None
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ranges: tuple[float, float, float] = (1.0, 1.0, 1.0)
    face: str = ""
    preset: str = ""
    title: str = ""
    consent_ref: str = ""
    licence_ref: str = ""
    subtitles: Path | None = None

    @property
    def portrait_id(self) -> str:
        """Folder name of the portrait's preparation: the same file with the same `face` is prepared once."""
        return content_name(self.portrait, self.face)

    @property
    def audio_id(self) -> str:
        """Folder name of the audio's preparation."""
        return content_name(self.audio, "")


@dataclass(frozen=True)
class Refusal:
    """Why a row cannot be done: data, not an exception. `kind` is a short stable word, `reason` one line for people."""

    kind: str
    reason: str
    step: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, str] | None) -> Refusal | None:
        return Refusal(**value) if value else None


@dataclass(frozen=True)
class Fault:
    """One wrong field of one row. `str()` is the line people read: jobs.csv:17:portrait: error: ..."""

    file: str
    line: int
    column: str
    message: str
    clip: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: error: {self.message}"


def one_line(text: str) -> str:
    """A text from outside as it can be told: control characters are spelled out."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read: good rows, and every fault of the others."""

    path: Path
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...] = field(default=())


def content_name(path: Path, extra: str) -> str:
    """A safe, stable folder name: a slug of the stem and eight hex digits of the whole path (and `extra`)."""
    return f"{slug(path)}.{hashlib.sha256(f'{path}|{extra}'.encode()).hexdigest()[:8]}"


def slug(path: Path) -> str:
    """A file's name without its suffix as a-z, 0-9 and -, at most 40 characters."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem.lower())[:40].strip("-") or "file"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nothing else has; see TEMPORARY."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix), moved onto it on success, deleted on failure.

    Its name is known before it is there: a signal that ends the process while it is made leaves nothing either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_up(folder: Path) -> None:
    """Delete what `atomic` left in a folder where its process was killed; only while nobody writes there."""
    for path in folder.glob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a sidecar whole or not at all; keys in the given order, UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a sidecar written by `write_json`."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
