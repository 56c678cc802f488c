"""What the workflow itself costs, around the tests' steps, which do next to nothing: planning, running, launching."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from linker.config import ROOT_DIR, GenerateSettings, LaunchSettings, token
from linker.records import write_json

PLANNED = (100, 1000, 10_000)  # rows
RUN = 100
SIGHT_S = 0.2  # how often memory is looked at
MANY, FIRST, SHARD_ROWS = 10_000, 100, 250
STEPS = ("generated.mkv", "stable.mkv", "upscaled.mkv", "delivered.json")  # what a row's own steps leave in its folder


def overhead() -> dict[str, float]:
    """Planning 100, 1,000 and 10,000 rows of as few portraits and audios as there can be; running 100 rows whole. More
    rows are run on request: overhead_1000 takes some ten minutes, and overhead_first_100_of_10000 some three."""
    found: dict[str, float] = {}
    for rows in PLANNED:
        found |= planning(rows)
    return found | running(RUN)


def planning(rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        shop = _shop(Path(folder))
        words = ["plan", _manifest(shop, rows), "--results", shop.results, "--json"]
        wall, cpu, peak_mb = _measured(shop.words(*words), shop.environment())
    return {f"plan_{rows}_rows_s": wall, f"plan_{rows}_rows_cpu_s": cpu, f"plan_{rows}_rows_mb": peak_mb}


def running(rows: int) -> dict[str, float]:
    """Rows of trivial steps, from the command's start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        shop = _shop(Path(folder))
        words = ["run", _manifest(shop, rows), "--results", shop.results]
        wall, cpu, peak_mb = _measured(shop.words(*words), shop.environment())
    told = {"s_a_row": round(wall / rows, 3), "cpu_s_a_row": round(cpu / rows, 3), "mb": peak_mb}
    return {f"run_{rows}_rows_{name}": value for name, value in told.items()}


def beginning(rows: int = MANY, first: int = FIRST) -> dict[str, float]:
    """A run of many trivial rows, of ten portraits and ten audios, that is ended once the first are delivered: until
    its first step; until its first clip, when these are prepared; and from there on for each row that was made (a row
    that was begun counts by the share of its steps that are done)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shop = _shop(Path(folder))
        words = ["run", _manifest(shop, rows, side=10), "--results", shop.results]
        words += ["--set", f"generate.shards={-(-rows // SHARD_ROWS)}"]
        command, env = shop.words(*words), shop.environment()
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            try:
                step = _reached(child, shop.results, "logs/*/*.log")
                clip = _reached(child, shop.results, "clips/*/generated.mkv")
                end = _reached(child, shop.results, "videos/*.mp4", first)
            finally:
                child.kill()  # what it started ends with it
        made = sum(len(list(shop.results.glob(f"clips/*/{name}"))) for name in STEPS) / len(STEPS)
    told = {"until_step_s": step[0], "until_step_cpu_s": step[1], "until_clip_s": round(step[0] + clip[0], 1)}
    told |= {"s_a_row": round(end[0] / made, 3), "cpu_s_a_row": round((end[1] - clip[1]) / made, 3), "made": made}
    told["mb"] = max(step[2], clip[2], end[2])
    return {f"first_{first}_of_{rows}_rows_{key}": value for key, value in told.items()}


def _reached(child: subprocess.Popen[bytes], folder: Path, pattern: str, count: int = 1) -> tuple[float, float, float]:
    """(wall seconds from now on, CPU seconds of the command so far, peak MB from now on) when there are so many files.
    Raises RuntimeError for a command that ends before."""
    began, peak = time.perf_counter(), 0.0
    while len(list(folder.glob(pattern))) < count:
        if child.poll() is not None:
            raise RuntimeError(f"a benchmark's process ended too soon, with exit code {child.returncode}")
        peak = max(peak, _resident_mb(child.pid))
        time.sleep(SIGHT_S)
    return round(time.perf_counter() - began, 1), round(_cpu_s(child.pid), 1), round(peak)


def launch() -> dict[str, float]:
    """A shard of 8 empty GPU rows on 2 workers, from its step's start to its end: on a SLURM that is started here where
    its packages are installed, else as local processes."""
    tests = _tests("cluster")
    with tempfile.TemporaryDirectory() as folder:
        shop = _shop(Path(folder))
        if tests.missing():
            return {"local_8_rows_2_workers_s": _empty_shard(shop, shop.environment(), "local")}
        cluster = tests.Cluster()
        try:
            cluster.start()
            env = {**shop.environment(), **cluster.environment(), "PYTHONPATH": str(shop.root)}
            return {"slurm_8_rows_2_workers_s": _empty_shard(shop, env, "slurm")}
        finally:
            cluster.stop()


def _empty_shard(shop: Any, environment: dict[str, str], cluster: str) -> float:
    """Wall seconds of the step."""
    shop.results.mkdir()
    for name in ("face", "masks", "driver"):
        (shop.results / name).write_text(name)
    for name in ("crop", "loudness"):
        write_json(shop.results / name, {"refusal": None, "duration_s": 1.0})
    files = {name: name for name in ("face", "masks", "driver", "crop", "loudness")}
    row = {**files, "seed": 0, "scales": [1, 1, 1], "ranges": [1, 1, 1], "preset": "draft"}
    write_json(shop.results / "shards" / "s000.json", {"rows": [{"clip": f"r{number}", **row} for number in range(8)]})
    words = ["generate", "--shard", "shards/s000.json", "--ledger", "shards/s000/ledger.json"]
    settings = LaunchSettings(cluster=cluster, workers=2, gpus=1 if cluster == "slurm" else 0, cpus=1, memory_gb=1)
    env = {**environment, "LINKER_LAUNCH": token(settings)}
    began = time.perf_counter()
    command = shop.words(*words, "--settings", token(GenerateSettings()))
    subprocess.run(command, cwd=shop.results, env=env, check=True, stderr=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 1)


def _tests(name: str) -> Any:
    """A module of tests/: the trivial steps and the loopback cluster are theirs."""
    if str(ROOT_DIR / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT_DIR / "tests"))
    return importlib.import_module(name)


def _shop(folder: Path) -> Any:
    return _tests("conftest").Workshop(folder)


def _manifest(shop: Any, rows: int, side: int = 0) -> Path:
    """Every portrait with every audio: of each as few as there can be, or `side`, again and again."""
    side = side or round(rows**0.5)
    for number in range(side):
        shop.file(f"p{number}.png", str(number))
        shop.file(f"s{number}.wav", str(number))
    lines = (f"r{number},p{number % side}.png,s{number // side % side}.wav," for number in range(rows))
    return shop.manifest(*lines)


def _measured(words: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MB of all its processes together) of a command. Raises CalledProcessError."""
    before, began, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            peak = max(peak, _resident_mb(child.pid))
            time.sleep(SIGHT_S)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(time.perf_counter() - began, 1), round(cpu, 1), round(peak)


def _resident_mb(pid: int) -> float:
    """What processes share (with one that is just being started: everything) counts once."""
    return _summed(pid, lambda process: process.memory_full_info().pss) / 1e6


def _cpu_s(pid: int) -> float:
    """Of a process and all that it started; what has ended is counted by whoever waited for it."""
    return _summed(pid, lambda process: sum(process.cpu_times()[:4]))


def _summed(pid: int, figure: Callable[[psutil.Process], float]) -> float:
    """A figure of a process and of all below it."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += figure(one)
    return total
