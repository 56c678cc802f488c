"""What a row's frames were made from, as one key: inputs, weights, settings, version. Another key, another clip."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from linker import __version__
from linker.config import PRESETS, GenerateSettings, weights_folder
from linker.errors import EnvironmentError
from linker.leases import read_small
from linker.records import sha256_file

CARD = "lingualinker.json"  # of a checkpoint; names the hashes of all its files


def key_of(root: Path, generation: str) -> str:
    """The key of a row as it is now, from `shards.row_token` and the files below the results folder `root`."""
    row, settings = json.loads(generation)
    weights = weights_folder(GenerateSettings(weights=json.loads(settings)["weights"]))
    return row_key(root, row, (settings, weights_hash(weights)))


def row_key(root: Path, row: dict[str, Any], settings: tuple[str, str]) -> str:
    """SHA-256 of everything that decides a row's frames: inputs, weights, settings, version."""
    parts: dict[str, Any] = {name: _hash_now(root / row[name]) for name in ("face", "masks", "driver")}
    parts["duration_s"] = _read_now(root / row["loudness"]).get("duration_s")
    parts["refusal"] = unprepared(root, row)
    parts |= {name: row[name] for name in ("seed", "scales", "ranges")}
    parts |= {
        "preset": [presets[row["preset"]] for presets in PRESETS.values()],
        "settings": settings,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def unprepared(root: Path, row: dict[str, Any]) -> dict[str, str] | None:
    """What made the row's portrait or audio impossible, if anything did."""
    sidecars = (_read_now(root / row[name]) for name in ("crop", "loudness"))
    return next((sidecar["refusal"] for sidecar in sidecars if sidecar.get("refusal")), None)


def weights_hash(folder: Path) -> str:
    """The checkpoint, by its card. Raises EnvironmentError."""
    try:
        return sha256_file(folder / CARD)
    except OSError:
        raise EnvironmentError(
            f"{folder}: no {CARD} there; generate.weights needs 'mini' or a LinguaLinker checkpoint folder"
        ) from None


def _read_now(path: Path) -> dict[str, Any]:
    """A sidecar as it is now, {} for one that is absent or damaged; read again only when its dates or size say so."""
    try:
        found = path.stat()
    except OSError:
        return {}
    return _sidecar(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _hash_now(path: Path) -> str:
    """SHA-256 of a file as it is now; read again only when its dates or size say so. '' for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return _hash(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@cache
def _hash(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    return sha256_file(path)


@cache
def _sidecar(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> dict[str, Any]:
    return read_small(path)
