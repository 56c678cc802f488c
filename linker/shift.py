"""The work of a crew, as the crew needs to know it: a shard's rows, or one job that is all of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from linker import heartbeat
from linker.rows import Queue


class Shift(Protocol):
    """The work as the crew needs to know it."""

    folder: Path  # signs of life are in folder/workers
    unit: str  # what `left` counts

    def left(self) -> int:
        """How much of it is not done; 0 when all is."""

    def claimable(self) -> int:
        """How much of that nobody has: what another worker could begin."""

    def answered(self) -> None:
        """A worker ended as it should."""

    def holders(self) -> set[str]:
        """Workers that hold something, living or not."""

    def free(self, worker: str, why: str, counted: bool) -> None:
        """A worker is gone: others may have what it held."""

    def tell(self) -> None:
        """Say what has become known since the last time."""

    def is_stopped(self) -> bool:
        """True while no more is to be begun."""


class ShardShift:
    """A shard's rows, each of them one worker's, who may have several."""

    unit = "rows"

    def __init__(self, queue: Queue) -> None:
        self.queue, self.folder = queue, queue.folder
        self.told = {clip for clip in queue.rows if queue.entry(clip)}

    def left(self) -> int:
        return len(self.queue.left())

    def claimable(self) -> int:
        return len(self.queue.claimable())

    def answered(self) -> None:
        pass

    def holders(self) -> set[str]:
        return self.queue.holders()

    def free(self, worker: str, why: str, counted: bool) -> None:
        self.queue.free(worker, why, counted)

    def tell(self) -> None:
        new = {clip: found for clip in self.queue.rows if clip not in self.told and (found := self.queue.entry(clip))}
        for clip, found in new.items():
            refusal = found["refusal"]
            how = f"refused: {refusal['reason']}" if refusal else f"{found.get('seconds', 0):.0f} s"
            print(f"{clip} {how}, job {found.get('job', '')} on {found.get('node', '')}", file=sys.stderr, flush=True)
        if new:
            self.told |= new.keys()
            self.queue.write_ledger(at_once=False)

    def is_stopped(self) -> bool:
        return self.queue.is_draining()


class OneJob:
    """A task that is one job's whole work, such as a training stage."""

    unit = "job"

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, False

    def left(self) -> int:
        return 0 if self.done else 1

    def claimable(self) -> int:
        return 0 if self.done or self.holders() else 1

    def answered(self) -> None:
        self.done = True

    def holders(self) -> set[str]:
        return set(heartbeat.read_workers(self.folder / "workers"))

    def free(self, worker: str, why: str, counted: bool) -> None:
        (self.folder / "workers" / f"{worker}.json").unlink(missing_ok=True)

    def tell(self) -> None:
        pass

    def is_stopped(self) -> bool:
        return heartbeat.is_draining()
