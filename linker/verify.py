"""verify: are the deliverables, and the files they were made from, still what their provenance says?"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from linker.config import REGIONS, Group, LaunchSettings, Settings, read_group
from linker.errors import EnvironmentError, LinkerError
from linker.layers import FILES, layered, settings_of
from linker.leases import read_small
from linker.manifest import read_manifest
from linker.media import Undecodable, frame_md5, pcm_md5
from linker.records import Row, read_json, sha256_file
from linker.run import Order, run_workflow

MAKING = ("weights", "code", "dtype", "device", "decoder", "seed", "sampling")  # what of "generation" decides frames
MADE_WITH = ("dtype", "decoder", "rows_together", "compile")  # what of it is a setting, beside "sampling"
FINISHING = ("background", "upscale", "finish")  # groups of settings that a sidecar tells whole
COMPARED = {"video", "frame_md5", "pcm_md5", "inputs"}  # what a sidecar must tell
HERE = LaunchSettings(cluster="debug")


def verify_folder(results: Path, clip: str = "", profile: Path | None = None) -> int:
    """Compare every deliverable with its sidecar, and make one again: `clip`, or the shortest; here, or where a profile
    says. Prints one line for each thing that differs; 0 when nothing does, 4 otherwise. Raises EnvironmentError."""
    sidecars = sorted(results.glob("videos/*.json"))
    if not sidecars:
        raise EnvironmentError(f"{results}: found no videos/*.json; give a results folder with deliverables")
    rows = _rows(results)
    faults = {path.stem: list(_faults(path, rows.get(path.stem))) for path in sidecars}
    if again := _chosen(sidecars, clip, {name for name, found in faults.items() if not found} & rows.keys()):
        faults[again.stem] += _remade_faults(again, _recorded_order(results, again, profile), rows[again.stem])
    for clip, found in faults.items():
        for fault in found:
            print(f"{clip}: {fault}")
    bad = sum(bool(found) for found in faults.values())
    print(f"{len(sidecars) - bad} of {len(sidecars)} clips are as recorded", file=sys.stderr)
    return 4 if bad else 0


def _rows(results: Path) -> dict[str, Row]:
    """The rows of the last run's manifest: sidecars hold no absolute paths."""
    try:
        manifest = Path(yaml.safe_load((results / "settings.yaml").read_text(encoding="utf-8"))["manifest"])
        return {row.clip: row for row in read_manifest(manifest).rows}
    except (OSError, ValueError, LinkerError, KeyError, TypeError, yaml.YAMLError) as error:
        print(f"inputs are not looked at: {error}", file=sys.stderr)
        return {}


def _faults(sidecar: Path, row: Row | None) -> Iterator[str]:
    """Every way in which a clip differs from its sidecar."""
    recorded = read_small(sidecar)
    if recorded.get("refusal"):
        return
    if not recorded.keys() >= COMPARED:
        yield f"{sidecar}: is damaged; run again to make it and its video once more"
        return
    yield from _video_faults(sidecar.with_name(recorded["video"]), recorded)
    for name, path in {"portrait": row.portrait, "audio": row.audio}.items() if row else ():
        found, wanted = _sha256(path), recorded["inputs"][name]["sha256"]
        if found != wanted:
            yield f"{name} {path}: SHA-256 {found or 'missing'}, recorded {wanted}"


def _chosen(sidecars: list[Path], clip: str, good: set[str]) -> Path | None:
    """The clip that is made again: the named one, else the shortest of the good ones. Raises EnvironmentError."""
    if clip and clip not in good:
        raise EnvironmentError(f"--clip {clip}: no undamaged deliverable of that name, whose row is known, is there")
    found = [path for path in sidecars if path.stem in ({clip} if clip else good)]
    return min(found, key=lambda path: (read_json(path).get("frames", 0), path.stem), default=None)


def _recorded_order(results: Path, sidecar: Path, profile: Path | None) -> Order:
    """How the clip was made: what its sidecar tells of generating and finishing, and the last run's settings of the
    steps before."""
    recorded, last = read_json(sidecar), results / "settings.yaml"
    settings = settings_of(yaml.safe_load(last.read_text(encoding="utf-8")), str(last))
    made = recorded["generation"]
    decided = {**made["sampling"], **{key: made[key] for key in MADE_WITH}, "shards": 1}
    told = {
        "generate": read_group("generate", {**settings.generate.model_dump(), **decided}, str(sidecar)),
        **{name: _as_told(name, recorded[name], settings, sidecar) for name in FINISHING if name in recorded},
        "launch": settings_of(layered(profile, None, []), str(profile)).launch if profile else HERE,
    }
    return Order(results, results, settings.model_copy(update=told), profile)


def _as_told(group: str, told: dict[str, Any], last: Settings, sidecar: Path) -> Group:
    """Settings out of a sidecar; the folders of files that it names are those of the last run's settings."""
    values = {key: value for key, value in told.items() if key != "weights_sha256"}
    known = {key: getattr(getattr(last, group), key) for key in FILES.get(group, ())}
    found = {key: path for key, path in known.items() if Path(path).name == values.get(key)}
    return read_group(group, {**values, **found}, str(sidecar))


def _remade_faults(sidecar: Path, order: Order, row: Row) -> Iterator[str]:
    """How a clip differs that is made once more, in a folder of its own; where a profile sends jobs elsewhere, it lies
    within the results, which they see."""
    print(f"{row.clip}: made again to compare", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=order.results / ".linker" if order.profile else None) as at:
        manifest, target = Path(at, "row.jsonl"), Path(at, "results")
        manifest.write_text(json.dumps(_fields(row, read_json(sidecar)["generation"])) + "\n", encoding="utf-8")
        code = run_workflow(replace(order, manifest=manifest, results=target), rows=1)
        made = target / "videos" / sidecar.name
        if code or not made.is_file():
            yield "could not be made again; what was said above tells why"
            return
        wanted, found = read_json(sidecar), read_json(made)
    for name in ("frame_md5", "pcm_md5"):
        if found[name] != wanted[name]:
            yield f"made again: {name} {found[name]}, recorded {wanted[name]}{_reasons(wanted, found)}"


def _fields(row: Row, made: dict[str, Any]) -> dict[str, Any]:
    """A row as a line of a manifest, with the numbers that it was made with."""
    told: dict[str, Any] = {"clip": row.clip, "portrait": str(row.portrait), "audio": str(row.audio)}
    told |= {"seed": made["seed"], "subtitles": str(row.subtitles or "")}
    told |= {f"scale_{region}": value for region, value in zip(REGIONS, made["scales"], strict=True)}
    told |= {f"range_{region}": value for region, value in zip(REGIONS, made["ranges"], strict=True)}
    names = ("language", "face", "preset", "title", "consent_ref", "licence_ref")
    return told | {name: getattr(row, name) for name in names}


def _reasons(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """What else differs between the two makings, and may be why."""
    pairs = [(f"generation.{key}", wanted["generation"].get(key), found["generation"].get(key)) for key in MAKING]
    pairs += [(key, value, found["versions"].get(key)) for key, value in wanted["versions"].items()]
    hashes = (facts.get("marks", {}).get("upscaler_sha256") for facts in (wanted, found))
    pairs.append(("upscale.weights' SHA-256", *hashes))
    told = [f"{name} was {old}, is {new}" for name, old, new in pairs if old != new]
    return f" ({'; '.join(told)})" if told else ""


def _video_faults(video: Path, recorded: dict[str, Any]) -> Iterator[str]:
    try:
        found = {"frame_md5": frame_md5(video), "pcm_md5": pcm_md5(video)}
    except (Undecodable, OSError) as error:
        yield f"{video}: {error}"
        return
    for name, value in found.items():
        if value != recorded[name]:
            yield f"{video}: {name} {value}, recorded {recorded[name]}"


@cache
def _sha256(path: Path) -> str:
    """'' for a file that is not there."""
    return sha256_file(path) if path.is_file() else ""
