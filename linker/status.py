"""Where each row of a manifest is, read from sidecars alone: works beside a running workflow and after a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from linker.heartbeat import is_dead_here, read_workers
from linker.leases import PROGRESS
from linker.records import Fault, Manifest, Row, read_json

STATES = ("done", "refused", "failed", "waiting", "faulty")
UNTIL_GENERATED = ("crop_face", "extract_masks", "normalize_audio", "detect_language", "generate")
HELD = "checks"  # kind of a failed row whose video was made, and stays in draft/
FINISH = ("stabilize_background", "upscale_video", "mux_audio")


@dataclass(frozen=True)
class RowState:
    """One row: done, refused (its own fault), failed (the machine's), waiting, or faulty (in the manifest)."""

    clip: str
    line: int
    state: str
    where: str = ""  # the step, or the manifest's column
    kind: str = ""
    reason: str = ""
    video: str = ""  # relative to the results folder
    worker: str = ""  # who makes or made the row: 'job 12_3 on n7'
    windows: str = ""  # of a row that is being made: '3 of 7'
    gpu_s: float = 0.0  # what generating it has taken so far, its share where rows share a worker
    left_s: float | None = None  # until it is generated, once its pace is known

    def __str__(self) -> str:
        name = self.clip or f"line {self.line}"
        return f"{name}: {self.where}: {self.reason}" if self.reason else f"{name}: {self.state}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_states(results: Path, manifest: Manifest) -> list[RowState]:
    """The state of every row and every faulty line, in the manifest's order."""
    ledger, shards = read_ledgers(results), _read_listings(results)
    side = cache(_sidecar)  # portraits and audios are shared by many rows
    states = [_row_state(results, row, ledger, shards, side) for row in manifest.rows]
    makers = read_makers(results)
    states = [_with_maker(state, ledger.get(state.clip), makers.get(state.clip)) for state in states]
    faulty = _faulty(manifest.faults, {row.clip for row in manifest.rows})
    return sorted([*states, *faulty], key=lambda state: state.line)


def read_makers(results: Path) -> dict[str, dict[str, Any]]:
    """What signs of life and leases tell of each row that is being made: {worker, together, windows, of, seconds}."""
    found: dict[str, dict[str, Any]] = {}
    for folder in results.glob("shards/*/workers"):
        for name, sign in read_workers(folder).items():
            if is_dead_here(sign):
                continue
            for clip in sign["rows"]:
                progress = _sidecar(folder.parent / "rows" / clip / name / PROGRESS) or {}
                found[clip] = {**progress, "worker": _told_worker(sign), "together": len(sign["rows"])}
    return found


def _told_worker(sign: dict[str, Any]) -> str:
    """'job 12_3 on n7', 'this run on n7'."""
    job = f"job {sign['job']}" if sign.get("job") else "this run"
    return f"{job} on {sign['node']}" if sign.get("node") else ""


def left_over(results: Path) -> list[str]:
    """Files in videos/ and masters/ that no row delivers any more, as one of another name, container or language took
    their place; relative to the results folder."""
    kept = {f"{folder}/{name}" for sidecar in results.glob("videos/*.json") for folder, name in _delivered(sidecar)}
    found = [path for folder in ("videos", "masters") for path in results.glob(f"{folder}/[!.]*")]
    names = sorted(f"{path.parent.name}/{path.name}" for path in found if path.suffix != ".json")
    return [name for name in names if name not in kept]


def _delivered(sidecar: Path) -> list[tuple[str, str]]:
    """Folder and name of what a row delivers: by its note, or by its longer sidecar where a rerun took the note."""
    note = _sidecar(sidecar.parent.parent / "clips" / sidecar.stem / "delivered.json") or {}
    told = note if "master" in note else _sidecar(sidecar) or {}
    return [("videos", told.get("video", "")), ("masters", told.get("master", ""))]


def told_left_over(results: Path) -> str:
    """One line about them, '' where there are none."""
    names = left_over(results)
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"of earlier settings, delivered by no row any more: {listed}; move or delete them" if names else ""


def _with_maker(state: RowState, entry: dict[str, Any] | None, maker: dict[str, Any] | None) -> RowState:
    """The state with who makes or made the row, how far it is, and what it took."""
    if state.state == "waiting" and state.where == "generate" and maker:
        windows, of, seconds = maker.get("windows", 0), maker.get("of", 0), maker.get("seconds", 0.0)
        left = round(seconds / windows * (of - windows) * maker["together"], 1) if windows else None
        told = f"{windows} of {of}" if of else ""
        return replace(state, worker=maker["worker"], windows=told, gpu_s=seconds, left_s=left)
    return replace(state, worker=_told_worker(entry), gpu_s=entry.get("seconds", 0.0)) if entry else state


def read_ledgers(results: Path) -> dict[str, dict[str, Any]]:
    """The newest entry of each clip among the shards' ledgers."""
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("shards/*/ledger.json"), key=_modified):
        entries.update((_sidecar(path) or {}).get("rows", {}))
    for shard in {path.parent for path in results.glob("shards/*/workers")}:  # newer than what was gathered
        entries.update(
            {path.parent.name: found for path in shard.glob("rows/*/entry.json") if (found := _sidecar(path))}
        )
    return entries


def _read_listings(results: Path) -> dict[str, str]:
    """The shard of each clip, as the shards' listings say."""
    listings = {path.stem: _sidecar(path) or {} for path in results.glob("shards/s*.json")}
    return {entry["clip"]: shard for shard, listing in listings.items() for entry in listing.get("rows", [])}


def _row_state(
    results: Path, row: Row, ledger: dict[str, dict[str, Any]], shards: dict[str, str], side: Any
) -> RowState:
    sidecars = [
        ("crop_face", side(results / "portraits" / row.portrait_id / "crop.json")),
        ("normalize_audio", side(results / "audio" / row.audio_id / "loudness.json")),
        ("generate", ledger.get(row.clip)),
        ("mux_audio", side(results / "videos" / f"{row.clip}.json")),
    ]
    for step, sidecar in sidecars:
        refusal = (sidecar or {}).get("refusal")
        if refusal:
            where = refusal.get("step", step)
            return RowState(row.clip, row.line, "refused", where, refusal["kind"], refusal["reason"])
    delivered = results / "clips" / row.clip / "delivered.json"
    video = f"videos/{(side(delivered) or {}).get('video', '')}"
    is_delivered = bool(sidecars[-1][1]) and (results / video).is_file()
    logs = list(_logs(results, row, shards))
    if is_delivered:  # a step that was called again since may have failed, or ended without a word
        since = _modified(delivered)
        logs = [(step, log) for step, log in logs if step != "generate" and _modified(log) > since]
    for step, log in logs:
        words = error_in(log)
        if words:
            held = step == "mux_audio" and (results / "draft" / f"{row.clip}.json").is_file()
            return RowState(row.clip, row.line, "failed", step, HELD if held else "error", f"{words} ({log})")
    called = {step for step, _ in logs}
    missing = [step for step in _missing(results, row, ledger) if not is_delivered or step in called]
    if is_delivered and not missing:
        return RowState(row.clip, row.line, "done", video=video)
    return RowState(row.clip, row.line, "waiting", next(iter(missing), "mux_audio"))


def _faulty(faults: tuple[Fault, ...], taken: set[str]) -> Iterator[RowState]:
    """One state a faulty line, its faults in one reason; named by its id unless a good row has that."""
    lines: dict[int, list[Fault]] = {}
    for fault in faults:
        lines.setdefault(fault.line, []).append(fault)
    for line, found in lines.items():
        columns = ", ".join(dict.fromkeys(fault.column for fault in found))
        told = [fault.message if columns == fault.column else f"{fault.column}: {fault.message}" for fault in found]
        clip = next((fault.clip for fault in found if fault.clip not in taken), "")
        yield RowState(clip, line, "faulty", columns, "manifest", "; ".join(told))


def _missing(results: Path, row: Row, ledger: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The steps whose output a row still lacks, in the order of the graph."""
    portrait, audio = results / "portraits" / row.portrait_id, results / "audio" / row.audio_id
    clip = results / "clips" / row.clip
    outputs = {
        "crop_face": portrait / "crop.json",
        "extract_masks": portrait / "masks.npz",
        "normalize_audio": audio / "loudness.json",
        "detect_language": audio / "language.json",
    }
    yield from (step for step, path in outputs.items() if not path.is_file())
    if row.clip not in ledger:
        yield "generate"
    finish = {"collect": "generated.mkv", "stabilize_background": "stable.mkv", "upscale_video": "upscaled.mkv"}
    yield from (step for step, name in finish.items() if not (clip / name).is_file())


def _logs(results: Path, row: Row, shards: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """The logs of the steps a row passes, in order."""
    names = dict.fromkeys(("crop_face", "extract_masks"), row.portrait_id)
    names |= dict.fromkeys(("normalize_audio", "detect_language"), row.audio_id)
    yield from ((step, results / "logs" / step / f"{name}.log") for step, name in names.items())
    if row.clip in shards:
        yield "generate", results / "logs" / "generate" / f"{shards[row.clip]}.log"
    yield from ((step, results / "logs" / step / f"{row.clip}.log") for step in ("collect", *FINISH))


def error_in(log: Path) -> str:
    """The error a step ended with: the last line of its log, '' when it did not end with one."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    last = lines[-1] if lines else ""
    return last.removeprefix("error: ") if last.startswith(("error: ", "bug: ")) else ""


def _sidecar(path: Path) -> dict[str, Any] | None:
    """A sidecar, or None while it is not there (or is damaged, or being replaced on a slow file system)."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def table(states: list[RowState]) -> str:
    """A table for people: one line a row, then the sum of each state."""
    names = [state.clip or f"line {state.line}" for state in states]
    width = max((len(name) for name in names), default=4)
    lines = [
        f"{name:<{width}}  {_shown(state):<8} {state.where:<20} {_details(state)}".rstrip()
        for name, state in zip(names, states, strict=True)
    ]
    return "\n".join([*lines, "", counts(states) + _sums(states)])


def _shown(state: RowState) -> str:
    is_made = state.state == "waiting" and state.where == "generate" and state.worker
    return "running" if is_made else state.state


def _details(state: RowState) -> str:
    """'3 of 7 windows, 12 s so far, 16 s left, job 12_3 on n7'; why a row is refused; where its video is."""
    told = [f"{state.windows} windows"] if state.windows else []
    told += [f"{state.gpu_s:.0f} s so far"] if state.windows else [f"{state.gpu_s:.0f} s"] if state.gpu_s else []
    told += [f"{state.left_s:.0f} s left"] if state.left_s else []
    words = [state.reason or state.video, ", ".join([*told, state.worker] if state.worker else told)]
    return "  ".join(word for word in words if word)


def _sums(states: list[RowState]) -> str:
    """What generating took so far, and how long the rest takes the workers that are at it (one where none is): rows
    that are generated, and the progress of the others, tell the pace."""
    told = f"; generated in {spent:.0f} s of workers" if (spent := sum(state.gpu_s for state in states)) else ""
    ahead = [state for state in states if state.state == "waiting" and state.where in UNTIL_GENERATED]
    together = Counter(state.worker for state in ahead if state.worker)
    left = {one.clip: one.left_s / together[one.worker] for one in ahead if one.left_s is not None}
    made = [one.gpu_s for one in states if one.gpu_s and one not in ahead and one.state != "refused"]
    made += [one.gpu_s + left[one.clip] for one in ahead if one.clip in left]
    if not made or not ahead:
        return told
    pace, workers = sum(made) / len(made), max(len(together), 1)
    rest = sum(left.get(one.clip, max(pace - one.gpu_s, 0)) for one in ahead) / workers
    return f"{told}, about {rest:.0f} s of it left for {workers} worker{'s' if workers > 1 else ''}"


def counts(states: list[RowState]) -> str:
    """'20 done, 10 refused'."""
    found = {name: sum(state.state == name for state in states) for name in STATES}
    return ", ".join(f"{number} {name}" for name, number in found.items() if number) or "no rows"
