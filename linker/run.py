"""Runs of the workflow: Snakemake as a child that reads the merged settings, and never outlives the command."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from linker.config import ROOT_DIR, Settings
from linker.errors import EnvironmentError, SettingsError
from linker.heartbeat import DRAIN
from linker.layers import anchored, layered, settings_of
from linker.process import die_with_parent
from linker.records import atomic
from linker.tidy import clear_up

PROFILES = (ROOT_DIR / "workflow" / "profiles", ROOT_DIR)
PROGRESS = re.compile(r"(\d+) of (\d+) steps \((\d+)%\) done")
COMPLAINT = re.compile(r"\w+(Error|Exception) in rule ")  # Snakemake's own, with its words on the next line
FOLLOWED = ("generate", "draw_videos", "encode_*", "train_*")  # steps that people wait for
PLAN_ROWS = 2500  # rows that one process plans
RUN_ROWS = 5000  # rows of one graph: its memory, and the time until its first job, grow with them
WHOLE = "0/1"  # the one part of what is not many
PROGRESS_STEP = 5  # percent between two lines
ENDED = 128 + signal.SIGTERM  # the exit code of a run that was asked to end: more may be left than is seen
Child = subprocess.Popen[str]
INTERRUPT_S = 15  # how long Snakemake may take to clean up after Ctrl-C


@dataclass(frozen=True)
class Order:
    """What is to be run, and how: all paths absolute."""

    manifest: Path
    results: Path
    settings: Settings
    profile: Path | None = None
    cores: int | None = None
    footage: Path | None = None


@dataclass(frozen=True)
class Planned:
    """What a run would do: jobs by rule, and each job in words with its reason."""

    counts: dict[str, int]
    jobs: list[tuple[str, str]]


def order(
    manifest: Path, results: Path, cores: int | None, profile: str, file: Path | None, assignments: list[str]
) -> Order:
    """Check everything that the command line says before anything starts. Raises SettingsError."""
    if cores is not None and cores < 1:
        raise SettingsError(f"--cores {cores}: needed a whole number from 1")
    folder = find_profile(profile) if profile else None
    settings = anchored(settings_of(layered(folder, file, assignments), "settings"), Path.cwd())
    return Order(Path(os.path.abspath(manifest)), Path(os.path.abspath(results)), settings, folder, cores)


def find_profile(name: str) -> Path:
    """A profile's folder, by path or by name. Raises SettingsError."""
    for folder in (Path(name), *(parent / name for parent in PROFILES)):
        if any((folder / file).is_file() for file in ("profile.yaml", "config.yaml")):
            return Path(os.path.abspath(folder))
    known = sorted(path.parent.name for parent in PROFILES for path in parent.glob("*/profile.yaml"))
    raise SettingsError(
        f"--profile {name}: found no such profile; there are {', '.join(known)}, or give a folder's path"
    )


def run_workflow(todo: Order, rows: int) -> int:
    """Generate, and finish new rows as their shards are done; then look at the rows that were there before.

    Two passes, because one graph cannot tell a shard's changed rows from its others; many `rows` in parts, one after
    the other, because a graph holds all its jobs in memory. The first exit code that is not 0; ENDED after SIGTERM.
    """
    todo.results.mkdir(parents=True, exist_ok=True)
    clear_up(todo.results)
    settings = write_settings(todo, todo.results / "settings.yaml")
    (todo.results / DRAIN).unlink(missing_ok=True)
    codes: list[int] = []
    for kind, part in _passes(todo.results, rows, RUN_ROWS):
        if not (todo.results / DRAIN).exists():
            _tell_part(kind, part)
            codes.append(_run_pass(todo, settings, kind, part))
    if (todo.results / DRAIN).exists():
        (todo.results / DRAIN).unlink()
        return ENDED
    return next((code for code in codes if code), 0)


def _passes(results: Path, rows: int, at_once: int) -> list[tuple[str, str]]:
    """Which rows are looked at, and which part of them ('0/3'), one after the other. Where no row has a clip yet, there
    is nothing settled to look at."""
    kinds = ("new", "settled") if any(results.glob("clips/*/generated.mkv")) else ("new",)
    parts = -(-rows // at_once)
    return [(kind, f"{number}/{parts}") for kind in kinds for number in range(parts)]


def _tell_part(kind: str, part: str) -> None:
    number, parts = map(int, part.split("/"))
    if parts > 1:
        print(f"part {number + 1} of {parts} ({kind} rows)", file=sys.stderr)


def run_training(todo: Order) -> int:
    """Make the training rules' last file; Snakemake's exit code."""
    todo.results.mkdir(parents=True, exist_ok=True)
    settings = write_settings(todo, todo.results / "settings.yaml")
    (todo.results / DRAIN).unlink(missing_ok=True)
    code = _run_pass(todo, settings, "all", WHOLE, trained_card(todo.settings))
    (todo.results / DRAIN).unlink(missing_ok=True)
    return code


def trained_card(settings: Settings) -> str:
    """The last file of rules/train.smk, below the results."""
    return f"training/{settings.train.preset}/lingualinker.json"


def run_curation(todo: Order) -> int:
    """Make funnel.csv and the data set from `todo.footage`; Snakemake's exit code."""
    todo.results.mkdir(parents=True, exist_ok=True)
    clear_up(todo.results)
    settings = write_settings(todo, todo.results / "settings.yaml")
    return _run_pass(todo, settings, "all", WHOLE, "funnel.csv")


def _run_pass(todo: Order, settings: Path, rows: str, part: str, *targets: str) -> int:
    """Run Snakemake to its end; its exit code. Ctrl-C is passed on once, and everything it started ends with it."""
    began = time.time()
    words = [*_command(todo, todo.results, settings, rows, part), *targets]
    child = subprocess.Popen(
        [*words, "--quiet", "rules", "host", "reason", "--no-hooks"],
        cwd=ROOT_DIR,
        env=_environment(todo.results),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    with _followed(todo.results / "logs", began), _draining(child, todo.results), _condensed(child):
        try:
            return child.wait()
        except KeyboardInterrupt:
            _interrupt(child)
            raise


def plan_workflow(todo: Order, folder: Path, rows: int) -> Planned:
    """What Snakemake would do in `folder`; many rows in parts at the same time. Raises EnvironmentError."""
    settings = write_settings(todo, folder / ".linker" / "plan.yaml")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        asked = _passes(folder, rows, PLAN_ROWS)
        found = list(pool.map(lambda words: _dry_run(todo, folder, settings, *words), asked))
    jobs = {what: why for part in found for what, why in part}
    return Planned(dict(Counter(what.split()[0] for what in jobs)), list(jobs.items()))


def _dry_run(todo: Order, folder: Path, settings: Path, rows: str, part: str) -> list[tuple[str, str]]:
    words = [*_command(todo, folder, settings, rows, part), "--dry-run"]
    done = subprocess.run(words, cwd=ROOT_DIR, env=_environment(folder), capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentError(f"the plan failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return read_plan(done.stdout + done.stderr)


def read_plan(text: str) -> list[tuple[str, str]]:
    """Each job ('crop_face p.1234abcd') and its reason out of Snakemake's words for a dry run."""
    return re.findall(r"^Job \d+: (.*)\nReason: (.*)$", text, re.MULTILINE)


def write_settings(todo: Order, path: Path) -> Path:
    """The merged settings that this run uses, beside its results."""
    values = {"manifest": str(todo.manifest), "results": str(todo.results), **todo.settings.model_dump(mode="json")}
    values |= {"footage": str(todo.footage)} if todo.footage else {}
    text = "# The settings of the last run, merged from all layers: a record.\n"
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic(path) as temporary:
            temporary.write_bytes(text.encode())
    return path


def _command(todo: Order, folder: Path, settings: Path, rows: str, part: str) -> list[str]:
    words = [sys.executable, "-P", "-m", "linker.snake", "--snakefile", str(ROOT_DIR / "Snakefile")]
    words += ["--directory", str(folder), "--configfile", str(settings), "--nolock"]
    words += ["--config", f"rows={rows}", f"part={part}"]
    words += ["--runtime-source-cache-path", str(folder / ".snakemake" / "source-cache" / _rules_digest())]
    words += ["--workflow-profile", "none"]  # its keys would win over those of --profile; of several, the last one's do
    for profile in (ROOT_DIR / "workflow" / "profiles" / "default", todo.profile):
        words += ["--profile", str(profile)] if profile else []
    return words + (["--cores", str(todo.cores)] if todo.cores else [])


def _rules_digest() -> str:
    """Changes when the rules do: Snakemake never renews its copies of them, and would go on with an older release's."""
    names = ("Snakefile", "environment.yml", "rules/*", "workflow/*.smk", "workflow/report/*")
    files = sorted(path for name in names for path in ROOT_DIR.glob(name) if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _environment(folder: Path) -> dict[str, str]:
    """Libraries that keep caches keep them below the results folder."""
    cache = str(folder / ".linker" / "cache")
    return {**os.environ, "PYTHONPATH": str(ROOT_DIR), "MPLCONFIGDIR": cache, "NUMBA_CACHE_DIR": cache}


def _end_with_parent() -> None:
    die_with_parent(signal.SIGKILL)


def _interrupt(child: Child) -> None:
    """One interrupt to all that runs; what has not ended after a while is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("interrupted: ending the running jobs", file=sys.stderr)
    os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(INTERRUPT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def _draining(child: Child, results: Path) -> Iterator[None]:
    """SIGTERM lets running jobs, and the rows that are being generated, finish and starts no more."""

    def drain(_number: int, _frame: object) -> None:
        print("ending after what is being made", file=sys.stderr, flush=True)
        (results / DRAIN).touch()
        child.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _condensed(child: Child) -> Iterator[None]:
    """Show progress and errors out of Snakemake's words; all of them when it fails without having run a step."""
    thread = threading.Thread(target=_condense, args=(child,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(5)


def _condense(child: Child) -> None:
    silent: list[str] | None = []
    shown, complains = 0, False
    for said in child.stdout or ():
        line, complains = f"error: {said}" if complains else said, bool(COMPLAINT.match(said))
        progress = PROGRESS.match(line)
        if progress and int(progress[3]) >= shown + PROGRESS_STEP:
            shown = int(progress[3])
            print(f"{shown:>3} %  ({progress[1]} of {progress[2]} steps)", file=sys.stderr)
        if progress or line.startswith(("error: ", "bug: ")):
            silent = None
            print("" if progress else line, end="", file=sys.stderr, flush=True)
        if silent is not None:
            silent.append(line)
    if child.wait() > 0 and silent:
        print("".join(silent[-20:]), end="", file=sys.stderr)


@contextmanager
def _followed(folder: Path, began: float) -> Iterator[None]:
    """Show what generation says while it works: it is the one step people wait for."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, began, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def _follow(folder: Path, began: float, stop: threading.Event) -> None:
    shown: dict[Path, int] = {}
    while True:
        last = stop.wait(1.0)
        for path in sorted(path for name in FOLLOWED for path in folder.glob(f"{name}/*.log")):
            if path.stat().st_mtime >= began:
                shown[path] = _show_new(path, shown.get(path, 0))
        if last:
            return


def _show_new(path: Path, shown: int) -> int:
    """Print the whole lines of a log past byte `shown`; the byte up to which it is shown now."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(shown if size >= shown else 0)
        new = stream.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", "replace").splitlines():
        print(f"[{path.stem}] {line}", file=sys.stderr)
    return (shown if size >= shown else 0) + len(whole)
