"""collect: hand each row its generated clip out of its shard's ledger, or fail that row alone with its refusal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from linker.errors import EnvironmentError, RowsFailed
from linker.keys import key_of
from linker.records import Refusal, atomic, read_json


def collect(ledger: Path, clip: str, generated: Path, generation: str) -> None:
    """Link a row's clip to its place. `generation` is what decides its frames, but for files (`shards.row_token`).

    Raises RowsFailed with the row's refusal as one line; EnvironmentError for a clip that is not there, or was made
    from what is there no more: generation that failed leaves its ledger as it was.
    """
    entry = read_json(ledger)["rows"].get(clip) if ledger.is_file() else None
    if entry is None:
        raise EnvironmentError(f"{clip}: {ledger} has no line of this clip; run again to generate it")
    root = ledger.parent.parent.parent
    if entry.get("key") != key_of(root, generation):
        found = "was made from other inputs, settings or weights than those of now"
        raise EnvironmentError(
            f"{clip}: what {ledger} names {found}; run again, or delete the ledger where that is all that is wrong"
        )
    refusal = Refusal.from_json(entry.get("refusal"))
    if refusal:
        raise RowsFailed(f"{clip}: {refusal.step}: {refusal.kind}: {refusal.reason}")
    source = root / entry["video"]
    if not source.is_file():
        raise EnvironmentError(f"{clip}: {source}, which {ledger} names, is not there; delete the ledger and run again")
    with atomic(generated) as temporary:
        _link(source, temporary)


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system allows it, else a copy; dated now, to be newer than what it came from."""
    target.unlink()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    os.utime(target)
