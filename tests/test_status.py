"""Status: the state of each row from its sidecars alone, and retry, which forgets refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linker.heartbeat import beating
from linker.manifest import read_manifest
from linker.records import Manifest, Refusal, Row, write_json
from linker.status import HELD, RowState, counts, left_over, read_states, table, told_left_over
from linker.verbs import forget

REFUSAL = Refusal("no_face", "found no face", "crop_face").to_json()


@pytest.fixture
def manifest(write_manifest: Callable[..., Path]) -> Manifest:
    return read_manifest(write_manifest("clip,portrait,audio\na,p.png,a.wav\n..,p.png,a.wav\nb,p.png,a.wav\n"))


def prepared(results: Path, row: Row) -> None:
    for name in ("crop.json", "masks.npz"):
        write_json(results / "portraits" / row.portrait_id / name, {"refusal": None})
    for name in ("loudness.json", "language.json"):
        write_json(results / "audio" / row.audio_id / name, {"refusal": None})


def states(results: Path, manifest: Manifest) -> dict[str, RowState]:
    return {state.clip or str(state.line): state for state in read_states(results, manifest)}


def test_before_anything_all_rows_wait_and_faults_are_told(tmp_path: Path, manifest: Manifest) -> None:
    found = read_states(tmp_path / "out", manifest)
    assert [(state.clip, state.line, state.state) for state in found] == [
        ("a", 2, "waiting"), ("", 3, "faulty"), ("b", 4, "waiting"),
    ]  # fmt: skip
    assert found[0].where == "crop_face"
    assert found[1].where == "clip"


def test_a_row_waits_for_the_first_step_that_lacks(tmp_path: Path, manifest: Manifest) -> None:
    prepared(tmp_path, manifest.rows[0])
    assert states(tmp_path, manifest)["a"].where == "generate"
    write_json(tmp_path / "shards" / "s000" / "ledger.json", {"rows": {"a": {"refusal": None}}})
    assert states(tmp_path, manifest)["a"].where == "collect"
    assert states(tmp_path, manifest)["b"].where == "generate"


def test_a_damaged_sidecar_is_as_one_that_is_not_there(tmp_path: Path, manifest: Manifest) -> None:
    """Also where a power cut came between the bytes of a letter."""
    video = tmp_path / "videos" / "a.json"
    video.parent.mkdir()
    video.write_bytes('{"title": "\u00c9'.encode()[:-1])
    assert states(tmp_path, manifest)["a"].state == "waiting"


def test_a_refused_preparation_refuses_all_its_rows(tmp_path: Path, manifest: Manifest) -> None:
    write_json(tmp_path / "portraits" / manifest.rows[0].portrait_id / "crop.json", {"refusal": REFUSAL})
    found = states(tmp_path, manifest)
    assert [found[clip].state for clip in "ab"] == ["refused", "refused"]
    assert str(found["a"]) == "a: crop_face: found no face"
    assert found["a"].kind == "no_face"


def test_a_row_is_done_when_video_and_sidecar_are_there(tmp_path: Path, manifest: Manifest) -> None:
    write_json(tmp_path / "videos" / "a.json", {"clip": "a", "video": "a.fr.mkv"})
    write_json(tmp_path / "clips" / "a" / "delivered.json", {"video": "a.fr.mkv"})
    assert states(tmp_path, manifest)["a"].state == "waiting"
    (tmp_path / "videos" / "a.fr.mkv").write_bytes(b"video")
    assert states(tmp_path, manifest)["a"].state == "done"
    assert states(tmp_path, manifest)["a"].video == "videos/a.fr.mkv"
    assert counts(read_states(tmp_path, manifest)) == "1 done, 1 waiting, 1 faulty"


def test_a_machines_fault_is_read_from_the_log(tmp_path: Path, manifest: Manifest) -> None:
    log = tmp_path / "logs" / "upscale_video" / "b.log"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback ...\nerror: the disk is full\n")
    found = states(tmp_path, manifest)
    assert (found["b"].state, found["b"].where) == ("failed", "upscale_video")
    assert "the disk is full" in found["b"].reason
    assert found["a"].state == "waiting"


def test_what_its_checks_hold_back_is_told_from_what_the_machine_failed(tmp_path: Path, manifest: Manifest) -> None:
    log = tmp_path / "logs" / "mux_audio" / "b.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: b: the finished video failed its checks and stays in draft/: black pictures\n")
    assert states(tmp_path, manifest)["b"].kind == "error"
    write_json(tmp_path / "draft" / "b.json", {"checks": []})
    assert (states(tmp_path, manifest)["b"].state, states(tmp_path, manifest)["b"].kind) == ("failed", HELD)


def delivered(results: Path, clip: str) -> None:
    write_json(results / "videos" / f"{clip}.json", {"clip": clip, "video": f"{clip}.mp4"})
    (results / "videos" / f"{clip}.mp4").write_bytes(b"video")
    write_json(results / "clips" / clip / "delivered.json", {"video": f"{clip}.mp4"})


@pytest.mark.parametrize("step", ["crop_face", "normalize_audio", "collect", "stabilize_background", "upscale_video"])
def test_a_rerun_that_failed_is_no_done_row(tmp_path: Path, manifest: Manifest, step: str) -> None:
    """Snakemake deletes the note of delivery only where mux_audio itself is called again."""
    row = manifest.rows[0]
    delivered(tmp_path, "a")
    note = (tmp_path / "clips" / "a" / "delivered.json").stat().st_mtime
    name = {"crop_face": row.portrait_id, "normalize_audio": row.audio_id}.get(step, "a")
    log = tmp_path / "logs" / step / f"{name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: out of luck\n")
    os.utime(log, (note - 9, note - 9))
    assert states(tmp_path, manifest)["a"].state == "done"
    os.utime(log, (note + 9, note + 9))
    found = states(tmp_path, manifest)["a"]
    assert (found.state, found.where, found.video) == ("failed", step, "")
    log.write_text("killed in the middle of a wor")
    os.utime(log, (note + 9, note + 9))
    found = states(tmp_path, manifest)["a"]
    assert (found.state, found.where) == ("waiting", step)
    log.unlink()  # intermediates may be deleted to save room
    assert states(tmp_path, manifest)["a"].state == "done"


def test_files_that_no_row_delivers_any_more_are_named(tmp_path: Path, manifest: Manifest) -> None:
    """After a change of name, container or master the old files stay: they are the user's."""
    delivered(tmp_path, "a")
    delivered(tmp_path, "b")
    (tmp_path / "clips" / "b" / "delivered.json").unlink()  # being finished again: the last good video is still its own
    assert left_over(tmp_path) == []
    for name in ("videos/a.mkv", "masters/a.mov", "masters/b.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"old")
    write_json(tmp_path / "clips" / "a" / "delivered.json", {"video": "a.mp4", "master": ""})
    write_json(tmp_path / "videos" / "b.json", {"video": "b.mp4", "master": "b.mov"})
    assert left_over(tmp_path) == ["masters/a.mov", "videos/a.mkv"]
    assert "masters/a.mov, videos/a.mkv; move or delete" in told_left_over(tmp_path)
    assert told_left_over(tmp_path / "empty") == ""


def test_a_half_written_sidecar_is_no_sidecar(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "portraits" / manifest.rows[0].portrait_id / "crop.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"refus')
    assert states(tmp_path, manifest)["a"].state == "waiting"


def test_the_table_has_one_line_a_row(tmp_path: Path, manifest: Manifest) -> None:
    lines = table(read_states(tmp_path, manifest)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["a", "line", "b"]
    assert lines[-1] == "2 waiting, 1 faulty"


def test_forget_deletes_what_refuses_a_row_and_nothing_else(tmp_path: Path, manifest: Manifest) -> None:
    row = manifest.rows[0]
    prepared(tmp_path, row)
    crop = tmp_path / "portraits" / row.portrait_id / "crop.json"
    ledger = tmp_path / "shards" / "s000" / "ledger.json"
    write_json(crop, {"refusal": REFUSAL})
    for clip, refusal in (("a", REFUSAL), ("b", None)):
        write_json(ledger.parent / "rows" / clip / "entry.json", {"refusal": refusal})
        write_json(ledger.parent / "rows" / clip / "tries.json", {"starts": 3})
    write_json(ledger, {"rows": {}})
    forget(tmp_path, row)
    assert not crop.exists()
    assert (tmp_path / "audio" / row.audio_id / "loudness.json").exists()
    assert [path.parent.name for path in tmp_path.glob("shards/*/rows/*/*.json")] == ["b", "b"]
    assert not ledger.exists()


def test_a_row_that_is_being_made_tells_by_whom_and_how_far(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From signs of life and leases alone; a row that is done tells what it took; a dead worker makes nothing."""
    for row in manifest.rows:
        prepared(tmp_path, row)
    shard = tmp_path / "shards" / "s000"
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    with beating(shard / "workers", lambda: ["a"]) as worker:
        write_json(shard / "rows" / "a" / worker / "progress.json", {"windows": 3, "of": 7, "seconds": 12.0})
        write_json(
            shard / "rows" / "b" / "entry.json",
            {"refusal": None, "video": "shards/s000/b.mkv", "seconds": 20.0, "job": "12_0", "node": "n1"},
        )
        found = states(tmp_path, manifest)
        assert (found["a"].worker, found["a"].windows, found["a"].gpu_s, found["a"].left_s) == (
            "job 12_3 on n7", "3 of 7", 12.0, 16.0,
        )  # fmt: skip
        assert (found["b"].where, found["b"].worker, found["b"].gpu_s) == ("collect", "job 12_0 on n1", 20.0)
        line = table(list(found.values())).splitlines()[0]
        assert line.split(maxsplit=3)[1:] == [
            "running",
            "generate",
            "3 of 7 windows, 12 s so far, 16 s left, job 12_3 on n7",
        ]
    assert states(tmp_path, manifest)["a"].worker == ""


def row(clip: str, where: str, **told: Any) -> RowState:
    return RowState(clip, 1, "done" if where == "done" else "waiting", where, **told)


def test_time_left_is_that_of_what_is_not_generated_shared_by_those_who_work(tmp_path: Path) -> None:
    """Rows that are generated wait to be finished, and none is done yet: the pace is theirs, 20 s a row."""
    made = [
        row("a", "collect", gpu_s=10.0, worker="job 1 on n"),
        row("b", "mux_audio", gpu_s=30.0, worker="job 2 on n"),
    ]
    assert table(made).splitlines()[-1] == "2 waiting; generated in 40 s of workers"
    rest = [row("c", "generate"), row("d", "crop_face")]
    assert table([*made, *rest]).endswith("generated in 40 s of workers, about 40 s of it left for 1 worker")
    making = [row(clip, "generate", gpu_s=5.0, left_s=30.0, worker=f"job {clip} on n") for clip in "ef"]
    told = table([*made, *rest, *making])  # 2 * (20 + 20 + 35 + 35) / 4 + 60 s, for two
    assert told.endswith("generated in 50 s of workers, about 58 s of it left for 2 workers")


def test_time_left_is_known_before_a_row_is_generated(tmp_path: Path) -> None:
    """Two rows side by side on one worker: each is 30 s from its end, and each takes half of these."""
    making = [row(clip, "generate", gpu_s=5.0, left_s=30.0, worker="job 1 on n") for clip in "ab"]
    told = table([*making, row("c", "generate")])  # 15 + 15 + 20
    assert told.endswith("generated in 10 s of workers, about 50 s of it left for 1 worker")
