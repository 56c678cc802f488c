"""verify: are the deliverables, and the files they were made from, still what their provenance says?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from linker.errors import EnvironmentError, LinkerError
from linker.manifest import read_manifest
from linker.media import Undecodable, frame_md5, pcm_md5
from linker.records import Row, read_json, sha256_file


def verify_folder(results: Path) -> int:
    """Print one line for each thing that differs; 0 when nothing does, 4 otherwise. Raises EnvironmentError."""
    sidecars = sorted(results.glob("videos/*.json"))
    if not sidecars:
        raise EnvironmentError(f"{results}: found no videos/*.json; give a results folder with deliverables")
    rows = _rows(results)
    faults = {path.stem: list(_faults(path, rows.get(path.stem))) for path in sidecars}
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
    except (OSError, LinkerError, KeyError, yaml.YAMLError) as error:
        print(f"inputs are not looked at: {error}", file=sys.stderr)
        return {}


def _faults(sidecar: Path, row: Row | None) -> Iterator[str]:
    """Every way in which a clip differs from its sidecar."""
    recorded = read_json(sidecar)
    if recorded.get("refusal"):
        return
    yield from _video_faults(sidecar.with_name(recorded["video"]), recorded)
    for name, path in {"portrait": row.portrait, "audio": row.audio}.items() if row else ():
        found, wanted = _sha256(path), recorded["inputs"][name]["sha256"]
        if found != wanted:
            yield f"{name} {path}: SHA-256 {found or 'missing'}, recorded {wanted}"


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
