"""Whole processes: rows together against rows apart, and how long the first step is waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linker.bench.common import Figures
from linker.config import MINI_DIR, ROOT_DIR, GenerateSettings, token
from linker.media import write_wav
from linker.records import write_json

SPEECH_S = 2.0
ROWS = 4


def batch() -> Figures:
    """Four rows denoised together in one shard against four processes at once: wall seconds and peak memory, in all."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        one, all_rows = GenerateSettings(rows_together=1), GenerateSettings(rows_together=ROWS)
        together = measured([started(Path(folder), "together", range(ROWS), all_rows)])
        apart = measured([started(Path(folder), f"apart{row}", [row], one) for row in range(ROWS)])
    figures = {f"together_{key}": value for key, value in together.items()}
    figures |= {f"apart_{key}": value for key, value in apart.items()}
    return figures | {"speedup": round(apart["seconds"] / together["seconds"], 2)}


def startup() -> Figures:
    """Seconds from a process's start to its first window with the embedded weights: with its files dropped from the
    page cache as far as the system lets it, and again. Raises RuntimeError when a process fails."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for name in ("cold", "warm"):
            if name == "cold":
                forget_files()
            began = time.perf_counter()
            process = started(Path(folder), name, [0], GenerateSettings())
            told = []
            for line in process.stderr or ():
                told.append(line)
                if " window 1/" in line:
                    found[f"{name}_s"] = round(time.perf_counter() - began, 2)
            process.wait()
            check_ended(process, "".join(told))
    return found


def prepare(root: Path, speech_s: float = SPEECH_S) -> None:
    """One prepared portrait and recording of noise, for rows that differ in their seed."""
    rng = np.random.default_rng(0)
    Image.fromarray(np.full((256, 256, 3), 128, np.uint8)).save(root / "face.png")
    some = np.full((64, 64), 0.3, np.float16)
    np.savez(root / "masks.npz", head=some, mouth=some, eyes=some)
    write_wav(root / "driver.wav", rng.standard_normal(round(speech_s * 16_000)).astype(np.float32) / 8, 16_000)
    write_json(root / "crop.json", {"refusal": None})
    write_json(root / "loudness.json", {"refusal": None, "duration_s": speech_s})


def listed(root: Path, shard: str, seeds: Sequence[int]) -> Path:
    """The listing of a shard with a row for each of these seeds."""
    shared: dict[str, Any] = {
        "face": "face.png", "crop": "crop.json", "masks": "masks.npz", "driver": "driver.wav",
        "loudness": "loudness.json", "scales": [1.0] * 3, "ranges": [1.0] * 3, "preset": "draft",
    }  # fmt: skip
    rows = [{"clip": f"r{seed}", "seed": seed, **shared} for seed in seeds]
    listing = root / "shards" / f"{shard}.json"
    write_json(listing, {"shard": shard, "rows": rows})
    return listing


def started(root: Path, shard: str, seeds: Sequence[int], settings: GenerateSettings) -> subprocess.Popen[str]:
    """A generate step on rows of these seeds, under way."""
    words = ["generate", "--shard", str(listed(root, shard, seeds))]
    words += ["--ledger", str(root / "shards" / shard / "ledger.json")]
    words += ["--settings", token(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT_DIR), "LINKER_LAUNCH": json.dumps({})}
    command = [sys.executable, "-P", "-m", "linker.cli", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def measured(processes: list[subprocess.Popen[str]]) -> Figures:
    """Wall seconds until the last ends, and the sum of their peaks. Raises RuntimeError when one fails."""
    began, peak_mb = time.perf_counter(), 0.0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        check_ended(process, process.stderr.read() if process.stderr else "")
        peak_mb += usage.ru_maxrss / 1024
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mb": round(peak_mb)}


def check_ended(process: subprocess.Popen[str], told: str) -> None:
    if process.returncode:
        raise RuntimeError(f"a benchmark's process failed with exit code {process.returncode}: {told}")


def forget_files() -> None:
    """Ask the system to drop the weights and torch's libraries from its page cache; what others use stays."""
    import torch

    libraries = Path(torch.__file__).parent.rglob("*.so*")
    for path in (*MINI_DIR.rglob("*.safetensors"), *libraries):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
