"""What a manifest asks for, before any job starts: faults of rows and of their media, shared work, jobs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linker.config import Settings
from linker.errors import LinkerError
from linker.records import Fault, Manifest, Refusal, Row, read_json
from linker.run import Order, Planned, plan_workflow

Examine = Callable[[Row], Refusal | None]


@dataclass(frozen=True)
class Plan:
    """A manifest's rows, all faults, and what a run would do."""

    manifest: Manifest
    media: list[Fault]
    planned: Planned

    @property
    def faults(self) -> list[Fault]:
        return sorted([*self.manifest.faults, *self.media], key=lambda fault: fault.line)


def make_plan(todo: Order, manifest: Manifest) -> Plan:
    """Look at the media and ask Snakemake; nothing is written where there are no results yet."""
    media = media_faults(manifest, todo.settings, todo.results)
    if todo.results.is_dir():
        return Plan(manifest, media, plan_workflow(todo, todo.results, len(manifest.rows)))
    with tempfile.TemporaryDirectory(prefix="linker-plan-") as folder:
        return Plan(manifest, media, plan_workflow(todo, Path(folder), len(manifest.rows)))


def media_faults(manifest: Manifest, settings: Settings, results: Path) -> list[Fault]:
    """Every row whose portrait, audio or subtitles cannot be used; each distinct picture and sound is read once."""
    portraits = {row.portrait_id: row for row in manifest.rows}
    audios = {row.audio_id: row for row in manifest.rows}
    seen = {
        **dict(_refusals(portraits, results / "portraits", "crop.json", _portrait_examiner(settings))),
        **dict(_refusals(audios, results / "audio", "loudness.json", _audio_examiner(settings))),
    }
    faults = [
        Fault(str(manifest.path), row.line, column, f"{refusal.kind}: {refusal.reason}", row.clip)
        for row in manifest.rows
        for column, name in (("portrait", row.portrait_id), ("audio", row.audio_id))
        if (refusal := seen.get(name))
    ]
    return faults + list(_subtitle_faults(manifest))


def _subtitle_faults(manifest: Manifest) -> Iterator[Fault]:
    """Subtitles that cannot be read would hold back a row that is generated already."""
    for row in manifest.rows:
        if row.subtitles:
            from linker.media import Undecodable
            from linker.subtitles import read_srt

            try:
                read_srt(row.subtitles)
            except (LinkerError, Undecodable) as error:
                yield Fault(str(manifest.path), row.line, "subtitles", str(error), row.clip)


def _refusals(rows: dict[str, Row], folder: Path, sidecar: str, examine: Examine) -> Iterator[tuple[str, Refusal]]:
    for name, row in rows.items():
        source = row.portrait if sidecar == "crop.json" else row.audio
        if not _is_prepared(folder / name / sidecar, source):
            refusal = examine(row)
            if refusal:
                yield name, refusal


def _is_prepared(sidecar: Path, source: Path) -> bool:
    """True when an earlier run accepted this very file: it need not be looked at again."""
    try:
        return sidecar.stat().st_mtime > source.stat().st_mtime and not read_json(sidecar).get("refusal")
    except (OSError, ValueError):
        return False


def _portrait_examiner(settings: Settings) -> Examine:
    def examine(row: Row) -> Refusal | None:
        from linker.face import examine_portrait

        return examine_portrait(row.portrait, row.face, settings.face, settings.limits)

    return examine


def _audio_examiner(settings: Settings) -> Examine:
    def examine(row: Row) -> Refusal | None:
        from linker.audio import examine_audio

        return examine_audio(row.audio, settings.limits, settings.audio)

    return examine


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    rows = plan.manifest.rows
    return {
        "manifest": str(plan.manifest.path),
        "rows": len(rows),
        "portraits": len({row.portrait_id for row in rows}),
        "audios": len({row.audio_id for row in rows}),
        "faults": [{**vars(fault), "text": str(fault)} for fault in plan.faults],
        "jobs_by_rule": plan.planned.counts,
        "jobs": [{"what": what, "why": why} for what, why in plan.planned.jobs],
    }


def to_text(plan: Plan, results: Path) -> str:
    """The plan for people."""
    told = to_json(plan)
    lines = [str(fault) for fault in plan.faults]
    lines += ["" if lines else "no faults", f"{told['rows']} rows can be dubbed, {len(plan.faults)} faults"]
    shared = f"{told['portraits']} portraits + {told['audios']} audios"
    lines += [f"{shared} are prepared once each, however many rows use them", ""]
    lines += [f"what would run in {results}:"] if plan.planned.counts else [f"nothing to run: {results} is up to date"]
    lines += [f"  {what}  ({_short(why)})" for what, why in plan.planned.jobs[:40]]
    if len(plan.planned.jobs) > 40:
        lines.append(f"  ... and {len(plan.planned.jobs) - 40} more (--json lists all)")
    lines += [""] + [f"  {rule:<22}{number:>6}" for rule, number in plan.planned.counts.items()]
    return "\n".join(lines).rstrip()


def _short(why: str) -> str:
    """Snakemake's reasons without the files and values they list."""
    return "; ".join(dict.fromkeys(part.split(":")[0].strip().lower() for part in why.split("; ")))
