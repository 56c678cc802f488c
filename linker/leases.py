"""Leases: each row of a shard is made by one worker at a time, and who lost a row cannot publish it.

    shards/{shard}/rows/{clip}/entry.json   what became of the row, once it is known
                               tries.json   how often it was begun since anything of it was kept, and how that ended
                               {worker}/    the lease, named for its holder (`free` when nobody has it), with all that
                                            is being made of the row

A lease is taken, given back and taken away by renaming its folder, which a file system does once or not at all. Its
`seal` is made by whoever takes it; to publish is to write the seal and rename it to entry.json. A worker that was
believed dead and lives on finds no seal under its own name: it cannot publish, whatever it makes, and ends.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from linker.records import read_json, write_json

STARTS = 3  # a row that was begun so often, and nothing of it kept, is refused
FREE, BEGUN, SEAL, ENTRY, TRIES, PROGRESS = "free", "begun", "seal", "entry.json", "tries.json", "progress.json"


class LeaseLost(Exception):
    """The row was given to another worker, who believed this one dead."""


def holders(home: Path) -> list[str]:
    """Who holds a row, `free` for nobody; [] for a row that was never begun."""
    with suppress(FileNotFoundError):
        return [path.name for path in home.iterdir() if path.is_dir()]
    return []


def is_free(home: Path) -> bool:
    """True when `take` would get the row."""
    return (home / FREE).is_dir() or not (home / BEGUN).exists()


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL).is_file()


def take(home: Path, worker: str) -> bool:
    """Take a row's lease: one of all who try gets it, with a seal that no former holder has open."""
    home.mkdir(parents=True, exist_ok=True)
    if rename(home / FREE, home / worker):
        (home / BEGUN).touch()  # whoever made the folder may have died before that
    else:
        (home / worker).mkdir()
        try:
            (home / BEGUN).touch(exist_ok=False)
        except FileExistsError:
            (home / worker).rmdir()
            return False
    fresh = home / worker / f"{SEAL}.new"
    fresh.touch()
    os.replace(fresh, home / worker / SEAL)  # the holder is never without one
    return True


def is_lost(home: Path, worker: str) -> bool:
    """True for a folder that a former holder wrote again where its lease was: without a seal, and not the only one."""
    others = [name for name in holders(home) if name != worker]
    return not is_sealed(home / worker) and any(name == FREE or is_sealed(home / name) for name in others)


def set_free(home: Path, worker: str) -> bool:
    """Take a lease away from its holder; False where it had lost it."""
    if is_lost(home, worker):
        shutil.rmtree(home / worker, ignore_errors=True)
        return False
    return rename(home / worker, home / FREE)


def idle_starts(home: Path, lease: Path) -> int:
    """How often the row was begun since anything of it was kept."""
    tries = read_small(home / TRIES)
    return 0 if read_small(lease / PROGRESS).get("windows", 0) > tries.get("windows", 0) else tries.get("starts", 0)


def note_start(home: Path, lease: Path) -> None:
    windows = read_small(lease / PROGRESS).get("windows", 0)
    write_json(home / TRIES, {**read_small(home / TRIES), "starts": idle_starts(home, lease) + 1, "windows": windows})


def note_end(home: Path, why: str, counted: bool, kind: str = "crashed") -> None:
    """Remember how a start ended; one that nothing in the row can have ended does not count."""
    tries = read_small(home / TRIES)
    if counted:
        write_json(home / TRIES, {**tries, "why": why, "kind": kind})
    elif tries:
        write_json(home / TRIES, {**tries, "starts": max(tries.get("starts", 0) - 1, 0)})


def rename(source: Path, target: Path) -> bool:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return False
    return True


def read_small(path: Path) -> dict[str, Any]:
    """A small file of a row; {} while it is not there, and for one that a power cut damaged."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}
