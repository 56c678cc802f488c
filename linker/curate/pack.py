"""The kept segments in shards as webdataset reads them, by split."""

from __future__ import annotations

import tarfile
from pathlib import Path

from linker.records import atomic

SHARD_MB = 500


def pack_shards(folder: Path, tars: list[Path], splits: dict[str, str]) -> None:
    """Copy the segments of all `tars` into {split}-{number}.tar of about SHARD_MB in `folder`; older shards go."""
    written = {path for split in sorted(set(splits.values())) for path in _pack(folder, tars, splits, split)}
    for path in folder.glob("*-[0-9]*.tar"):
        if path not in written:
            path.unlink()


def _pack(folder: Path, tars: list[Path], splits: dict[str, str], split: str) -> list[Path]:
    shards: list[Path] = []
    pending = [path for path in tars if any(splits.get(key) == split for key in _keys(path))]
    while pending:
        path = folder / f"{split}-{len(shards):06d}.tar"
        with atomic(path) as temporary, tarfile.open(temporary, "w") as shard:
            while pending and temporary.stat().st_size < SHARD_MB * 1e6:
                _copy(pending.pop(0), shard, splits, split)
        shards.append(path)
    return shards


def _keys(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return {name.partition(".")[0] for name in tar.getnames()}


def _copy(path: Path, shard: tarfile.TarFile, splits: dict[str, str], split: str) -> None:
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and splits.get(member.name.partition(".")[0]) == split:
                shard.addfile(member, content)
