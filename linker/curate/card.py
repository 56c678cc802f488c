"""The data set's card: what is in it, where it comes from, what was left out and by which thresholds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from linker.config import CurateSettings, token
from linker.records import atomic

SPLITS = """By person: segments of one name, of one video, or with faces that look the same are never in two splits.
Faces are compared by their looks, which misses a person in another light: where you know people, name them in the
list's column `identity`."""


def write_card(path: Path, rows: list[dict[str, Any]], kept: list[dict[str, Any]], settings: CurateSettings) -> None:
    """Write the card (Markdown) of the funnel's `rows` and the table of segments, `kept`."""
    parts = ["# Talking-head segments", _summary(rows, kept), "## Funnel", "\n".join(_table(rows))]
    parts += ["Dropped, by reason: `dropped.png`; pictures of each reason: `sheets/`.", "## Splits", SPLITS]
    parts += [_counted(kept, "split"), _alike(kept), "## Licences", _counted(kept, "licence")]
    parts += [
        "## Languages",
        _counted(kept, "language"),
        _languages(kept),
        "## Doubles",
        _doubles(kept),
        "## Form",
        FORM,
    ]
    parts += ["## Thresholds", f"```json\n{token(settings)}\n```"]
    with atomic(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


FORM = """Shards `{split}-{number}.tar` in webdataset's form; for each segment: `.mp4` (512 x 512, 25 frames a second,
no sound), `.wav` (16 kHz mono, in step with the pictures), `.landmarks.npy` (T, 478, 2) pixels of the crop (NaN where a
point is not kept), `.masks.npy` (T, 3, 64, 64) head, mouth, eyes, 255 = inside, `.json` (source, frames, verdicts).
`segments.csv` has a line a segment: source file and frames, person, split, language, licence, source."""


def _summary(rows: list[dict[str, Any]], kept: list[dict[str, Any]]) -> str:
    videos, people = ({segment[name] for segment in kept} for name in ("video", "identity"))
    hours = f"{rows[-1]['hours']:.3f} of {rows[0]['hours']:.3f} hours"
    return f"{len(kept)} segments, {hours}, of {len(people)} people in {len(videos)} videos."


def _languages(kept: list[dict[str, Any]]) -> str:
    unnamed = any(not segment["language"] for segment in kept)
    return "Languages come from the list, or from whisper where `language.whisper` is set." if unnamed else ""


def _doubles(kept: list[dict[str, Any]]) -> str:
    count = sum(bool(segment["double_of"]) for segment in kept)
    return f"{count} segments show footage that another one shows too (`segments.csv`, column `double_of`)."


def _alike(kept: list[dict[str, Any]]) -> str:
    """People under different names of the list whose faces look the same."""
    pairs = sorted({f"{segment['identity']}: {segment['alike']}" for segment in kept if segment["alike"]})
    head = "Names whose faces look the same (column `alike`); if they are one person, give them one name in the list:"
    return "\n".join([head, "", *(f"* {pair}" for pair in pairs)]) if pairs else ""


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return head + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]


def _counted(kept: list[dict[str, Any]], name: str) -> str:
    counts = Counter(segment[name] or "not stated" for segment in kept)
    lines = [f"| {name} | segments |", "|---|---|", *(f"| {key} | {count} |" for key, count in sorted(counts.items()))]
    return "\n".join(lines)
