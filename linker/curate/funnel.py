"""funnel: what was kept and what was dropped at which stage, in hours (the paper's Table 1), why (its Figure 4), and
the data set itself: shards by split, a table of segments, doubles, contact sheets, a card."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linker.config import FPS, CurateSettings
from linker.curate.card import write_card
from linker.curate.doubles import find_doubles, identities
from linker.curate.pack import pack_shards
from linker.curate.sheets import draw_dropped, draw_sheets
from linker.curate.verdicts import STAGES
from linker.footage import Video, read_listing
from linker.records import atomic, read_json

SPLITS = (("test", 0.05), ("validation", 0.10), ("train", 1.0))  # shares of identities, cumulative


@dataclass(frozen=True)
class Judged:
    """One segment and what became of it: `dropped` names the first stage, in the paper's order, that refused it."""

    video: Video
    number: int
    first: int
    last: int
    slot: int | None
    dropped: str
    kind: str
    reason: str
    frames: list[list[int]]

    @property
    def hours(self) -> float:
        return (self.last - self.first) / FPS / 3600

    @property
    def key(self) -> str:
        return f"{self.video.id.replace('.', '-')}-{self.number:04d}"


def funnel(
    listing: Path, verdicts: list[Path], lines: Path, table: Path, dataset: Path, settings: CurateSettings
) -> None:
    """Write `lines` (JSON, a verdict each), `table` (CSV), and the data set beside its card `dataset` (README.md)."""
    videos = read_listing(read_json(listing)["videos"])
    told = [read_json(path) for path in verdicts]
    judged = [segment for video, one in zip(videos, told, strict=True) for segment in in_order(video, one)]
    write_lines(lines, (verdict for one in told for verdict in one["verdicts"]))
    rows = count(judged, sum(one["duration_s"] for one in told) / 3600)
    write_rows(table, rows)
    folder, measured = (
        dataset.parent,
        {v.id: path.parent / "measures.npz" for v, path in zip(videos, verdicts, strict=True)},
    )
    kept = [segment for segment in judged if not segment.dropped]
    people = identities(kept, measured)
    splits = {segment.key: split_of(people[segment.key]) for segment in kept}
    doubles = find_doubles(kept, measured)
    write_rows(folder / "segments.csv", [_line(segment, people, splits, doubles) for segment in kept])
    pack_shards(folder, [(path.parent / "segments.tar") for path in verdicts], splits)
    draw_sheets(folder / "sheets", judged, measured)
    draw_dropped(folder / "dropped.png", judged)
    write_card(dataset, rows, kept, splits, doubles, settings)


def in_order(video: Video, told: dict[str, Any]) -> list[Judged]:
    """A video's segments, each with the first stage in the paper's order that dropped it."""
    by_segment: dict[int, dict[str, dict[str, Any]]] = {}
    for verdict in told["verdicts"]:
        by_segment.setdefault(verdict["segment"], {})[verdict["stage"]] = verdict
    judged = []
    for segment in told["segments"] or [{"number": 0, "first": 0, "last": 0, "slot": None}]:
        stages = by_segment.get(segment["number"], {})
        failed = next((stages[stage] for stage in STAGES if stage in stages and not stages[stage]["kept"]), None)
        words = (failed["stage"], failed["kind"], failed["reason"], failed["frames"]) if failed else ("", "", "", [])
        judged.append(Judged(video, segment["number"], segment["first"], segment["last"], segment["slot"], *words))
    return judged


def count(judged: list[Judged], origin_hours: float) -> list[dict[str, Any]]:
    """The paper's Table 1: segments and hours left after each stage, and the share that each kept."""
    rows = [{"stage": "origin", "segments": len(judged), "hours": round(origin_hours, 5), "kept": 1.0, "overall": 1.0}]
    left, before = judged, origin_hours
    for stage in STAGES:
        left = [segment for segment in left if segment.dropped != stage]
        hours = sum(segment.hours for segment in left)
        shares = {"kept": _share(hours, before), "overall": _share(hours, origin_hours)}
        rows.append({"stage": stage, "segments": len(left), "hours": round(hours, 5), **shares})
        before = hours
    return rows


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def split_of(identity: str) -> str:
    """The split of a person: decided by the name alone, so that more footage moves nobody."""
    lot = int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16) / 2**32
    return next(name for name, share in SPLITS if lot < share)


def _line(segment: Judged, people: dict[str, str], splits: dict[str, str], doubles: dict[str, str]) -> dict[str, Any]:
    video = segment.video
    return {
        "segment": segment.key, "video": video.id, "path": str(video.path), "first_frame": segment.first,
        "last_frame": segment.last, "seconds": round((segment.last - segment.first) / FPS, 2),
        "identity": people[segment.key], "split": splits[segment.key], "double_of": doubles.get(segment.key, ""),
        "language": video.language, "licence": video.licence, "source": video.source,
    }  # fmt: skip


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV table with the rows' own columns, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["segment"])
        writer.writeheader()
        writer.writerows(rows)
