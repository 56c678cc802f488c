"""What the workflow itself costs, around the tests' steps, which do next to nothing: planning, running, launching."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from linker.config import ROOT_DIR, GenerateSettings, LaunchSettings, token
from linker.records import write_json

PLANNED = (100, 1000, 10_000)  # rows
RUN = 100
SIGHT_S = 0.2  # how often memory is looked at


def overhead() -> dict[str, float]:
    """Planning 100, 1,000 and 10,000 rows of as few portraits and audios as there can be; running 100 rows whole. More
    rows are run on request: overhead_1000 takes some ten minutes, overhead_10000 over an hour."""
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


def _manifest(shop: Any, rows: int) -> Path:
    """Every portrait with every audio."""
    side = round(rows**0.5)
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
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total / 1e6
