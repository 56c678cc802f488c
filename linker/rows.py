"""The rows of a shard as its workers pull them: in order, each under a lease, with an entry for what became of it.

What one worker needs in its loop:

    with opened(shard, ledger, settings) as queue:
        while lease := queue.claim():       # or several at a time
            with lease.attempt():
                ...                         # lease.progress(windows, of) as they are kept, lease.publish(entry, video)
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linker import heartbeat, leases
from linker.config import GenerateSettings, token, weights_folder
from linker.errors import EnvironmentError, LinkerError, is_machine_fault
from linker.faults import WorkerBroken, first_line, is_broken, is_out_of_memory
from linker.heartbeat import Replaced
from linker.keys import row_key, unprepared, weights_hash
from linker.leases import LeaseLost
from linker.records import Refusal, read_json, sweep_up, write_json
from linker.shards import frame_settings

Entry = dict[str, Any]


@contextmanager
def opened(shard: Path, ledger: Path, settings: GenerateSettings) -> Iterator[Queue]:
    """Be a worker of a shard for the length of the block; at its end the ledger tells all rows.

    Raises EnvironmentError where this is the only worker and leaves rows, as a run does that was asked to end.
    """
    queue = Queue(shard, ledger, settings)
    with heartbeat.beating(ledger.parent / "workers", lambda: sorted(queue.held)) as worker:
        queue.worker = worker
        if not heartbeat.job_id():
            queue.adopt()
        queue.free_the_dead()
        queue.refuse_unprepared()
        heartbeat.AT_CHECKPOINT.append(queue.give_back)
        try:
            yield queue
        finally:
            heartbeat.AT_CHECKPOINT.remove(queue.give_back)
            queue.give_back()
            queue.write_ledger()
    if heartbeat.job_id():
        return
    queue.sweep()
    if left := len(queue.left()):
        held = ", ".join(sorted(queue.holders()))
        if held and not queue.is_draining():
            raise EnvironmentError(f"{left} rows left, which {held} makes; run again when that has ended")
        raise EnvironmentError(f"ended on request with {left} rows left; run again to continue")


class Queue:
    """The rows of one shard, as one worker (or the run that waits for workers) sees them."""

    def __init__(self, shard: Path, ledger: Path, settings: GenerateSettings) -> None:
        self.root, self.folder, self.ledger = shard.resolve().parent.parent, ledger.parent, ledger
        self.rows: dict[str, dict[str, Any]] = {row["clip"]: row for row in read_json(shard)["rows"]}
        self.settings = token(frame_settings(settings)), weights_hash(weights_folder(settings))
        self.held: dict[str, Lease] = {}
        self.worker = f"run-{uuid.uuid4().hex[:8]}"  # until it is a worker that opens it
        self._pending, self._known = list(self.rows), dict[str, Entry]()
        self._clock, self._ledger_due = time.monotonic(), 0.0
        self.limit = len(self.rows)  # rows at a time; halved when memory runs out

    def claim(self, fits: Callable[[dict[str, Any]], bool] = lambda row: True) -> Lease | None:
        """The next row that nobody has and that `fits`; None when there is none for now. A row that failed before is
        made alone."""
        self.tick()
        if len(self.held) >= max(self.limit, 1) or any(lease.alone for lease in self.held.values()):
            return None
        if self.is_draining():
            return None
        for clip in list(self._pending):
            if self.entry(clip):
                self._pending.remove(clip)
            elif fits(self.rows[clip]) and (lease := self._taken(clip)):
                return lease
        return None

    def _taken(self, clip: str) -> Lease | None:
        home = self.home(clip)
        starts = leases.idle_starts(home, home / leases.FREE)
        if (self.held and starts) or not leases.take(home, self.worker):
            return None
        if starts >= leases.STARTS:
            self._refuse_stuck(clip, self.worker)
            return None
        leases.note_start(home, home / self.worker)
        self.held[clip] = Lease(self, clip, alone=starts > 0)
        return self.held[clip]

    def is_draining(self) -> bool:
        return (self.root / heartbeat.DRAIN).exists()

    def holders(self) -> set[str]:
        """Workers that hold rows that are left, living or not; not those that lost them and write there once more."""
        homes = [self.home(clip) for clip in self.left()]
        held = {name for home in homes for name in leases.holders(home) if not leases.is_lost(home, name)}
        return held - {leases.FREE}

    def give_back(self) -> None:
        """Let others have what this worker holds."""
        for lease in list(self.held.values()):
            lease.give_back()

    def left(self) -> list[str]:
        """Clips of which it is not known what becomes of them."""
        return [clip for clip in self.rows if not self.entry(clip)]

    def claimable(self) -> list[str]:
        """Those of them that nobody has."""
        return [clip for clip in self.left() if leases.is_free(self.home(clip))]

    def entry(self, clip: str) -> Entry | None:
        """What became of a row, if that is known and was made from what is there now."""
        if clip not in self._known:
            found = leases.read_small(self.home(clip) / leases.ENTRY)
            if not found or found["key"] != self.key(clip):
                return None
            if not found["refusal"] and not (self.root / found["video"]).is_file():
                return None
            self._known[clip] = found
        return self._known[clip]

    def key(self, clip: str) -> str:
        """Of everything that decides a row's frames, as it is now."""
        return row_key(self.root, self.rows[clip], self.settings)

    def home(self, clip: str) -> Path:
        return self.folder / "rows" / clip

    def video(self, clip: str, key: str) -> Path:
        """Where the finished clip lies, named by its content."""
        return self.folder / f"{clip}.{key[:12]}.mkv"

    def refuse_unprepared(self) -> None:
        """Say of every row whose portrait or audio is impossible that it is refused, and why."""
        for clip in self.rows:
            refusal = unprepared(self.root, self.rows[clip])
            if refusal and not self.entry(clip):
                write_json(self.home(clip) / leases.ENTRY, _refused(refusal, self.key(clip)))

    def adopt(self) -> None:
        """Take over what other shards say of rows that are this one's now, as after another number of shards."""
        new = {clip for clip in self.rows if not self.home(clip).exists()}
        for other in self.folder.parent.glob("*/rows"):
            for clip in sorted(new.intersection(os.listdir(other))):
                found = leases.read_small(other / clip / leases.ENTRY)
                if found.get("key") == self.key(clip):
                    write_json(self.home(clip) / leases.ENTRY, found)

    def free_the_dead(self) -> None:
        """Give back the rows of workers that are gone: earlier starts of this very job; where this is none, processes
        that have ended here, or give no sign of life elsewhere.

        Of other jobs the queue knows more; the run that waits for them asks it.
        """
        folder, own = self.folder / "workers", heartbeat.job_id()
        workers, silent = heartbeat.read_workers(folder), set() if own else heartbeat.silent_elsewhere(folder)
        for name in self.holders() - {self.worker}:
            known = workers.get(name)
            dead = known is None or name in silent or heartbeat.is_dead_here(known)
            if name.startswith(f"{own}-") if own else dead:
                self.free(name, "its worker died")

    def free(self, worker: str, why: str, counted: bool = True) -> list[str]:
        """Take the leases of a worker away; its rows. `counted`: that it ended may have been its rows' fault."""
        freed = [
            clip
            for clip in self.rows
            if worker in leases.holders(self.home(clip)) and leases.set_free(self.home(clip), worker)
        ]
        for clip in freed:
            home = self.home(clip)
            leases.note_end(home, why, counted)
            if leases.idle_starts(home, home / leases.FREE) >= leases.STARTS and leases.take(home, self.worker):
                self._refuse_stuck(clip, self.worker)
        (self.folder / "workers" / f"{worker}.json").unlink(missing_ok=True)
        return freed

    def _refuse_stuck(self, clip: str, holder: str) -> None:
        """Refuse a row that was begun too often in vain."""
        home = self.home(clip)
        tries = leases.read_small(home / leases.TRIES)
        reason = f"{tries.get('why', 'its worker died')} ({leases.STARTS} starts in vain)"
        refusal = Refusal(tries.get("kind", "crashed"), reason, "generate").to_json()
        write_json(home / leases.ENTRY, _refused(refusal, self.key(clip)))
        leases.rename(home / holder, home / leases.FREE)
        print(f"{clip}: refused: {reason}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Share the time since the last call among the rows that are being made."""
        now = time.monotonic()
        for lease in self.held.values():
            lease.seconds += (now - self._clock) / len(self.held)
        self._clock = now

    def write_ledger(self, at_once: bool = True) -> None:
        """Gather what became of the rows, as listed: {"rows": {clip: entry}}; seldom where that takes long."""
        began = time.monotonic()
        if not at_once and began < self._ledger_due:
            return
        known = {clip: self.entry(clip) for clip in self.rows}
        write_json(self.ledger, {"rows": {clip: found for clip, found in known.items() if found}})
        self._ledger_due = time.monotonic() + 50 * (time.monotonic() - began)

    def sweep(self) -> None:
        """Delete what no entry names any more, and what killed workers left half-written; only while nobody works on
        the shard. Clips of rows that are not listed now are kept: another manifest may list them again."""
        signs = heartbeat.read_workers(self.folder / "workers").values()
        if not all(map(heartbeat.is_dead_here, signs)):
            return
        for folder in (self.folder, self.folder / "workers", *self.folder.glob("rows/*")):
            sweep_up(folder)
        told = {home: leases.read_small(home / leases.ENTRY) for home in self.folder.glob("rows/*")}
        named = {os.path.basename(found.get("video", "")) for found in told.values()}
        for path in self.folder.glob("[!.]*.mkv"):
            if path.name not in named:
                path.unlink()
        for path in self.folder.glob("[!.]*.speech"):
            path.unlink()
        for home, found in told.items():
            listed = home.name in self.rows
            if not listed and not found.get("video"):
                shutil.rmtree(home)
            elif not listed or self.entry(home.name):
                for holder in leases.holders(home):
                    shutil.rmtree(home / holder)
                (home / leases.BEGUN).unlink(missing_ok=True)


class Lease:
    """One row in one worker's hands."""

    def __init__(self, queue: Queue, clip: str, alone: bool) -> None:
        self.queue, self.clip, self.alone = queue, clip, alone
        self.row, self.key = queue.rows[clip], queue.key(clip)
        self.folder = queue.home(clip) / queue.worker
        self.video = queue.video(clip, self.key)
        self.seconds: float = leases.read_small(self.folder / leases.PROGRESS).get("seconds", 0.0)
        self.made = False  # all its windows are, and only its file is being written

    def stamped(self, stamp: str) -> Path:
        """The folder of what is kept of the row while it is made, by inputs and by `stamp` (code, precision, device):
        what was begun otherwise is dropped, and never mixes into the clip."""
        name = f"{self.key[:12]}.{stamp}"
        for path in [path for path in self.folder.iterdir() if path.is_dir() and path.name != name]:
            shutil.rmtree(path)
            (self.folder / leases.PROGRESS).unlink(missing_ok=True)
            write_json(self.folder.parent / leases.TRIES, {"starts": 1, "windows": 0})
        return self.folder / name

    def progress(self, windows: int, of: int) -> None:
        """Tell that `windows` of the row's windows are kept. Raises LeaseLost."""
        self.check()
        heartbeat.advance()
        self.queue.tick()
        told = {"windows": windows, "of": of, "seconds": round(self.seconds, 3)}
        with self.fenced():
            write_json(self.folder / leases.PROGRESS, told)
        print(f"generate {self.clip} window {windows}/{of}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raises LeaseLost when the row was given to another worker."""
        if not leases.is_sealed(self.folder):
            raise LeaseLost(f"{self.clip}: given to another worker; what was made here is dropped")

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """A folder that is gone from under the block means that the lease is lost."""
        try:
            yield
        except FileNotFoundError:
            if self.queue.held.get(self.clip) is self:  # it neither published the row nor gave it back
                self.check()
            raise

    def publish(self, entry: Entry, video: Path | None = None) -> None:
        """Say what became of the row; `video`, made inside the lease, becomes the clip. Raises LeaseLost.

        When an input changed meanwhile, nothing is said and the row is made again.
        """
        self.check()
        self.queue.tick()
        if self.queue.key(self.clip) != self.key:
            print(f"{self.clip}: an input changed meanwhile; it is made again", file=sys.stderr, flush=True)
            return self.give_back()
        if video is not None and video != self.video:
            with self.fenced():
                os.rename(video, self.video)
        told = {**entry, "key": self.key, "seconds": round(self.seconds, 3), "job": heartbeat.job_id()}
        told |= {"node": heartbeat.node()}
        with self.fenced(), (self.folder / leases.SEAL).open("r+", encoding="utf-8") as stream:
            stream.truncate()
            stream.write(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with self.fenced():
            os.rename(self.folder / leases.SEAL, self.folder.parent / leases.ENTRY)
        heartbeat.advance()
        (self.folder.parent / leases.TRIES).unlink(missing_ok=True)
        self._empty()
        self._end()
        self.queue.write_ledger(at_once=False)

    def refuse(self, kind: str, reason: str) -> None:
        """Publish that the row cannot be done."""
        self.publish(_refused(Refusal(kind, reason, "generate").to_json(), self.key))

    def give_back(self, why: str = "", kind: str = "crashed") -> None:
        """Let others have the row, with all that is kept of it; with `why`, this start counts as one in vain."""
        if not leases.is_sealed(self.folder):
            return self._drop()
        leases.note_end(self.folder.parent, why, counted=bool(why), kind=kind)
        self._end()

    def _drop(self) -> None:
        """Forget a row that is another's, and what was written where the lease was."""
        self.queue.held.pop(self.clip, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _end(self) -> None:
        leases.rename(self.folder, self.folder.with_name(leases.FREE))
        self.queue.held.pop(self.clip, None)

    def _without_memory(self, error: Exception) -> None:
        """Half as many rows at a time from now on; a row that does not fit alone is refused."""
        together = self.queue.limit
        self.queue.limit = max(together // 2, 1)
        if together == 1:
            return self.refuse("out_of_memory", f"does not fit into memory alone: {first_line(error)}")
        print(f"out of memory with {together} rows at a time; {together // 2} from now on", file=sys.stderr, flush=True)
        for lease in [lease for lease in self.queue.held.values() if lease is self or not lease.made]:
            lease.give_back()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What goes wrong in the block is this row's matter, unless it is the machine's or the whole process's.

        Raises Replaced when the row was given to another: who does that takes this worker for dead, nobody counts on
        it, and any other row would be taken from it again in the middle of a window.
        """
        try:
            with self._answered():
                yield
        except LeaseLost as lost:
            print(lost, file=sys.stderr, flush=True)
            self._drop()
            raise Replaced("this worker is taken for dead, and ends") from lost

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """What goes wrong in the block, but for a lost lease, is this row's answer where it can be."""
        try:
            with self.fenced():
                yield
        except LeaseLost:
            raise
        except (LinkerError, WorkerBroken):
            self.give_back()
            raise
        except Exception as error:
            if is_machine_fault(error):
                self.give_back()
                raise
            if is_out_of_memory(error):
                return self._without_memory(error)
            why = first_line(error)
            self.give_back(why)
            if is_broken(error):
                raise WorkerBroken(why) from error
            print(f"{self.clip}: {why}", file=sys.stderr, flush=True)


def _refused(refusal: dict[str, str], key: str) -> Entry:
    return {"state": "refused", "refusal": refusal, "key": key}
