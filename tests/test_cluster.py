"""A night on a cluster: a real SLURM on loopback, and what may happen to a shard's workers there.

Most tests call the rule's step itself, with trivial rows, as the waiting run does; the others run the whole workflow.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cluster import NODES, Cluster
from conftest import Workshop

from linker.config import GenerateSettings, LaunchSettings, token
from linker.records import read_json, write_json

SETTINGS = GenerateSettings()
WORKER = {"cluster": "slurm", "gpus": 1, "cpus": 1, "memory_gb": 1}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


class Shard:
    """A results folder with one shard of trivial rows, whose windows are text, and the run that waits for it."""

    def __init__(self, workshop: Workshop, cluster: Cluster) -> None:
        self.workshop, self.cluster, self.results = workshop, cluster, workshop.results
        self.heads: list[subprocess.Popen[str]] = []

    def rows(self, count: int, **changes: dict[str, Any]) -> None:
        for name, text in {"face": "face", "masks": "masks", "driver": "driver"}.items():
            (self.results / name).parent.mkdir(exist_ok=True)
            (self.results / name).write_text(text)
        for name in ("crop", "loudness"):
            write_json(self.results / name, {"refusal": None, "duration_s": 1.0})
        files = {name: name for name in ("face", "masks", "driver", "crop", "loudness")}
        fixed = {**files, "scales": [1, 1, 1], "ranges": [1, 1, 1], "preset": "draft"}
        rows = [{"clip": f"r{number:02}", "seed": number, **fixed} for number in range(count)]
        rows = [{**row, **changes.get(row["clip"], {})} for row in rows]
        write_json(self.results / "shards" / "s000.json", {"shard": "s000", "rows": rows})

    def head(self, workers: int, time_min: int = 60, **environment: str) -> subprocess.Popen[str]:
        """Start the rule's step, as Snakemake does."""
        words = ["generate", "--log", "logs/generate/s000.log", "--shard", "shards/s000.json"]
        words += ["--ledger", "shards/s000/ledger.json", "--settings", token(SETTINGS)]
        launch = token(LaunchSettings(workers=workers, time_min=time_min, **WORKER))
        env = {**self.workshop.environment(), **self.cluster.environment(), "LINKER_LAUNCH": launch, **environment}
        env["PYTHONPATH"] = str(self.workshop.root)
        head = subprocess.Popen(
            self.workshop.words(*words), cwd=self.results, env=env, text=True, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self.heads.append(head)
        return head

    def run(self, workers: int, **more: Any) -> tuple[int, str]:
        """Run the step to its end; its exit code and what it said."""
        head = self.head(workers, **more)
        _, told = head.communicate(timeout=120)
        return head.returncode, told + self.log()

    def log(self) -> str:
        return (self.results / "logs" / "generate" / "s000.log").read_text()

    def entries(self) -> dict[str, dict[str, Any]]:
        return dict(read_json(self.results / "shards" / "s000" / "ledger.json")["rows"])

    def frames(self) -> dict[str, str]:
        """What every delivered row is made of."""
        entries = self.entries()
        return {clip: (self.results / e["video"]).read_text() for clip, e in entries.items() if e["state"] == "done"}

    def windows(self) -> list[str]:
        """'r03 2' for every window that was made, in order, again for every time."""
        path = self.results / "shards" / "s000" / "windows"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shard(workshop: Workshop, cluster: Cluster) -> Iterator[Shard]:
    made = Shard(workshop, cluster)
    made.results.mkdir()
    yield made
    for head in made.heads:
        head.kill()
        head.wait()


def test_rows_are_pulled_by_all_workers_and_the_job_says_so(shard: Shard) -> None:
    shard.rows(24)
    code, told = shard.run(3, TRIVIAL_S="0.1")
    assert code == 0, told
    entries = shard.entries()
    assert [entry["state"] for entry in entries.values()] == ["done"] * 24
    assert {entry["node"] for entry in entries.values()} == set(NODES)
    assert len({entry["job"] for entry in entries.values()}) == 3
    assert len(shard.windows()) == len(set(shard.windows())) == 72
    assert shard.cluster.submissions() == 1
    assert shard.cluster.queue() == []
    assert "submitted slurm job" in told
