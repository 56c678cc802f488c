"""The command line: options are read from a step's signature, and every error has its exit code and one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.cli import parse_args
from snakemake.utils import available_cpu_count

from linker import cli, run, verbs
from linker.config import FaceSettings, Group, LimitSettings, token
from linker.errors import SettingsError
from linker.run import Order

ROOT = Path(__file__).resolve().parent.parent


def step(
    source: Path,
    many: list[Path],
    choice: str,
    count: int,
    settings: FaceSettings,
    target: Path | None = None,
    ratio: float = 0.5,
) -> None:
    """A step with every kind of argument."""


def test_options_come_from_the_signature() -> None:
    tokens = ["--settings", token(FaceSettings(min_face_px=50))]
    words = ["--source", "a b.png", "--many", "x", "y", "--choice=", "--count", "3", *tokens]
    assert cli.step_arguments("step", step, words) == {
        "source": Path("a b.png"),
        "many": [Path("x"), Path("y")],
        "choice": "",
        "count": 3,
        "settings": FaceSettings(min_face_px=50),
        "target": None,
        "ratio": 0.5,
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required"),
        (["--source", "a", "--many", "x", "--choice=", "--count", "three", "--settings", "{}"], "invalid int"),
        (["--source", "a", "--many", "x", "--choice=", "--count", "3", "--settings", "{"], "not a JSON token"),
        (["--source", "a", "--many", "x", "--choice=", "--count", "3", "--settings", '{"x":1}'], "face.x"),
        (["--source", "a", "--many", "x", "--choice=", "--count", "3", "--settings", "{}", "--extra", "1"], "extra"),
    ],
)
def test_a_wrong_call_of_a_step_is_a_wrong_setting(words: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        cli.step_arguments("step", step, words)


def test_a_group_that_is_no_group_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="no group"):
        cli.group_from_token(Group, "{}", "--settings")
    assert cli.group_from_token(LimitSettings, "{}", "--limits") == LimitSettings()


FAILING = """
import sys
from linker import cli
from linker.errors import *

def collect(clip: str) -> None:
    print("working on", clip, file=sys.stderr)
    ERROR

if __name__ == "__main__":
    cli.STEPS["collect"] = "failing"
    sys.exit(cli.main(sys.argv[1:]))
"""


def call_failing(folder: Path, error: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a step that ends with `error` as rules run steps: as a process of its own."""
    (folder / "failing.py").write_text(FAILING.replace("ERROR", error))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, "-m", "failing", "collect", "--clip", "r", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("pass", 0, ""),
        ("raise EnvironmentError('no tool')", 3, "error: no tool"),
        ("raise RowsFailed('r: no face')", 4, "error: r: no face"),
        (
            "raise OSError(28, 'No space left on device', 'out.mkv')",
            3,
            "error: out.mkv: No space left on device; make room",
        ),
        ("1 / 0", 1, "bug: collect: ZeroDivisionError: division by zero"),
    ],
)
def test_a_steps_exit_code_and_one_line(tmp_path: Path, error: str, code: int, line: str) -> None:
    log = tmp_path / "logs" / "r.log"
    done = call_failing(tmp_path, error, "--log", str(log))
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.split("\n")) == (3 if line else 1)
    assert done.stderr.strip().startswith(line)
    written = log.read_text()
    assert written.startswith("working on r")
    assert ("Traceback" in written) == bool(line)
    assert written.strip().splitlines()[-1].startswith(line or "working")


@pytest.mark.parametrize(("error", "code"), [("Diverged('diverged: loss is nan')", 5), ("EnvironmentError('no')", 3)])
def test_a_training_that_diverged_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, code: int
) -> None:
    """Whatever Snakemake makes of the step's; what an earlier run's step said is no matter."""
    log = tmp_path / "out" / "logs" / "train_speech" / "train_speech.log"
    words = ["train", "--results", str(tmp_path / "out")]

    def failing(_: Order) -> int:
        return min(call_failing(tmp_path, f"raise {error}", "--log", str(log)).returncode, 1)

    monkeypatch.setattr(verbs, "run_training", failing)
    assert cli.main(words) == code
    monkeypatch.setattr(verbs, "run_training", lambda _: 1)
    assert cli.main(words) == 3


def test_without_a_log_people_see_no_traceback(tmp_path: Path) -> None:
    done = call_failing(tmp_path, "raise EnvironmentError('no tool')")
    assert (done.returncode, done.stderr.splitlines()) == (3, ["working on r", "error: no tool"])


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["dub"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["run", "none.csv", "--results", "out"],
        ["plan", "none.csv", "--results", "out"],
        ["status", "none.csv"],
        ["run", "none.csv", "--cores", "0"],
        ["run", "none.csv", "--profile", "nowhere"],
        ["run", "none.csv", "--set", "finish.crff=3"],
        ["run", "none.csv", "--settings", "none.yaml"],
    ],
)
def test_wrong_orders_end_with_2_and_write_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_a_wrong_header_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p.png", "a.wav"):
        (tmp_path / name).write_bytes(b"x")
    manifest = tmp_path / "jobs.csv"
    manifest.write_text("clip,portrait,audio,scale_moth\na,p.png,a.wav,2\n")
    assert cli.main(["run", str(manifest), "--results", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "did you mean scale_mouth?" in told
    assert "its header is wrong" in told
    assert not (tmp_path / "out").exists()


def test_the_makefile_mirrors_verbs_that_exist() -> None:
    from linker.verbs import VERBS

    makefile = (ROOT / "Makefile").read_text()
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY"))
    assert set(phony.split()[1:]) <= set(VERBS)


@pytest.mark.parametrize(("name", "cores", "wait"), [("", None, 5), ("slurm", 16, 60)])
def test_a_profile_that_is_named_wins_over_the_default_one(name: str, cores: int | None, wait: int) -> None:
    todo = run.order(Path("rows.csv"), Path("results"), None, name, None, [])
    words = run._command(todo, Path("results"), Path("settings.yaml"), "new", "0/1")
    _, told = parse_args(words[words.index("linker.snake") + 1 :])
    assert told.cores == (cores or available_cpu_count())
    assert (told.latency_wait, told.keep_going, told.resources["gpu"].value) == (wait, True, 1)
