"""The command line: verbs for people, one subcommand a step for rules. Here alone errors become exit codes.

A step's options are its function's arguments: paths, words and numbers as they are, a group of settings as one JSON
token. 0 done, 1 a bug, 2 bad settings or manifest, 3 environment, 4 finished with failed rows, 5 a training
diverged, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from linker import process
from linker.errors import SettingsError, as_expected

if TYPE_CHECKING:  # four processes a row start here: each loads what it uses
    from linker.config import Group
    from linker.rows import Queue

STEPS = {
    "normalize_audio": "linker.audio",
    "detect_language": "linker.language",
    "crop_face": "linker.face",
    "extract_masks": "linker.face",
    "list_shard": "linker.shards",
    "generate": "linker.generate",
    "collect": "linker.collect",
    "stabilize_background": "linker.background",
    "upscale_video": "linker.upscale",
    "mux_audio": "linker.deliver",
    "report": "linker.report",
    "draw_videos": "linker.train.steps",
    "train_codec": "linker.train.steps",
    "train_speech": "linker.train.steps",
    "encode_videos": "linker.train.steps",
    "encode_footage": "linker.train.steps",
    "train_stage1": "linker.train.steps",
    "train_stage2": "linker.train.steps",
    "train_joint": "linker.train.steps",
    "train_critic": "linker.train.steps",
    "list_footage": "linker.curate.steps",
    "measure_video": "linker.curate.measure",
    "measure_syncnet": "linker.curate.syncnet",
    "hear_language": "linker.curate.language",
    "judge_video": "linker.curate.judge",
    "cut_segments": "linker.curate.segments",
    "funnel": "linker.curate.funnel",
    "measure_check": "linker.curate.check",
    "check_curation": "linker.curate.check",
}
SPREAD = ("encode_footage", "train_stage1", "train_stage2")  # by one process a GPU
LAUNCHED = ("generate", "train_codec", "train_speech", "encode_videos", "train_joint", *SPREAD)  # see `launch`

PLAIN = (Path, str, int, float)  # kinds of a step's arguments; the others are groups of settings, and lists

Step = Callable[..., None]


def main(words: list[str] | None = None) -> int:
    """Run one verb or step; the exit code."""
    words = sys.argv[1:] if words is None else words
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve a shared machine
    try:
        if words and words[0] in STEPS:
            return _run_step(words[0], words[1:])
        options = verb_parser().parse_args(words)
        return int(options.verb(options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(words[0], error, sys.stderr, "")


def verb_parser() -> argparse.ArgumentParser:
    """The verbs; the steps are only named, as people seldom type them."""
    from linker.verbs import VERBS

    parser = argparse.ArgumentParser(
        "python3 -m linker",
        description="Dub portraits in bulk: one row of a manifest, one clip.",
        epilog=f"Steps, as the rules call them (each has --help): {' '.join(STEPS)}",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (add_arguments, verb) in VERBS.items():
        told = inspect.getdoc(verb) or ""
        chosen = verbs.add_parser(name, help=told.splitlines()[0], description=told)
        add_arguments(chosen)
        chosen.set_defaults(verb=verb)
    return parser


def _run_step(name: str, words: list[str]) -> int:
    log, words = _taken(words, "--log")
    with process.attended(Path(log) if log else None) as outside:
        try:
            _execute(name, words, log)
        except Exception as error:
            return _fail(name, error, outside, log)
    return 0


def _fail(name: str, error: Exception, outside: TextIO, log: str) -> int:
    """The traceback into the log, one line to people and to the log; the exit code."""
    expected = as_expected(error)
    told = f"error: {expected}" if expected else f"bug: {name}: {type(error).__name__}: {error}"
    if log or not expected or os.environ.get("LINKER_DEBUG") == "1":
        traceback.print_exc()
    print(told, file=sys.stderr)
    if log:
        _tell(outside, told if expected else f"{told} ({log})")
    return expected.exit_code if expected else 1


def _tell(outside: TextIO, words: str) -> None:
    """One line to whoever started this step, if they still listen; others may be in the middle of a line."""
    with suppress(OSError):
        os.write(outside.fileno(), f"\n{words}\n".encode())


def _execute(name: str, words: list[str], log: str) -> None:
    """Do a step here, or where the launch settings say; then the step's packages are not loaded here."""
    if name not in LAUNCHED:
        return perform(name, words)
    from linker.config import LaunchSettings

    token = os.environ.get("LINKER_LAUNCH", "{}")
    settings = process.resolved(group_from_token(LaunchSettings, token, "LINKER_LAUNCH"))
    folder = Path(log).with_suffix("") if log else Path("logs", name, "by-hand")
    if settings.cluster == "debug":
        _call_off(name, words, folder)
        return perform(name, words)
    from linker.crew import launch_job, launch_shard

    task = partial(importlib.import_module("linker.cli").perform, name, words)  # never __main__'s: workers import it
    if name == "generate":
        return launch_shard(task, settings, folder, _shard_of(words))
    return launch_job(task, settings, folder, spread=name in SPREAD)


def _call_off(name: str, words: list[str], folder: Path) -> None:
    """An earlier start, elsewhere or with other settings, may have left jobs that do this very step."""
    if (folder / "job.json").is_file():
        from linker.crew import call_off
        from linker.shift import OneJob, ShardShift

        call_off(folder, ShardShift(_shard_of(words)) if name == "generate" else OneJob(folder))


def perform(name: str, words: list[str]) -> None:
    """Do a step in this process."""
    function: Step = getattr(importlib.import_module(STEPS[name]), name)
    function(**step_arguments(name, function, words))


def _shard_of(words: list[str]) -> Queue:
    """The rows that `generate` is called for."""
    from linker.config import GenerateSettings
    from linker.rows import Queue

    told = dict(zip(words[::2], words[1::2], strict=True))
    settings = group_from_token(GenerateSettings, told["--settings"], "--settings")
    return Queue(Path(told["--shard"]), Path(told["--ledger"]), settings)


def _taken(words: list[str], option: str) -> tuple[str, list[str]]:
    """The value of an option that every step has, and the other words."""
    if option not in words[:-1]:
        return "", words
    at = words.index(option)
    return words[at + 1], words[:at] + words[at + 2 :]


class StepParser(argparse.ArgumentParser):
    """A step is called by a rule: a wrong call is told like any other wrong setting."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{self.prog.split()[-1]}: {message}; python3 -m linker STEP --help tells its options")


def step_arguments(name: str, function: Step, words: list[str]) -> dict[str, Any]:
    """The keyword arguments of a step, read from its command line. Raises SettingsError for a group's token."""
    hints = typing.get_type_hints(function)
    values = vars(step_parser(name, function).parse_args(words))
    for key, value in values.items():
        kind = _plain(hints[key])
        if isinstance(kind, type) and kind not in PLAIN and value is not None:
            values[key] = group_from_token(kind, value, f"--{key.replace('_', '-')}")
    return values


def step_parser(name: str, function: Step) -> argparse.ArgumentParser:
    """A parser with one option an argument of the function."""
    parser = StepParser(f"python3 -m linker {name}", description=inspect.getdoc(function))
    hints = typing.get_type_hints(function)
    for key, parameter in inspect.signature(function).parameters.items():
        optional = parameter.default is not inspect.Parameter.empty
        option = parser.add_argument(
            f"--{key.replace('_', '-')}",
            dest=key,
            required=not optional,
            default=parameter.default if optional else None,
        )
        option.type, option.nargs = _reader(hints[key])
    return parser


def _reader(hint: Any) -> tuple[Callable[[str], Any], str | None]:
    """How one word is read, and how many words there may be."""
    kind = _plain(hint)
    if typing.get_origin(kind) is list:
        return _reader(typing.get_args(kind)[0])[0], "*"
    return (kind if kind in PLAIN else str), None


def _plain(hint: Any) -> Any:
    """`X` of `X | None`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def group_from_token(kind: type[Group], token: str, where: str) -> Any:
    """A group of settings from its JSON token, checked as in a file. Raises SettingsError."""
    from linker.config import Settings, read_group

    name = next((name for name, field in Settings.model_fields.items() if field.annotation is kind), "")
    if not name:
        raise SettingsError(f"{where}: {kind.__name__} is no group of the settings")
    try:
        values = json.loads(token)
    except ValueError as error:
        raise SettingsError(f"{where}: not a JSON token ({error}), found {token[:80]!r}") from None
    return read_group(name, values, where)


if __name__ == "__main__":
    sys.exit(main())
