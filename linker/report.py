"""report: what became of every row: a table (status.tsv), a manifest of what failed, and one offline page; on request
the page in parts that hold small copies of their videos, for where no file can lie beside a page."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml
from PIL import Image

from linker.config import FPS
from linker.manifest import COLUMNS as MANIFEST_COLUMNS
from linker.manifest import RANGES, SCALES, read_manifest
from linker.media import Undecodable, read_frames
from linker.previews import write_preview
from linker.records import Manifest, Row, atomic, read_json
from linker.report_page import Card, parted, render
from linker.status import RowState, read_ledgers, read_states, told_left_over

COLUMNS = ("clip", "state", "step", "kind", "reason", "seconds", "video")
POSTER_FRAME = 15  # well into the first word; a long clip costs no more than a short one
POSTER_PX, POSTER_QUALITY = 288, 68  # about 8 kB: posters are part of the page, a thousand make 10 MB
PREVIEW_S, PREVIEWS_S = 60.0, 20_000.0  # of one video, and of all: some 200 MB
# Snakemake's report makes a page an address (base64), and Chromium opens none of more than 2 MiB.
PART_BYTES = 1_450_000
COPIES = "Small copies, each of at most {:.0f} s. The videos themselves are in the results folder: videos/, or draft/."
SHARED = {"crop_face": "portrait_id", "extract_masks": "portrait_id",
          "normalize_audio": "audio_id", "detect_language": "audio_id"}  # fmt: skip
OWN = ("stabilize_background", "upscale_video", "mux_audio")


def report(results: Path, manifest: Path, status: Path, page: Path, parts: Path | None = None) -> None:
    """Write `status` (one line a row), failed.csv beside it (the rows to do again, itself a manifest) and `page` (HTML
    with everything in it but the videos), from whatever sidecars there are; into the folder `parts`, where one is
    named, the page in parts that hold small copies of their videos.

    A video whose poster cannot be drawn has none; nothing that a row lacks stops the report of the others.
    """
    todo = read_manifest(manifest)
    states, rows, ledgers = read_states(results, todo), {row.clip: row for row in todo.rows}, read_ledgers(results)
    cards = [_card(results, page, state, rows.get(state.clip), ledgers) for state in states]
    _write(status, "".join("\t".join(line) + "\n" for line in [COLUMNS, *map(_line, cards)]))
    _write(status.with_name("failed.csv"), failed_manifest(todo, states))
    _write(page, render(todo.path.name, cards, _run_settings(results), told_left_over(results).capitalize()))
    if parts:
        _write_parts(parts, page, todo.path.name, cards, _run_settings(results))
    done = sum(card.state == "done" for card in cards)
    print(f"{done} of {len(cards)} rows done; {page}", file=sys.stderr)


def _write_parts(folder: Path, page: Path, name: str, cards: list[Card], settings: dict[str, Any]) -> None:
    """The page in parts, each named by its first and last row; a card's files are in it, or are left out."""
    limit_s = min(PREVIEW_S, PREVIEWS_S / max(len(cards), 1))
    spare = len(render(name, [], settings).encode()) + 2000  # what every part has around its cards
    last, digits = 0, len(str(len(cards)))
    for part in parted((_holding(card, page, limit_s) for card in cards), PART_BYTES - spare):
        first, last = last + 1, last + len(part)
        title = f"{name}, rows {first} to {last} of {len(cards)}"
        _write(
            folder / f"{first:0{digits}}-{last:0{digits}}.html", render(title, part, settings, COPIES.format(limit_s))
        )


def _holding(card: Card, page: Path, limit_s: float) -> Card:
    """A card that needs no file beside the page: its video's small copy is part of it."""
    video = page.parent / unquote(card.video) if card.video else None
    return replace(card, video=_preview(video, card.facts, page, limit_s) if video else "", debug="")


def _preview(video: Path, facts: dict[str, Any], page: Path, limit_s: float) -> str:
    """The beginning of a video as an address that holds it (data:), '' where it cannot be copied."""
    frames = max(1, min(facts.get("frames", 0), int(limit_s * facts.get("fps", FPS))))
    copy = page.parent / "previews" / f"{video.parent.name}-{video.stem}-{frames}.mp4"
    if _is_older(copy, video):
        try:
            write_preview(video, copy, frames)
        except (Undecodable, ValueError) as error:
            print(f"{video.name}: no preview: {error}", file=sys.stderr)
            return ""
    return "data:video/mp4;base64," + base64.b64encode(copy.read_bytes()).decode()


def _is_older(copy: Path, video: Path) -> bool:
    """True when a copy must be made (again)."""
    return not copy.is_file() or copy.stat().st_mtime < video.stat().st_mtime


def _card(results: Path, page: Path, state: RowState, row: Row | None, ledgers: dict[str, Any]) -> Card:
    """All that the page tells of a row; a faulty line has neither files nor timings."""
    if row is None or state.state == "faulty":
        name, line = state.clip or f"line {state.line}", f"line {state.line} of the manifest"
        return Card(name, state.state, state.where, state.kind, state.reason, title=line)
    video, sidecar = _deliverable(results, row, state)
    is_draft = video.parent.name == "draft"
    debug = results / "portraits" / row.portrait_id / "debug.png"
    timings = _timings(results, row, ledgers.get(row.clip, {}))
    return Card(
        row.clip, state.state, state.where, "checks" if is_draft else state.kind,
        state.reason.replace(f"{results}/", ""), title=row.title, portrait=row.portrait.name, audio=row.audio.name,
        video=_link(video, page), poster=_poster(video, page), is_draft=is_draft, debug=_link(debug, page),
        seconds=sum(value for step, value in timings.items() if step not in SHARED), timings=timings, facts=sidecar,
    )  # fmt: skip


def _line(card: Card) -> tuple[str, ...]:
    """One line of status.tsv."""
    video = f"videos/{card.facts['video']}" if card.state == "done" else ""
    seconds = f"{card.seconds:.1f}" if card.seconds else ""
    cells = (card.clip, card.state, card.step, card.kind, card.reason, seconds, video)
    return tuple(" ".join(cell.split()) for cell in cells)  # neither tabs nor line ends within a cell


def _deliverable(results: Path, row: Row, state: RowState) -> tuple[Path, dict[str, Any]]:
    """A row's video and its sidecar: the delivered one, or the draft that its checks hold back."""
    held = _sidecar(results / "draft" / f"{row.clip}.json")
    folder = "draft" if held and state.state == "failed" and state.where == "mux_audio" else "videos"
    sidecar = held if folder == "draft" else _sidecar(results / "videos" / f"{row.clip}.json")
    return results / folder / str(sidecar.get("video") or f"{row.clip}.mp4"), sidecar


def failed_manifest(todo: Manifest, states: list[RowState]) -> str:
    """The refused and failed rows as a manifest of their own (CSV, absolute paths): correct the cause, and run it."""
    bad = {state.clip for state in states if state.state in ("refused", "failed")}
    table = io.StringIO()
    writer = csv.DictWriter(table, [name for name in MANIFEST_COLUMNS if name != "enabled"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(row) for row in todo.rows if row.clip in bad)
    return table.getvalue()


def _cells(row: Row) -> dict[str, Any]:
    """A row as a manifest's line."""
    names = ("clip", "portrait", "audio", "language", "face", "preset", "title", "consent_ref", "licence_ref")
    cells: dict[str, Any] = {name: getattr(row, name) for name in names}
    cells |= dict(zip((*SCALES, *RANGES), (*row.scales, *row.ranges), strict=True))
    return {**cells, "seed": "" if row.seed is None else row.seed, "subtitles": row.subtitles or ""}


def _timings(results: Path, row: Row, entry: dict[str, Any]) -> dict[str, float]:
    """Seconds by step, in the order of the work."""
    names = {step: getattr(row, attribute) for step, attribute in SHARED.items()} | dict.fromkeys(OWN, row.clip)
    found = {step: _benchmark(results / "benchmarks" / step / f"{name}.jsonl") for step, name in names.items()}
    found["generate"] = entry.get("seconds")
    return {step: seconds for step in (*SHARED, "generate", *OWN) if (seconds := found[step]) is not None}


def _benchmark(path: Path) -> float | None:
    """Seconds of the last time a step ran, as Snakemake measured them; None when it did not say."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["s"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _poster(video: Path, page: Path) -> str:
    """A small JPEG of a video as an address that holds it (data:), '' where there is none to draw; drawn again only
    when the video is newer."""
    poster = page.parent / "posters" / f"{video.parent.name}-{video.stem}.jpg"
    if not video.is_file():
        return ""
    if _is_older(poster, video):
        try:
            *_, frame = islice(read_frames(video), POSTER_FRAME)
        except (Undecodable, ValueError) as error:
            print(f"{video.name}: no poster: {error}", file=sys.stderr)
            return ""
        picture = Image.fromarray(frame)
        picture.thumbnail((POSTER_PX, POSTER_PX), Image.Resampling.LANCZOS)
        with atomic(poster) as temporary:
            picture.save(temporary, quality=POSTER_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(poster.read_bytes()).decode()


def _link(path: Path, page: Path) -> str:
    """Relative address of a file from the page, '' when the file is not there."""
    return quote(os.path.relpath(path, page.parent)) if path.is_file() else ""


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _run_settings(results: Path) -> dict[str, Any]:
    """What `linker run` recorded of its settings; nothing when the run was started by hand."""
    try:
        return yaml.safe_load((results / "settings.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return {}


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
