"""What killed runs and power cuts leave in a results folder: cleared away, under the lock, before the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linker.leases import read_small
from linker.records import read_json, sweep_up

SCRATCH = Path(".linker", "tmp")
# Folders of steps' files; what lies below a shard is its own queue's to sweep, as workers may outlive the run.
SWEPT = ("portraits/*", "audio/*", "clips/*", "draft", "videos", "masters", "report", "report/*", "shards", "footage/*")
# What rules declare, and steps read: without it, its rule runs again.
DECLARED = (
    *("portraits/*/crop.json", "audio/*/loudness.json", "audio/*/language.json", "clips/*/steadiness.json"),
    *("shards/s*.json", "shards/*/ledger.json", "footage.json", "footage/*/facts.json", "footage/*/verdicts.json"),
    *("footage/*/segments.json", "footage/*/language.json"),
)


def clear_up(results: Path) -> None:
    """Only while no step is running."""
    shutil.rmtree(results / SCRATCH, ignore_errors=True)
    for folder in (folder for names in SWEPT for folder in results.glob(names)):
        sweep_up(folder)
    forget_damaged(results)
    forget_lost_videos(results)


@contextmanager
def scratch(results: Path) -> Iterator[Path]:
    """A folder for what a step needs meanwhile, which may be gigabytes: within the results, where room is looked for.
    Libraries that write into $TMPDIR, as C2PA's does for large files, are led there, too."""
    place, before = (results / SCRATCH).absolute(), tempfile.gettempdir()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ["TMPDIR"] = before


def forget_damaged(results: Path) -> None:
    """A sidecar that a power cut left empty or half-written is deleted: its step is done again."""
    for path in (path for names in DECLARED for path in results.glob(names)):
        try:
            read_json(path)
        except ValueError:
            path.unlink()


def forget_lost_videos(results: Path) -> None:
    """Snakemake knows a deliverable by a note; one whose video or sidecar is lost or damaged is made again."""
    for note in results.glob("clips/*/delivered.json"):
        video, sidecar = read_small(note).get("video"), results / "videos" / f"{note.parent.name}.json"
        if not video or not read_small(sidecar) or not (results / "videos" / video).exists():
            note.unlink()
