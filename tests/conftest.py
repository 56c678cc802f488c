"""What tests share: manifests on files made here, and a copy of the workflow whose steps do next to nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing
from hypothesis import settings

from linker.records import write_json

ROOT = Path(__file__).resolve().parent.parent
TRIVIAL = {
    "checkpoint": ("check_checkpoint", "check_folder"),
    "audio": ("normalize_audio", "examine_audio"),
    "language": ("detect_language",),
    "face": ("crop_face", "extract_masks", "examine_portrait"),
    "generate": ("generate",),
    "background": ("stabilize_background",),
    "upscale": ("upscale_video",),
    "deliver": ("mux_audio",),
    "report": ("report",),
}

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
settings.load_profile("untimed")


class Workshop:
    """A copy of the workflow with trivial steps, a folder with media, and a command line to run it with."""

    def __init__(self, folder: Path) -> None:
        self.root, self.media, self.results = folder / "repo", folder / "my media", folder / "out"
        self.media.mkdir()
        self.root.mkdir()
        for name in ("Snakefile", "workflow", "rules", "config", "slurm", "environment.yml"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, self.root / name)
        (self.root / "linker").mkdir()
        for path in (ROOT / "linker").glob("*.py"):
            shutil.copy(path, self.root / "linker")
        (self.root / "linker" / "train").mkdir()
        for name in ("__init__", "presets"):  # of the training, all that the command line and the rules themselves load
            shutil.copy(ROOT / "linker" / "train" / f"{name}.py", self.root / "linker" / "train")
        shutil.copy(ROOT / "tests" / "trivial.py", self.root / "linker" / "trivial.py")
        for module, names in TRIVIAL.items():
            (self.root / "linker" / f"{module}.py").write_text(f"from linker.trivial import {', '.join(names)}\n")

    def file(self, name: str, text: str = "good") -> Path:
        """A medium of the trivial steps: text that begins with 'bad' is refused."""
        (self.media / name).write_text(text)
        return self.media / name

    def manifest(self, *lines: str, header: str = "clip,portrait,audio,scale_mouth") -> Path:
        path = self.media / "jobs.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    def words(self, *words: object) -> list[str]:
        return [sys.executable, "-P", "-m", "linker.cli", *map(str, words)]

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), **more}

    def call(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a verb from an unrelated folder."""
        return subprocess.run(
            self.words(*words),
            cwd=self.media,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, manifest: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return self.call("run", manifest, "--results", self.results, "--cores", 4, *words, **more)

    def made(self) -> list[str]:
        """The clips that generation made, in order, again for every time."""
        return [clip for path in self.results.glob("shards/*/trace") for clip in path.read_text().split()]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """A manifest from its text, beside a portrait p.png and an audio a.wav that hold something."""
    (tmp_path / "p.png").write_bytes(b"portrait")
    (tmp_path / "a.wav").write_bytes(b"audio")

    def write(text: str | bytes, name: str = "jobs.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Cluster]:
    """One real SLURM for all tests; without the packages the tests are skipped, but not on a build machine."""
    lacking = missing()
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(f"no SLURM here: {lacking}")
    assert not lacking, f"a build machine needs SLURM: {lacking}"
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(one_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with an empty queue, before and after."""
    one_cluster.clear()
    yield one_cluster
    one_cluster.clear()


@pytest.fixture
def accounting() -> Iterator[Cluster]:
    """A SLURM of its own that keeps accounts; without the packages the test is skipped, but not on a build machine."""
    lacking = missing() or missing(accounting=True)
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(f"no accounting of SLURM here: {lacking}")
    assert not lacking, f"a build machine needs SLURM with accounting: {lacking}"
    cluster = Cluster(accounting=True)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def write_shard(folder: Path) -> None:
    """A shard of four rows, a to d, with files of one word."""
    for name in ("face", "masks", "driver"):
        (folder / name).write_text(name)
    for name in ("crop", "loudness"):
        write_json(folder / name, {"refusal": None, "duration_s": 1.0})
    files = {name: name for name in ("face", "masks", "driver", "crop", "loudness")}
    row = {**files, "scales": [1, 1, 1], "ranges": [1, 1, 1], "preset": "draft"}
    rows = [{"clip": clip, "seed": number, **row} for number, clip in enumerate("abcd")]
    write_json(folder / "shards" / "s000.json", {"rows": rows})
