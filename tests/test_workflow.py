"""The workflow around the steps, which do next to nothing here: what runs, what is left alone, what survives kills."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
from conftest import Workshop
from test_upscale import write_network

from linker import cli, lock
from linker.config import GenerateSettings, Settings
from linker.errors import EnvironmentError
from linker.process import start_time
from linker.records import Row, read_json
from linker.run import ENDED, Order, _condense, _passes, read_plan
from linker.shards import digest, row_token, rows_by_shard, shard_name
from linker.status import HELD, RowState
from linker.verbs import _conclude

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted((ROOT / "rules").glob("*.smk"))
FINISH = ["collect", "stabilize_background", "upscale_video", "mux_audio"]


def tree(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def listening() -> None:
    """Ctrl-C counts, even where the tests themselves were started in a script's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def portraits_and_audios(workshop: Workshop) -> None:
    for name in ("p a.png", "p'b.png", "s1.wav", "s $2.wav"):
        workshop.file(name, name)
    workshop.file("no face.png", "bad")


LINES = ("r1,p a.png,s1.wav,", "r2,p a.png,s $2.wav,1.5", "r3,p'b.png,s1.wav,", "r4,no face.png,s1.wav,")


def test_a_manifest_from_start_to_change(workshop: Workshop) -> None:
    """Good rows are delivered, bad ones named; a second run does nothing; a changed row redoes that row alone."""
    portraits_and_audios(workshop)
    for name in ("p a.png", "s1.wav"):  # from a disk or a server whose clock is ahead
        os.utime(workshop.media / name, (time.time() + 3600,) * 2)
    outside = tree(workshop.media)
    manifest = workshop.manifest(*LINES, "../x,p a.png,s1.wav,", "$(touch PWNED),p a.png,s1.wav,9")
    outside["jobs.csv"] = manifest.stat().st_mtime_ns
    first = workshop.run(manifest)
    assert first.returncode == 4, first.stderr
    assert sorted(path.stem for path in workshop.results.glob("videos/*.mp4")) == ["r1", "r2", "r3"]
    assert "jobs.csv:6:clip: error:" in first.stderr
    assert "jobs.csv:5:portrait: error: bad: no face.png is bad" in first.stderr
    assert "r4: crop_face: no face.png is bad" in first.stderr.splitlines()
    assert "3 done, 1 refused, 2 faulty" in first.stdout
    assert len(list(workshop.results.glob("portraits/*"))) == 3
    assert len(list(workshop.results.glob("audio/*"))) == 2
    assert tree(workshop.media) == outside
    assert workshop.made() == ["r1", "r2", "r3"]
    status = (workshop.results / "status.tsv").read_text()
    assert "r4\trefused\tcrop_face" in status

    delivered = tree(workshop.results / "videos")
    assert workshop.run(manifest).returncode == 4
    assert tree(workshop.results / "videos") == delivered

    changed = workshop.manifest(LINES[0], "r2,p a.png,s $2.wav,0.5", LINES[2])
    before = tree(workshop.results)
    planned = workshop.call("plan", changed, "--results", workshop.results, "--json")
    assert planned.returncode == 0, planned.stderr
    jobs = [job["what"] for job in json.loads(planned.stdout)["jobs"]]
    assert jobs == ["list_shard s000", "generate s000", *(f"{step} r2" for step in FINISH)]
    assert workshop.run(changed).returncode == 0
    assert workshop.made() == ["r1", "r2", "r3", "r2"]
    after = tree(workshop.results)
    redone = {path for path in after if path.startswith(("videos/", "clips/")) and after[path] != before.get(path)}
    assert redone == {path for path in redone if "r2" in path}
    assert len(redone) == 7


def test_many_rows_are_run_in_parts_and_a_shard_of_two_parts_is_generated_once(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    code = workshop.root / "linker" / "run.py"
    code.write_text(re.sub(r"^RUN_ROWS = \d+", "RUN_ROWS = 2", code.read_text(), flags=re.MULTILINE))
    manifest = workshop.manifest(*LINES[:3])
    first = workshop.run(manifest)
    assert first.returncode == 0, first.stderr
    assert [line for line in first.stderr.splitlines() if line.startswith("part ")] == [
        "part 1 of 2 (new rows)",
        "part 2 of 2 (new rows)",
    ]
    assert workshop.made() == ["r1", "r2", "r3"]
    assert sorted(path.stem for path in workshop.results.glob("videos/*.mp4")) == ["r1", "r2", "r3"]
    again = _passes(workshop.results, 3, 2)
    assert again == [(kind, part) for kind in ("new", "settled") for part in ("0/2", "1/2")]


def test_a_changed_setting_reruns_its_step_and_what_follows(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES[:1])
    assert workshop.run(manifest).returncode == 0
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json", "--set", "finish.crf=20")
    assert json.loads(planned.stdout)["jobs_by_rule"] == {"mux_audio": 1}
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json", "--set", "finish.factor=2")
    assert json.loads(planned.stdout)["jobs_by_rule"] == {"upscale_video": 1, "mux_audio": 1}
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json", "--set", "launch.time_min=9")
    assert json.loads(planned.stdout)["jobs"] == []
    workshop.file("p a.png", "another")
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json")
    jobs = json.loads(planned.stdout)["jobs_by_rule"]
    assert {"crop_face", "extract_masks", "generate", *FINISH} == jobs.keys()
    os.utime(workshop.file("s1.wav", "from an old backup"), (1, 1))
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json")
    assert json.loads(planned.stdout)["jobs_by_rule"]["normalize_audio"] == 1


def test_networks_take_turns_at_a_gpu_and_another_one_at_the_same_path_upscales_again(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest, weights = workshop.manifest(*LINES[:2]), write_network(workshop.media / "n.pth")
    words = (manifest, "--results", workshop.results, "--set", f"upscale.weights={weights}")
    done = workshop.call("run", *words, "--cores", 4, "--set", "launch.cluster=debug", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 0, done.stderr
    assert (workshop.results / "clips" / "network").read_text().split() == ["begins", "ends"] * 2
    assert json.loads(workshop.call("plan", *words, "--json").stdout)["jobs"] == []
    write_network(weights, gain=0.3)
    os.utime(weights, (1, 1))  # from an old backup
    planned = workshop.call("plan", *words, "--json")
    assert json.loads(planned.stdout)["jobs_by_rule"] == {"upscale_video": 2, "mux_audio": 2}


def test_a_results_folder_goes_on_with_the_rules_of_today(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest, rules = workshop.manifest(*LINES[:1]), workshop.root / "rules" / "finish.smk"
    assert workshop.run(manifest).returncode == 0
    text = rules.read_text()
    rules.write_text(text.replace('"mux_audio {wildcards.clip}"', '"renamed {wildcards.clip}"'))
    planned = workshop.call("plan", manifest, "--results", workshop.results, "--json", "--set", "finish.crf=20")
    assert [job["what"] for job in json.loads(planned.stdout)["jobs"]] == ["renamed r1"]


def test_killed_in_mid_generation_and_run_again(workshop: Workshop) -> None:
    """Nothing that was killed lives on, the lock is taken over, and no row is made twice."""
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES[:3])
    words = workshop.words("run", manifest, "--results", workshop.results, "--cores", 2)
    with subprocess.Popen(
        words, env=workshop.environment(TRIVIAL_S="2"), cwd=workshop.media, stderr=subprocess.DEVNULL
    ) as head:
        wait_for(lambda: workshop.made() == ["r1"])
        begun = [workshop.results / name for name in ("clips/r1/.stable.0123abcd.mkv", "draft/.r1.0123abcd.mp4")]
        for path in begun:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        two_heads = workshop.run(manifest)
        assert two_heads.returncode == 3
        assert all(path.exists() for path in begun)
        assert f"in use by process {head.pid}" in two_heads.stderr
        head.kill()
    made = workshop.made()
    time.sleep(3)
    assert workshop.made() == made
    done = workshop.run(manifest)
    assert done.returncode == 0, done.stderr
    assert sorted(set(workshop.made())) == ["r1", "r2", "r3"]
    assert workshop.made().count("r1") == 1
    assert [path for path in tree(workshop.results) if "/." in path and not path.startswith(".")] == []


def test_ctrl_c_ends_everything_and_leaves_no_lock(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES[:3])
    words = workshop.words("run", manifest, "--results", workshop.results)
    environment = workshop.environment(TRIVIAL_S="5")
    typed = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True, "preexec_fn": listening}
    with subprocess.Popen(words, env=environment, **typed) as head:
        wait_for(lambda: workshop.made() == ["r1"])
        os.killpg(head.pid, signal.SIGINT)
        _, told = head.communicate(timeout=30)
    assert head.returncode == 130
    assert "Traceback" not in told
    assert not (workshop.results / lock.LOCK).exists()
    assert workshop.run(manifest).returncode == 0


def test_sigterm_ends_after_the_row_that_is_being_made(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES[:3])
    words = workshop.words("run", manifest, "--results", workshop.results)
    with subprocess.Popen(words, env=workshop.environment(TRIVIAL_S="4"), stderr=subprocess.PIPE, text=True) as head:
        wait_for(lambda: (workshop.results / "shards" / "s000" / "windows").exists())
        head.terminate()
        _, told = head.communicate(timeout=60)
    assert head.returncode == 3
    assert workshop.made() == ["r1"]
    assert "ended on request with 2 rows left; run again to continue" in told
    assert workshop.run(manifest).returncode == 0
    assert workshop.made() == ["r1", "r2", "r3"]


@pytest.mark.parametrize(("code", "wanted"), [(ENDED, 3), (1, 4)])
def test_a_run_that_was_asked_to_end_may_have_left_more_than_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, wanted: int
) -> None:
    """As a changed row whose new frames are not finished yet: its last good video is there."""
    states = [RowState("r1", 2, "done"), RowState("r2", 3, "refused", "crop_face", "no_face", "found no face")]
    assert _conclude(Order(tmp_path / "jobs.csv", tmp_path, Settings()), states, code, 1.0) == wanted
    assert ("ended on request; run again to continue" in capsys.readouterr().out) == (code == ENDED)


@pytest.mark.parametrize(("kind", "wanted"), [(HELD, 4), ("error", 3)])
def test_a_video_that_its_checks_hold_back_is_not_the_machines_fault(tmp_path: Path, kind: str, wanted: int) -> None:
    """Whoever tries again on 3 would do so for ever."""
    states = [RowState("r1", 2, "done"), RowState("r2", 3, "failed", "mux_audio", kind, "found 25 black pictures")]
    assert _conclude(Order(tmp_path / "jobs.csv", tmp_path, Settings()), states, 1, 1.0) == wanted


def test_a_missing_tool_is_the_environments_fault_and_the_others_are_delivered(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    workshop.file("s3.wav", "broken tool")
    done = workshop.run(workshop.manifest("r1,p a.png,s1.wav,", "r2,p a.png,s3.wav,"), "--set", "generate.shards=2")
    assert done.returncode == 3
    assert "error: the tool is missing; install it" in done.stderr.splitlines()
    assert {shard_name(clip, 2) for clip in ("r1", "r2")} == {"s000", "s001"}
    assert [path.name for path in workshop.results.glob("videos/*.mp4")] == ["r1.mp4"]


def test_the_last_good_video_survives_a_failed_rerun(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest, video = workshop.manifest(LINES[0]), workshop.results / "videos" / "r1.mp4"
    assert workshop.run(manifest).returncode == 0
    sidecar = video.with_suffix(".json")
    before = video.read_text(), sidecar.read_text()
    workshop.file("s1.wav", "ends too soon")
    for _ in range(2):
        assert workshop.run(manifest).returncode == 3
        assert (video.read_text(), sidecar.read_text()) == before
        status = workshop.call("status", manifest, "--results", workshop.results)
        assert "1 failed" in status.stdout
    workshop.file("s1.wav", "mended")
    assert workshop.run(manifest).returncode == 0
    assert "mended" in video.read_text()
    for lost in (video, sidecar):
        lost.unlink()
        assert workshop.run(manifest).returncode == 0
        assert "mended" in video.read_text()
        assert sidecar.is_file()


def test_what_a_power_cut_left_half_written_is_made_again(workshop: Workshop) -> None:
    """One sidecar after the other, as a file system may give them back: empty, cut, or full of zeros."""
    portraits_and_audios(workshop)
    manifest = workshop.manifest(LINES[0])
    assert workshop.run(manifest).returncode == 0
    names = ("clips/*/*.json", "videos/*.json", "portraits/*/crop.json", "audio/*/*.json", "shards/**/*.json")
    sidecars = [path for name in names for path in workshop.results.glob(name) if "workers" not in path.parts]
    assert len(sidecars) == 9
    for path, content in zip(sidecars, [b"", b'{"', b"\0\0\0"] * 3, strict=True):
        path.write_bytes(content)
    (workshop.results / "settings.yaml").write_bytes(b"manifest: \xc3")
    done = workshop.run(manifest)
    assert (done.returncode, "1 done" in done.stdout) == (0, True), done.stdout + done.stderr
    assert read_json(workshop.results / "videos" / "r1.json")["video"] == "r1.mp4"


def test_a_rerun_that_fails_before_the_end_is_told_as_failed(workshop: Workshop) -> None:
    """Whatever step it fails in, and beside refused rows: the old video stays, and is not passed off as the new one."""
    portraits_and_audios(workshop)
    manifest, video = workshop.manifest(LINES[0], LINES[3]), workshop.results / "videos" / "r1.mp4"
    assert workshop.run(manifest).returncode == 4
    before = video.read_text()
    faults = (
        ("upscale.tile_px=2048", {}, "upscale_video"),
        ("generate.steps=7", {"TRIVIAL_FAULT": "r1:kill"}, "collect"),
    )
    for setting, fault, step in faults:
        done = workshop.run(manifest, "--set", setting, **fault)
        assert (done.returncode, video.read_text()) == (3, before), done.stderr
        assert "1 refused, 1 failed" in done.stdout
        assert f"r1\tfailed\t{step}" in (workshop.results / "status.tsv").read_text()
    done = workshop.run(manifest, "--set", "generate.steps=7")
    assert (done.returncode, video.read_text() == before) == (4, False)


def test_retry_forgets_refusals(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES[2:])
    assert workshop.run(manifest, TRIVIAL_FAULT="r3:memory").returncode == 4
    bad = workshop.media / "no face.png"
    dated = bad.stat().st_mtime_ns
    bad.write_text("good now")
    os.utime(bad, ns=(dated, dated))  # as restored from a backup: no trigger sees that it changed
    done = workshop.call("retry", manifest, "--results", workshop.results, "--kind", "bad", "out_of_memory")
    assert "retrying 2 refused rows" in done.stdout
    assert done.returncode == 0, done.stderr
    assert sorted(workshop.made()) == ["r3", "r4"]


def test_plain_snakemake_makes_the_same(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES)
    words = [sys.executable, "-m", "snakemake", "--cores", "4", "--keep-going", "--rerun-triggers", "mtime", "params"]
    words += ["--config", f"manifest={manifest}", f"results={workshop.results}"]
    environment = {name: value for name, value in workshop.environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=workshop.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: r4: crop_face: bad: no face.png is bad" in done.stderr
    assert sorted(path.stem for path in workshop.results.glob("videos/*.mp4")) == ["r1", "r2", "r3"]
    assert "r4\trefused" in (workshop.results / "status.tsv").read_text()
    assert (workshop.results / "report" / "index.html").is_file()
    again = workshop.call("plan", manifest, "--results", workshop.results, "--json")
    assert all(job["what"].endswith(" r4") for job in json.loads(again.stdout)["jobs"])


def test_the_plan_prepares_n_and_m_times_and_writes_nothing(workshop: Workshop) -> None:
    for index in range(3):
        workshop.file(f"p{index}.png", str(index))
    for index in range(4):
        workshop.file(f"s{index}.wav", str(index))
    lines = [f"r{p}{s},p{p}.png,s{s}.wav," for p in range(3) for s in range(4)]
    done = workshop.call("plan", workshop.manifest(*lines), "--results", workshop.results, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["rows"], told["portraits"], told["audios"], told["faults"]) == (0, 12, 3, 4, [])
    assert told["jobs_by_rule"] == {
        **{"crop_face": 3, "extract_masks": 3, "normalize_audio": 4, "detect_language": 4},
        **{"list_shard": 1, "generate": 1, **dict.fromkeys(FINISH, 12)},
    }
    assert not workshop.results.exists()


# The lock.


@pytest.mark.parametrize(
    "owner",
    ["", '{"pid": 1', json.dumps({"pid": os.getpid(), "start": "1", "host": socket.gethostname()})],
    ids=["empty", "torn", "began-before"],
)
def test_a_dead_runs_lock_is_taken_over(tmp_path: Path, owner: str) -> None:
    stale = tmp_path / ".snakemake" / "locks" / "0.input.lock"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / ".linker").mkdir()
    (tmp_path / lock.LOCK).write_text(owner)
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
        assert not stale.exists()
    assert not (tmp_path / lock.LOCK).exists()


@pytest.mark.parametrize("host", [socket.gethostname(), "another-machine"])
def test_a_living_runs_lock_is_respected(tmp_path: Path, host: str) -> None:
    (tmp_path / ".linker").mkdir()
    owner = json.dumps({"pid": os.getpid(), "start": start_time(os.getpid()), "host": host})
    (tmp_path / lock.LOCK).write_text(owner)
    with pytest.raises(EnvironmentError, match="in use by process"), lock.held(tmp_path):
        pass
    assert (tmp_path / lock.LOCK).read_text() == owner


# Shards.


def rows(*clips: str) -> tuple[Row, ...]:
    return tuple(Row(clip, Path("/p.png"), Path("/a.wav"), line) for line, clip in enumerate(clips, 2))


def test_adding_a_row_moves_no_other() -> None:
    few = rows_by_shard(rows("a", "b", "c", "d"), 3)
    more = rows_by_shard(rows("e", "a", "b", "c", "d", "f"), 3)
    assert all(row.clip in [other.clip for other in more[shard]] for shard, found in few.items() for row in found)
    assert sum(map(len, more.values())) == 6


def test_a_rows_token_tells_what_decides_its_frames() -> None:
    (row,) = rows("a")
    base = row_token(row, GenerateSettings())
    changed = {"steps": 9, "seed": 5, "preset": "quality", "weights": "other", "background_strength": 0.5}
    tokens = [row_token(row, GenerateSettings(**{key: value})) for key, value in changed.items()]
    tokens.append(row_token(Row("a", row.portrait, row.audio, 2, scales=(1, 2, 1)), GenerateSettings()))
    assert len({base, *tokens}) == 1 + len(tokens)
    assert row_token(row, GenerateSettings(shards=9)) == base
    assert digest([row], GenerateSettings()) != digest([row, row], GenerateSettings())


def test_what_snakemake_itself_complains_of_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    said = ['WorkflowError in rule collect in file "rules/generate.smk", line 72:\n', "Output x is older than y.\n"]
    child: Any = SimpleNamespace(stdout=["1 of 4 steps (25%) done\n", *said, "Removing output files\n"], wait=lambda: 1)
    _condense(child)
    assert capsys.readouterr().err == " 25 %  (1 of 4 steps)\nerror: Output x is older than y.\n"


def test_plans_are_read_from_snakemakes_words() -> None:
    text = "[Fri]\nJob 3: crop_face p.1\nReason: Missing output files: x\n\n[Fri]\nJob 1: collect r\nReason: Forced\n"
    assert read_plan(text) == [("crop_face p.1", "Missing output files: x"), ("collect r", "Forced")]


# Rules and steps name the same things.


def rule_texts() -> dict[str, str]:
    texts = "\n".join(path.read_text() for path in RULES)
    return {part.split(":")[0]: part for part in re.split(r"^rule ", texts, flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("rule", sorted(rule_texts()))
def test_a_rule_calls_its_step_with_the_steps_arguments(rule: str) -> None:
    text = rule_texts()[rule]
    assert f"linker.cli {rule} --log {{log:q}}" in text
    assert f'"logs/{rule}/' in text
    assert f'"benchmarks/{rule}/' in text
    source = ROOT / (cli.STEPS[rule].replace(".", "/") + ".py")
    functions = {node.name: node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}
    arguments = functions[rule].args
    wanted = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}
    assert set(re.findall(r"--([a-z0-9_]+)[ =]", text)) - {"log"} == wanted


def test_every_word_from_outside_is_quoted() -> None:
    for rule, text in rule_texts().items():
        words = re.findall(r"\{(?:input|output|params|log|wildcards)[^}]*\}", text.split("shell:")[1])
        assert [word for word in words if not word.endswith(":q}")] == [], rule


# The tools that keep the house clean.


def check(*words: str, folder: Path = ROOT) -> None:
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_snakefmt_has_nothing_to_change() -> None:
    check("snakefmt", "--check", "Snakefile", "workflow/Snakefile", "workflow/common.smk", *map(str, RULES))


def test_snakemake_finds_nothing_to_lint(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    manifest = workshop.manifest(*LINES)
    check(
        "snakemake", "--lint", "--config", f"manifest={manifest}", f"results={workshop.results}", folder=workshop.root
    )


def test_ruff_finds_nothing() -> None:
    check("ruff", "check", "--no-cache", ".")


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    cache = os.environ.get("LINKER_MYPY_CACHE", str(tmp_path / "mypy"))
    check("mypy", "--cache-dir", cache)


def test_snakemakes_own_report_holds_the_parts(workshop: Workshop) -> None:
    portraits_and_audios(workshop)
    assert workshop.run(workshop.manifest(*LINES[:1])).returncode == 0
    settings = workshop.results / "settings.yaml"
    words = [sys.executable, "-m", "snakemake", "report", "--snakefile", workshop.root / "Snakefile", "--cores", 1]
    words += ["--directory", workshop.results, "--configfile", settings]
    for more in ([], ["--report", workshop.results / "all.html"], ["--report", workshop.results / "all.zip"]):
        done = subprocess.run(
            [*map(str, words), *map(str, more)], env=workshop.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    text = (workshop.results / "all.html").read_text()
    part = b"<html>the part that holds its videos</html>"
    assert base64.b64encode(part)[:56].decode() in text
    with ZipFile(workshop.results / "all.zip") as files:
        assert part in [files.read(name) for name in files.namelist()]
