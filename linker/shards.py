"""Shards: which rows share a worker. Rows go to shards by a stable hash of their id, so adding one moves no other."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from linker.config import FinishSettings, GenerateSettings, token
from linker.errors import SettingsError
from linker.manifest import read_manifest
from linker.records import Row, slug, write_json

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,199}"


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


def video_names(rows: tuple[Row, ...], generate: GenerateSettings, finish: FinishSettings) -> dict[str, str]:
    """File name of each clip's deliverable, by finish.name. Raises SettingsError when two rows get the same one."""
    names = {row.clip: f"{_video_stem(row, generate, finish)}.{finish.container}" for row in rows}
    taken: dict[str, str] = {}
    for clip, name in names.items():
        other = taken.setdefault(name.lower(), clip)
        if other != clip:
            raise SettingsError(f"finish.name {finish.name!r}: {other} and {clip} both become {name}; add {{clip}}")
    return names


def _video_stem(row: Row, generate: GenerateSettings, finish: FinishSettings) -> str:
    fields = {
        "clip": row.clip,
        "language": (row.language or "und").lower(),
        "portrait": slug(row.portrait),
        "audio": slug(row.audio),
        "seed": str(generate.seed if row.seed is None else row.seed),
        "aspect": finish.aspect.replace("_", "-"),
        "fps": str(finish.fps),
    }
    stem = re.sub(r"\{(\w+)\}", lambda hole: fields[hole[1]], finish.name)
    if not re.fullmatch(NAME_PATTERN, stem):
        raise SettingsError(
            f"finish.name {finish.name!r}: {row.clip} becomes {stem!r}; needed a-z 0-9 . _ -, at most 200"
        )
    return stem


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
