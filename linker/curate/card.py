"""The data set's card: what is in it, where it comes from, what was left out and by which thresholds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linker.config import CurateSettings, token
from linker.records import atomic

if TYPE_CHECKING:
    from linker.curate.funnel import Judged


def write_card(
    path: Path, rows: list[dict[str, Any]], kept: list[Judged], splits: dict[str, str], doubles: dict[str, str],
    settings: CurateSettings,
) -> None:  # fmt: skip
    """Write the card (Markdown)."""
    lines = ["# Talking-head segments", "", _summary(rows, kept), "", "## Funnel", "", *_table(rows), ""]
    lines += ["Dropped, by reason: `dropped.png`; pictures of each reason: `sheets/`.", ""]
    lines += ["## Splits", "", "By person, so that nobody is in two of them.", ""]
    lines += _counted(Counter(splits[segment.key] for segment in kept), "split")
    lines += [
        "",
        "## Licences",
        "",
        *_counted(Counter(segment.video.licence or "not stated" for segment in kept), "licence"),
    ]
    lines += ["", "## Languages", "", *_counted(Counter(s.video.language or "not stated" for s in kept), "language")]
    lines += [
        "",
        "## Doubles",
        "",
        f"{len(doubles)} segments show footage that another one shows too (`segments.csv`).",
    ]
    lines += ["", "## Form", "", FORM, "", "## Thresholds", "", f"```json\n{token(settings)}\n```", ""]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


FORM = """Shards `{split}-{number}.tar` in webdataset's form; for each segment: `.mp4` (512 x 512, 25 frames a second,
no sound), `.wav` (16 kHz mono, in step with the pictures), `.landmarks.npy` (T, 478, 2) pixels of the crop (NaN where a
point is not kept), `.masks.npy` (T, 3, 64, 64) head, mouth, eyes, 255 = inside, `.json` (source, frames, verdicts).
`segments.csv` has a line a segment: source file and frames, person, split, language, licence, source."""


def _summary(rows: list[dict[str, Any]], kept: list[Judged]) -> str:
    people = len({segment.video.id for segment in kept})
    return f"{len(kept)} segments, {rows[-1]['hours']:.3f} of {rows[0]['hours']:.3f} hours, from {people} videos."


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return head + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]


def _counted(counts: Counter[str], name: str) -> list[str]:
    return [f"| {name} | segments |", "|---|---|", *(f"| {key} | {count} |" for key, count in sorted(counts.items()))]
