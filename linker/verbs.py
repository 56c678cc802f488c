"""What people type: demo, test, plan, run, status, retry, curate, train, weights, bench, verify; their exit codes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from linker import leases, lock
from linker.checkpoint import check_checkpoint, check_folder
from linker.config import MINI_DIR, ROOT_DIR, GenerateSettings
from linker.errors import DIVERGED, Diverged, EnvironmentError, ManifestError, SettingsError
from linker.footage import read_footage, refusals
from linker.manifest import is_whole_file, read_manifest
from linker.needs import check_needs
from linker.plan import make_plan, media_faults, to_json, to_text
from linker.process import resolved
from linker.records import Manifest, Row
from linker.run import ENDED, Order, find_profile, order, run_curation, run_training, run_workflow, trained_card
from linker.status import HELD, RowState, counts, error_in, read_states, table, told_left_over
from linker.train.presets import TRAIN_PRESETS, refuse_useless_training

DEMO = ROOT_DIR / "workflow" / "resources" / "demo" / "manifest.csv"
# On up to four cores, a file in one process: its tests share networks, or a cluster.
ALL_TESTS = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile", str(ROOT_DIR / "tests")]
Arguments = Callable[[argparse.ArgumentParser], None]
Verb = Callable[[argparse.Namespace], int]


def demo(options: argparse.Namespace) -> int:
    """Dub the demo manifest: a few portraits, several languages."""
    return run(argparse.Namespace(**{**vars(options), "manifest": DEMO}))


def test(options: argparse.Namespace) -> int:
    """Run the tests; further words go to pytest."""
    words = [sys.executable, "-m", "pytest", *(options.words or ALL_TESTS)]
    return subprocess.run(words, cwd=ROOT_DIR, check=False).returncode


def plan(options: argparse.Namespace) -> int:
    """Show rows, faults, shared preparations and what would run; nothing is started. 2 when there are faults."""
    todo, manifest = _order(options), read_manifest(options.manifest)
    check_checkpoint(todo.settings.generate, {row.preset for row in manifest.rows})
    check_needs(todo.settings)
    made = make_plan(todo, manifest)
    print(json.dumps(to_json(made), indent=1, ensure_ascii=False) if options.json else to_text(made, todo.results))
    return ManifestError.exit_code if made.faults else 0


def run(options: argparse.Namespace) -> int:
    """Dub a manifest: good rows are delivered, bad ones named; 4 when there are bad ones. Run again to continue."""
    todo = _order(options)
    manifest = read_manifest(options.manifest)
    _refuse_useless(manifest)
    check_checkpoint(todo.settings.generate, {row.preset for row in manifest.rows})
    check_needs(todo.settings)
    launch = resolved(todo.settings.launch)
    if todo.settings.launch.cluster == "slurm" != launch.cluster:
        print(f"no sbatch here: this machine generates, {launch.workers} worker(s)", file=sys.stderr)
    with lock.held(todo.results):
        faults = [*manifest.faults, *media_faults(manifest, todo.settings, todo.results)]
        for fault in sorted(faults, key=lambda fault: fault.line):
            print(fault, file=sys.stderr)
        began = time.monotonic()
        code = run_workflow(todo, len(manifest.rows))
        if code or not _is_told(todo):
            _write_report(todo)
        return _conclude(todo, read_states(todo.results, manifest), code, time.monotonic() - began)


def _refuse_useless(manifest: Manifest) -> None:
    """A misnamed column would silently dub every row differently from what was meant; no good row leaves no work."""
    header = [fault for fault in manifest.faults if is_whole_file(fault)]
    if header or not manifest.rows:
        for fault in header or manifest.faults:
            print(fault, file=sys.stderr)
        what = "its header is wrong" if header else "every row has a fault"
        raise ManifestError(f"{manifest.path}: {what}; correct the lines above and run again")


def _is_told(todo: Order) -> bool:
    """True when the report is newer than all that it tells: then a run that had nothing to do touches nothing."""
    report = todo.results / "status.tsv"
    names = ("videos/*.json", "shards/*/ledger.json", "portraits/*/crop.json", "audio/*/loudness.json")
    told = [todo.manifest, *(path for name in names for path in todo.results.glob(name))]
    return report.is_file() and all(path.stat().st_mtime < report.stat().st_mtime for path in told)


def _write_report(todo: Order) -> None:
    words = ["report", "--results", str(todo.results), "--status", str(todo.results / "status.tsv")]
    words += ["--page", str(todo.results / "report" / "index.html"), "--manifest", str(todo.manifest)]
    words += ["--log", str(todo.results / "logs" / "report" / "report.log")]
    subprocess.run([sys.executable, "-P", "-m", "linker.cli", *words], check=False)


def _conclude(todo: Order, states: list[RowState], code: int, seconds: float) -> int:
    """The last words of a run, one line a bad row, and the exit code."""
    bad = [state for state in states if state.state != "done"]
    for state in bad:
        print(state, file=sys.stderr)
    print(f"{counts(states)} in {seconds:.0f} s")
    if told := told_left_over(todo.results):
        print(told)
    if code == ENDED:
        print("ended on request; run again to continue")
    print(f"videos: {todo.results / 'videos'}\nreport: {todo.results / 'report' / 'index.html'}")
    unfinished = [state for state in states if state.state in ("failed", "waiting") and state.kind != HELD]
    if unfinished or code == ENDED or (code and not bad):
        return 1 if any("bug: " in state.reason for state in unfinished) else EnvironmentError.exit_code
    return 4 if bad else 0


def status(options: argparse.Namespace) -> int:
    """Tell row by row where a manifest is, from the results folder alone."""
    manifest = read_manifest(options.manifest)
    while True:
        states = read_states(Path(options.results), manifest)
        if options.json:
            print(json.dumps([state.to_json() for state in states], indent=1, ensure_ascii=False))
        else:
            told = "\n".join(filter(None, [table(states), told_left_over(Path(options.results))]))
            print(("\033[2J\033[H" if options.watch and sys.stdout.isatty() else "") + told, flush=True)
        if not options.watch or not any(state.state == "waiting" for state in states):
            return 0
        time.sleep(options.watch)


def retry(options: argparse.Namespace) -> int:
    """Forget refusals, all or those of some kinds or clips, and run again."""
    manifest = read_manifest(options.manifest)
    results = Path(options.results)
    rows = {row.clip: row for row in manifest.rows}
    with lock.held(results):
        chosen = [state for state in read_states(results, manifest) if _is_chosen(state, options)]
        for state in chosen:
            forget(results, rows[state.clip])
    print(f"retrying {len(chosen)} refused rows")
    return run(options)


def _is_chosen(state: RowState, options: argparse.Namespace) -> bool:
    by_name = not options.clip or state.clip in options.clip
    return state.state == "refused" and by_name and (not options.kind or state.kind in options.kind)


def refusal_of(sidecar: Path) -> dict[str, str] | None:
    return leases.read_small(sidecar).get("refusal")


def forget(results: Path, row: Row) -> None:
    """Delete the sidecars that refuse a row, and its shard's ledger, which is gathered again from the rows' entries:
    its steps then run again, and its shard skips the other rows."""
    sidecars = [
        results / "portraits" / row.portrait_id / "crop.json",
        results / "audio" / row.audio_id / "loudness.json",
        results / "videos" / f"{row.clip}.json",
    ]
    for path in sidecars:
        if refusal_of(path):
            path.unlink()
    for home in results.glob(f"shards/*/rows/{row.clip}"):
        if refusal_of(home / leases.ENTRY):
            (home / leases.ENTRY).unlink()
            (home / leases.TRIES).unlink(missing_ok=True)
            (home.parent.parent / "ledger.json").unlink(missing_ok=True)


def train(options: argparse.Namespace) -> int:
    """Train a model, mini from data drawn and spoken here or base from your footage: hours to days; run again to
    continue. 5 when it diverged."""
    chosen = [*(options.set or []), *([f"train.preset={options.preset}"] if options.preset else [])]
    todo = _order(argparse.Namespace(**{**vars(options), "manifest": DEMO, "set": chosen}))
    refuse_useless_training(todo.settings.train)
    began = time.time()
    with lock.held(todo.results):
        code = run_training(todo)
    card = todo.results / trained_card(todo.settings)
    print(f"weights: {card.parent}" if not code else f"not finished; see {todo.results / 'logs'}")
    return _unfinished_code(todo.results / "logs", began) if code else 0


def _unfinished_code(logs: Path, began: float) -> int:
    """What a training that is not finished exits with, by the last words of the steps that were called since."""
    words = [error_in(log) for log in logs.glob("train_*/*.log") if log.stat().st_mtime >= began]
    return Diverged.exit_code if any(said.startswith(DIVERGED) for said in words) else EnvironmentError.exit_code


def curate(options: argparse.Namespace) -> int:
    """Turn a folder or list of videos into clean, synchronous segments with a verdict of every stage."""
    todo = _order(argparse.Namespace(**{**vars(options), "manifest": DEMO}))
    footage = read_footage(options.footage)
    for fault in footage.faults:
        print(fault, file=sys.stderr)
    for path in footage.passed:
        print(f"{path}: is a link to a folder, which is not followed; name its own folder", file=sys.stderr)
    if not footage.videos:
        raise ManifestError(f"{options.footage}: every line has a fault; correct the lines above and run again")
    with lock.held(todo.results):
        code = run_curation(replace(todo, footage=Path(os.path.abspath(options.footage))))
    if code:
        print(f"not finished; see {todo.results / 'logs'}, and run again to continue")
        return EnvironmentError.exit_code
    print((todo.results / "funnel.csv").read_text(encoding="utf-8"), end="")
    if refused := refusals(todo.results, footage.videos):
        kinds = ", ".join(f"{count} {kind}" for kind, count in refused.most_common())
        share = f"{refused.total()} of {len(footage.videos)} videos"
        print(f"refused: {share} ({kinds}); reasons: verdicts.jsonl, logs: {todo.results / 'logs' / 'measure_video'}")
    print(f"verdicts: {todo.results / 'verdicts.jsonl'}\ndata set: {todo.results / 'dataset' / 'README.md'}")
    return 4 if footage.faults else 0


def weights(options: argparse.Namespace) -> int:
    """Check a checkpoint folder and tell what is in it (without one: the embedded weights), or start one."""
    from linker.engine import load_engine, try_speech
    from linker.model.lingualinker import describe

    if options.words[:2] == ["init", "base"] and len(options.words) == 3:
        return _start_base(Path(options.words[2]), options.sources or [])
    if len(options.words) > 1:
        raise SettingsError("weights: needed a folder, or `init base FOLDER --from ...`")
    folder = Path(options.words[0]) if options.words else MINI_DIR
    check_folder(folder)
    told = describe(folder)
    try_speech(load_engine(GenerateSettings(weights=str(folder)), tiny=(folder / "tiny").is_dir()))
    print(json.dumps(told, indent=1))
    return 0


def _start_base(folder: Path, words: list[str]) -> int:
    from linker.train.sources import find_sources
    from linker.train.start import refuse_occupied, start_base

    refuse_occupied(folder)
    print(json.dumps(start_base(find_sources(words), folder), indent=1))
    print(f"the names behind these numbers: {folder / 'sources.json'}", file=sys.stderr)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Measure this machine; without names, everything."""
    from linker.bench import main

    main(options.names, options.json)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare deliverables and their inputs with what was recorded when they were made; make one again and compare."""
    from linker.verify import verify_folder

    profile = find_profile(options.profile) if options.profile else None
    return verify_folder(Path(os.path.abspath(options.folder)), options.clip, profile)


def _order(options: argparse.Namespace) -> Order:
    return order(options.manifest, options.results, options.cores, options.profile, options.settings, options.set or [])


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", type=Path, help="a .csv, .tsv or .jsonl file")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder that is written (results)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", type=int, help="processor cores to use (all)")
    parser.add_argument("--profile", default="", help="a name such as slurm, or a folder with a Snakemake profile")
    parser.add_argument("--settings", type=Path, help="a YAML file of settings; config/README.md lists them")
    parser.add_argument("--set", action="append", metavar="GROUP.KEY=VALUE", help="one setting; may be repeated")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    _add_how(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results", "demo"), help="(results/demo)")
    _add_how(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=TRAIN_PRESETS, default="", help="mini (the default), or base")
    parser.add_argument("--results", type=Path, default=Path("results"), help="(results)")
    _add_how(parser)


def _add_curate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("footage", type=Path, help="a folder of videos, or a .csv, .tsv or .jsonl list")
    parser.add_argument("--results", type=Path, default=Path("results", "curation"), help="(results/curation)")
    _add_how(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_status(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="again and again (5)")


def _add_retry(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--kind", nargs="+", help="kinds of refusal, as status shows them")
    parser.add_argument("--clip", nargs="+", help="clips")


def _add_test(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER, help="for pytest")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="FOLDER", help="a checkpoint; or: init base FOLDER")
    parser.add_argument(
        "--from", dest="sources", nargs="+", metavar="SOURCE",
        help="a folder with unet/ motion/ codec/ speech/, or unet=FOLDER, motion=owner/name@revision#sha256, ...",
    )  # fmt: skip


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="benchmarks (all but overhead_1000 and overhead_first_100_of_10000)")
    parser.add_argument("--json", type=Path, help="write the figures there")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a results folder")
    parser.add_argument("--clip", default="", help="the clip that is made again (the shortest)")
    parser.add_argument("--profile", default="", help="where it is made, such as slurm (here)")


VERBS: dict[str, tuple[Arguments, Verb]] = {
    "demo": (_add_demo, demo),
    "test": (_add_test, test),
    "plan": (_add_plan, plan),
    "run": (_add_run, run),
    "status": (_add_status, status),
    "retry": (_add_retry, retry),
    "curate": (_add_curate, curate),
    "train": (_add_train, train),
    "weights": (_add_weights, weights),
    "bench": (_add_bench, bench),
    "verify": (_add_verify, verify),
}
