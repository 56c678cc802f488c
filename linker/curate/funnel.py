"""funnel: what was kept and what was dropped at which stage, in hours (the paper's Table 1), why (its Figure 4), and
the data set itself: shards by split, a table of segments, doubles, contact sheets, a card."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linker.config import FPS, CurateSettings, LanguageSettings
from linker.curate.card import write_card
from linker.curate.doubles import find_doubles, load_look
from linker.curate.pack import Packed, pack_shards
from linker.curate.people import Person, find_people
from linker.curate.segments import kept_segments
from linker.curate.sheets import draw_dropped, draw_sheets
from linker.curate.verdicts import STAGES, Verdict
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
    verdicts: dict[str, dict[str, Any]]
    measured: bool = True  # False of a whole video that could not be

    @property
    def hours(self) -> float:
        return (self.last - self.first) / FPS / 3600

    @property
    def key(self) -> str:
        return f"{self.video.id.replace('.', '-')}-{self.number:04d}"


def funnel(
    listing: Path, lines: Path, table: Path, dataset: Path, settings: CurateSettings, hearing: LanguageSettings
) -> None:
    """Write `lines` (JSON, a verdict each), `table` (CSV), and the data set beside its card `dataset` (README.md).

    What was found of each video in `listing` lies in footage/{video}/ beside it; a command line does not hold them all.
    """
    videos = read_listing(read_json(listing)["videos"])
    homes = {video.id: listing.parent / "footage" / video.id for video in videos}
    told = [read_json(home / "verdicts.json") for home in homes.values()]
    if hearing.whisper:
        videos = [_heard(video, homes[video.id]) for video in videos]
    for one, home in zip(told, homes.values(), strict=True):
        one["verdicts"] += uncut(one, read_json(home / "segments.json"))
    judged = [segment for video, one in zip(videos, told, strict=True) for segment in in_order(video, one)]
    write_lines(lines, (verdict for one in told for verdict in one["verdicts"]))
    rows = count(judged, sum(one["duration_s"] for one in told) / 3600)
    write_rows(table, rows)
    folder, kept = dataset.parent, [segment for segment in judged if not segment.dropped]
    looks = {segment.key: load_look(homes[segment.video.id] / "looks.npz", segment.number) for segment in kept}
    people, doubles = find_people(kept, looks), find_doubles(looks)
    lines_of = {segment.key: _line(segment, people[segment.key], doubles) for segment in kept}
    write_rows(folder / "segments.csv", list(lines_of.values()))
    pack_shards(folder, [_packed(segment, lines_of[segment.key], homes) for segment in kept])
    draw_sheets(folder / "sheets", judged, {name: home / "measures.npz" for name, home in homes.items()})
    draw_dropped(folder / "dropped.png", judged)
    write_card(dataset, rows, list(lines_of.values()), settings)


def _heard(video: Video, home: Path) -> Video:
    """With the language that hear_language heard, where the list names none."""
    return video if video.language else replace(video, language=read_json(home / "language.json")["language"])


def uncut(told: dict[str, Any], cut: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts on segments that every stage kept and that could not be cut."""
    why = cut["refusal"]
    lost = [piece.number for piece in kept_segments(told) if str(piece.number) not in cut["segments"]]
    words = (0.0, 0.0, False, why["kind"], why["reason"]) if lost else ()
    return [Verdict(told["video"], number, "cut", *words).to_json() for number in lost]


def in_order(video: Video, told: dict[str, Any]) -> list[Judged]:
    """A video's segments, each with the first stage in the paper's order that dropped it."""
    by_segment: dict[int, dict[str, dict[str, Any]]] = {}
    for verdict in told["verdicts"]:
        by_segment.setdefault(verdict["segment"], {})[verdict["stage"]] = verdict
    judged = []
    whole = {"number": 0, "first": 0, "last": round(told["duration_s"] * FPS), "slot": None}
    for segment in told["segments"] or [whole]:
        stages = by_segment.get(segment["number"], {})
        failed = next((stages[stage] for stage in STAGES if stage in stages and not stages[stage]["kept"]), None)
        names = ("stage", "kind", "reason", "frames")
        dropped, kind, reason, frames = (failed[name] for name in names) if failed else ("", "", "", [])
        first, last, slot = segment["first"], segment["last"], segment["slot"]
        what = (dropped, kind, reason, frames, stages, bool(told["segments"]))
        judged.append(Judged(video, segment["number"], first, last, slot, *what))
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


def split_of(together: str) -> str:
    """The split of those who stay together: decided by their first name in the alphabet alone, so that more footage
    moves nobody but whom it shows to be one with somebody before them."""
    lot = int(hashlib.sha256(together.encode()).hexdigest()[:8], 16) / 2**32
    return next(name for name, share in SPLITS if lot < share)


def _line(segment: Judged, person: Person, doubles: dict[str, str]) -> dict[str, Any]:
    video = segment.video
    return {
        "segment": segment.key, "video": video.id, "path": str(video.path), "first_frame": segment.first,
        "last_frame": segment.last, "seconds": round((segment.last - segment.first) / FPS, 2),
        "identity": person.name, "alike": " | ".join(person.alike), "split": split_of(person.together),
        "double_of": doubles.get(segment.key, ""),
        "language": video.language, "licence": video.licence, "source": video.source,
    }  # fmt: skip


def _packed(segment: Judged, line: dict[str, Any], homes: dict[str, Path]) -> Packed:
    """A segment with what its shard says of it."""
    home = homes[segment.video.id]
    told = {name: line[name] for name in ("video", "language", "licence", "source", "identity")}
    told["segment"] = {name: getattr(segment, name) for name in ("number", "first", "last", "slot")}
    told["verdicts"] = segment.verdicts
    name = read_json(home / "segments.json")["segments"][str(segment.number)]
    return Packed(segment.key, home / "segments" / name, line["split"], told)


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
