"""Rows under leases: one worker a row, in order; who lost a row cannot publish it; what a failed start counts for."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, write_shard

from linker import heartbeat, leases
from linker.config import GenerateSettings
from linker.errors import EnvironmentError
from linker.heartbeat import Replaced
from linker.leases import LeaseLost
from linker.records import atomic, read_json, write_json
from linker.rows import Lease, Queue, WorkerBroken, opened


@pytest.fixture
def queue_of(tmp_path: Path) -> Callable[[str], Queue]:
    """Workers by name on a shard of four rows."""
    write_shard(tmp_path)

    def queue(name: str) -> Queue:
        made = Queue(tmp_path / "shards/s000.json", tmp_path / "shards/s000/ledger.json", GenerateSettings())
        made.worker = name
        return made

    return queue


def publish(lease: Lease) -> None:
    (lease.folder / "clip.mkv").write_text(f"made by {lease.queue.worker}")
    video = str(lease.video.relative_to(lease.video.parents[2]))
    lease.publish({"state": "done", "refusal": None, "video": video}, lease.folder / "clip.mkv")


def claimed(queue: Queue) -> Lease:
    lease = queue.claim()
    assert lease
    return lease


def test_rows_are_pulled_in_order_by_whoever_comes(queue_of: Callable[[str], Queue]) -> None:
    one, two = queue_of("one"), queue_of("two")
    assert [claimed(queue).clip for queue in (one, two, one)] == ["a", "b", "c"]
    publish(one.held["c"])
    assert claimed(two).clip == "d"
    assert two.claim() is None
    assert one.left() == ["a", "b", "d"]
    assert list(read_json(one.ledger)["rows"]) == ["c"]


def test_of_many_who_try_one_gets_the_row(tmp_path: Path) -> None:
    """First on rows that were never begun, then on rows that were given back."""
    for home in [tmp_path / str(number) for number in range(40)]:
        for _ in range(2):
            won: list[str] = []
            barrier = threading.Barrier(8)

            def attempt(
                name: str, home: Path = home, won: list[str] = won, barrier: threading.Barrier = barrier
            ) -> None:
                barrier.wait()
                if leases.take(home, name):
                    won.append(name)

            threads = [threading.Thread(target=attempt, args=(f"w{number}",)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1
            assert leases.holders(home) == won
            assert leases.set_free(home, won[0])


def test_who_lost_a_row_cannot_publish_it_nor_disturb_its_successor(queue_of: Callable[[str], Queue]) -> None:
    dead, heir, head = queue_of("dead"), queue_of("heir"), queue_of("run")
    lost = claimed(dead)
    kept = lost.stamped("x")
    kept.mkdir()
    (kept / "0").write_text("window 0")
    assert head.free("dead", "its node is gone") == ["a"]
    lease = claimed(heir)
    assert (lease.stamped("x") / "0").read_text() == "window 0"
    kept.mkdir(parents=True)  # the old process lives on and writes where its lease was
    (kept / "1").write_text("a window of the dead")
    for action in (lambda: lost.progress(2, 3), lambda: publish(lost)):
        with pytest.raises(LeaseLost):
            action()
    publish(lease)
    assert lease.video.read_text() == "made by heir"
    with pytest.raises(LeaseLost):
        publish(lost)
    assert lease.video.read_text() == "made by heir"
    assert head.entry("a")


def test_who_lost_a_row_begins_no_other_and_gives_nothing_back(queue_of: Callable[[str], Queue]) -> None:
    """It is taken for dead: whatever it began would be taken from it again, in the middle of a window."""
    dead, heir, head = queue_of("dead"), queue_of("heir"), queue_of("run")
    lost = [claimed(dead), claimed(dead)]
    assert head.free("dead", "its job is queued again", counted=False) == ["a", "b"]
    for lease in (claimed(heir), claimed(heir)):
        leases.note_end(lease.folder.parent, "its driver failed", counted=True)
    for lease in lost:
        (lease.folder / "windows").mkdir(parents=True)  # written where the lease was
    with pytest.raises(Replaced), lost[0].attempt():
        lost[0].progress(1, 3)
    dead.give_back()
    assert (dead.held, heir.holders()) == ({}, {"heir"})
    tries = [leases.read_small(heir.home(clip) / leases.TRIES) for clip in "ab"]
    assert [(told["starts"], told["why"]) for told in tries] == [(1, "its driver failed")] * 2


def test_a_lease_that_is_lost_under_a_write_is_no_fault_of_the_row(queue_of: Callable[[str], Queue]) -> None:
    dead, head = queue_of("dead"), queue_of("run")
    lost = claimed(dead)
    with pytest.raises(Replaced), lost.attempt(), atomic(lost.folder / "window"):
        head.free("dead", "its job is queued again", counted=False)
    assert "why" not in leases.read_small(head.home("a") / leases.TRIES)


def test_a_row_that_is_begun_in_vain_is_made_alone_and_then_refused(queue_of: Callable[[str], Queue]) -> None:
    head = queue_of("run")
    for number in range(3):
        worker = queue_of(f"w{number}")
        lease = claimed(worker)
        assert (lease.clip, lease.alone) == ("a", number > 0)
        assert (worker.claim() is None) == lease.alone
        head.free(worker.worker, "its worker died: FAILED")
    lease = claimed(queue_of("next"))
    assert (lease.clip, lease.alone) == ("b", True)  # the first worker held it, too
    refusal = head.entry("a")["refusal"]  # type: ignore[index]
    assert refusal == {"kind": "crashed", "reason": "its worker died: FAILED (3 starts in vain)", "step": "generate"}


def test_a_row_that_gets_on_is_begun_without_end(queue_of: Callable[[str], Queue]) -> None:
    head = queue_of("run")
    for number in range(9):
        worker = queue_of(f"w{number}")
        lease = claimed(worker)
        assert lease.clip == "a"
        lease.progress(number + 1, 10)
        head.free(worker.worker, "its worker died")
    assert not head.entry("a")


def test_ends_that_are_no_rows_fault_do_not_count(queue_of: Callable[[str], Queue]) -> None:
    head = queue_of("run")
    for number in range(9):
        worker = queue_of(f"w{number}")
        assert not claimed(worker).alone
        head.free(worker.worker, "its node is gone", counted=False)
    assert not head.entry("a")


def test_out_of_memory_halves_what_is_made_together_and_refuses_what_does_not_fit_alone(
    queue_of: Callable[[str], Queue],
) -> None:
    worker = queue_of("w")
    together = [claimed(worker) for _ in range(4)]
    with together[0].attempt():
        raise MemoryError("CUDA out of memory")
    assert not worker.held
    assert [claimed(worker).clip for _ in range(2)] == ["a", "b"]
    assert worker.claim() is None
    with worker.held["a"].attempt():
        raise MemoryError
    lease = claimed(worker)
    assert worker.claim() is None
    with lease.attempt():
        raise MemoryError
    assert worker.entry("a")["refusal"]["kind"] == "out_of_memory"  # type: ignore[index]
    assert claimed(worker).clip == "b"


def test_out_of_memory_leaves_a_row_whose_file_alone_is_being_written(queue_of: Callable[[str], Queue]) -> None:
    worker = queue_of("w")
    made, other = claimed(worker), claimed(worker)
    made.made = True
    with other.attempt():
        raise MemoryError
    assert list(worker.held) == ["a"]
    with made.attempt():
        publish(made)
    assert worker.entry("a")
    again = claimed(worker)
    again.made = True
    with again.attempt():  # while its own file was written
        raise MemoryError
    assert (again.clip, worker.held) == ("b", {})


def test_a_row_that_is_lost_while_it_is_refused_ends_the_worker(queue_of: Callable[[str], Queue]) -> None:
    worker, head = queue_of("w"), queue_of("run")
    worker.limit = 1
    lease = claimed(worker)

    def lose() -> None:
        head.free("w", "its job is queued again", counted=False)
        raise MemoryError

    with pytest.raises(Replaced), lease.attempt():
        lose()


def test_clips_of_rows_that_are_not_listed_now_are_kept_for_when_they_are(
    queue_of: Callable[[str], Queue], tmp_path: Path
) -> None:
    """As `run failed.csv` and then the whole manifest again do; and another number of shards."""
    worker, listing = queue_of("w"), tmp_path / "shards" / "s000.json"
    for _ in "abcd":
        publish(claimed(worker))
    rows = read_json(listing)["rows"]
    for some in (rows[1:2], rows):
        write_json(listing, {"rows": some})
        with opened(listing, worker.ledger, GenerateSettings()) as queue:
            assert (queue.claim(), queue.left()) == (None, [])
    assert len(list(worker.folder.glob("*.mkv"))) == 4
    write_json(listing.with_name("s001.json"), {"rows": rows[2:]})
    (listing.parent / "s001").mkdir()
    with opened(listing.with_name("s001.json"), listing.parent / "s001/ledger.json", GenerateSettings()) as queue:
        assert (queue.claim(), queue.left()) == (None, [])
    write_json(listing.with_name("s001.json"), {"rows": [{**rows[2], "seed": 9}]})
    shutil.rmtree(listing.parent / "s001/rows")
    assert Queue(listing.with_name("s001.json"), listing.parent / "s001/ledger.json", GenerateSettings()).left() == [
        "c"
    ]


def test_who_died_elsewhere_is_known_by_standing_still(
    queue_of: Callable[[str], Queue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No queue can be asked of a process in another container; one that lives keeps its row, and that is told."""
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.3)
    for name in ("dead", "alive"):
        assert queue_of(name).claim()
    sign = {"job": "", "host": "elsewhere", "pid": 1, "start": "1", "advances": 0, "rows": []}
    folder, ended = tmp_path / "shards/s000/workers", threading.Event()
    for name in ("dead", "alive"):
        write_json(folder / f"{name}.json", {**sign, "beats": 1})

    def beat() -> None:
        for beats in itertools.count(2):
            write_json(folder / "alive.json", {**sign, "beats": beats})
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=beat)
    thread.start()

    def make_the_rest() -> None:
        with opened(tmp_path / "shards/s000.json", tmp_path / "shards/s000/ledger.json", GenerateSettings()) as queue:
            while lease := queue.claim():
                publish(lease)

    try:
        with pytest.raises(EnvironmentError, match="1 rows left, which alive makes; run again when"):
            make_the_rest()
    finally:
        ended.set()
        thread.join()
    assert queue_of("x").left() == ["b"]


def test_a_lease_whose_first_taker_died_at_once_is_taken_by_one(tmp_path: Path) -> None:
    home = tmp_path / "a"
    (home / "dead").mkdir(parents=True)  # killed before it could say that the row is begun
    assert leases.set_free(home, "dead")
    assert leases.take(home, "heir")
    assert not leases.is_free(home)
    assert not leases.take(home, "other")
    assert leases.is_sealed(home / "heir")


def test_an_input_that_changes_meanwhile_is_noticed(queue_of: Callable[[str], Queue], tmp_path: Path) -> None:
    worker = queue_of("w")
    lease = claimed(worker)
    (tmp_path / "face").write_text("another face")
    publish(lease)
    assert not worker.entry("a")
    again = claimed(worker)
    assert (again.clip, again.key == lease.key) == ("a", False)
    publish(again)
    assert worker.entry("a")


def test_what_was_begun_by_other_code_never_mixes_in(queue_of: Callable[[str], Queue]) -> None:
    worker = queue_of("w")
    lease = claimed(worker)
    old = lease.stamped("old code")
    old.mkdir()
    (old / "0").write_text("window 0")
    lease.progress(1, 3)
    new = lease.stamped("new code")
    assert not new.exists()
    assert not old.exists()


def test_a_cuda_error_ends_the_worker_and_gives_its_rows_back(queue_of: Callable[[str], Queue], tmp_path: Path) -> None:
    shard, ledger = tmp_path / "shards/s000.json", tmp_path / "shards/s000/ledger.json"
    queue_of("x")

    def work() -> None:
        with opened(shard, ledger, GenerateSettings()) as queue:
            lease = claimed(queue)
            with lease.attempt():
                raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(WorkerBroken, match="device-side assert"):
        work()
    assert claimed(queue_of("next")).alone
    assert not list((tmp_path / "shards/s000/workers").glob("*.json"))


KILLED = """
import os, sys, time
from pathlib import Path
from linker.config import GenerateSettings
from linker.records import atomic
from linker.rows import opened

with opened(Path("shards/s000.json"), Path("shards/s000/ledger.json"), GenerateSettings()) as queue:
    lease = queue.claim()
    names = ["ledger.json", "0123.speech", "workers/me.json", "rows/a/tries.json", "rows/d/entry.json"]
    opening = [atomic(queue.folder / name) for name in names]
    for one in opening:
        one.__enter__()
    print(flush=True)
    time.sleep(60)
"""


def test_what_a_killed_worker_left_half_written_is_swept_by_the_next_one(
    queue_of: Callable[[str], Queue], tmp_path: Path
) -> None:
    """Not while it lives: it may be writing."""
    shard, ledger = tmp_path / "shards/s000.json", tmp_path / "shards/s000/ledger.json"
    queue_of("x")

    def half_written() -> int:
        return len(list(ledger.parent.rglob(".*")))

    def make_the_rest() -> None:
        with opened(shard, ledger, GenerateSettings()) as queue:
            while lease := queue.claim():
                publish(lease)

    words, environment = [sys.executable, "-c", KILLED], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        worker.stdout.readline()
        with pytest.raises(EnvironmentError, match="1 rows left"):
            make_the_rest()
        assert half_written() == 5
        worker.kill()
    make_the_rest()
    assert (half_written(), queue_of("x").left()) == (0, [])


def test_nothing_is_begun_while_a_run_is_ending(queue_of: Callable[[str], Queue], tmp_path: Path) -> None:
    (tmp_path / ".linker").mkdir()
    (tmp_path / ".linker" / "drain").touch()
    assert queue_of("w").claim() is None
