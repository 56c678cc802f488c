"""Shards: which rows share a worker. Rows go to shards by a stable hash of their id, so adding one moves no other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from linker.config import GenerateSettings, token
from linker.manifest import read_manifest
from linker.records import Row, write_json


def shard_name(clip: str, count: int) -> str:
    """The shard of a clip among `count` shards."""
    return f"s{int(hashlib.sha256(clip.encode()).hexdigest()[:12], 16) % count:03d}"


def rows_by_shard(rows: tuple[Row, ...], count: int) -> dict[str, list[Row]]:
    """Rows of each shard that has any, in the manifest's order."""
    shards: dict[str, list[Row]] = {}
    for row in rows:
        shards.setdefault(shard_name(row.clip, count), []).append(row)
    return dict(sorted(shards.items()))


def entry(row: Row, settings: GenerateSettings) -> dict[str, Any]:
    """What generation needs to know of a row; paths are relative to the results folder."""
    portrait, audio = Path("portraits", row.portrait_id), Path("audio", row.audio_id)
    return {
        "clip": row.clip,
        "face": str(portrait / "face.png"),
        "crop": str(portrait / "crop.json"),
        "masks": str(portrait / "masks.npz"),
        "driver": str(audio / "driver.wav"),
        "loudness": str(audio / "loudness.json"),
        "seed": settings.seed if row.seed is None else row.seed,
        "scales": list(row.scales),
        "ranges": list(row.ranges),
        "preset": row.preset or settings.preset,
    }


def row_token(row: Row, settings: GenerateSettings) -> str:
    """One token of everything but files that decides a row's generated frames; a change reruns that row alone."""
    return json.dumps([entry(row, settings), token(frame_settings(settings))], separators=(",", ":"))


def frame_settings(settings: GenerateSettings) -> GenerateSettings:
    """The settings without those that every row has of its own and those that decide no frame."""
    return settings.model_copy(update={"shards": 1, "seed": 0, "preset": "balanced"})


def digest(rows: list[Row], settings: GenerateSettings) -> str:
    """A short name of a shard's content: its listing is written again when this changes."""
    return hashlib.sha256("\n".join(row_token(row, settings) for row in rows).encode()).hexdigest()[:16]


def list_shard(manifest: Path, shard: str, listing: Path, settings: GenerateSettings) -> None:
    """Write the rows of one shard: {"shard", "rows": [{clip, face, crop, masks, driver, loudness, seed, ...}]}."""
    rows = rows_by_shard(read_manifest(manifest).rows, settings.shards).get(shard, [])
    write_json(listing, {"shard": shard, "rows": [entry(row, settings) for row in rows]})


def row_delivery(row: Row) -> str:
    """One token of what a deliverable tells about its row (mux_audio's `row`)."""
    told = {
        "clip": row.clip,
        "title": row.title,
        "language": row.language,
        "consent_ref": row.consent_ref,
        "licence_ref": row.licence_ref,
        "scales": list(row.scales),
        "ranges": list(row.ranges),
        "face": row.face,
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))
