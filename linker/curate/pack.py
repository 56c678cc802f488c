"""The kept segments in shards as webdataset reads them, by split."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linker.curate.segments import FACTS
from linker.records import atomic

SHARD_MB = 500


@dataclass(frozen=True)
class Packed:
    """A segment's name in the shards, its tar, its split, and what is said of it."""

    key: str
    tar: Path
    split: str
    told: dict[str, Any]


def pack_shards(folder: Path, segments: list[Packed]) -> None:
    """Copy the segments into {split}-{number}.tar of about SHARD_MB in `folder`; older shards go."""
    splits = sorted({segment.split for segment in segments})
    written = {path for split in splits for path in _pack(folder, [s for s in segments if s.split == split], split)}
    for path in folder.glob("*-[0-9]*.tar"):
        if path not in written:
            path.unlink()


def _pack(folder: Path, segments: list[Packed], split: str) -> list[Path]:
    shards: list[Path] = []
    pending = iter(segments)
    segment = next(pending, None)
    while segment:
        path = folder / f"{split}-{len(shards):06d}.tar"
        with atomic(path) as temporary, tarfile.open(temporary, "w") as shard:
            while segment and temporary.stat().st_size < SHARD_MB * 1e6:
                _copy(segment, shard)
                segment = next(pending, None)
        shards.append(path)
    return shards


def _copy(segment: Packed, shard: tarfile.TarFile) -> None:
    with tarfile.open(segment.tar) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None, member
            data = content.read()
            if member.name == FACTS:
                data = json.dumps(segment.told | json.loads(data), ensure_ascii=False).encode()
            member.name, member.size = f"{segment.key}.{member.name}", len(data)
            shard.addfile(member, io.BytesIO(data))
