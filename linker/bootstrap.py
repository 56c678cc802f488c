"""The environment: a .venv beside the repository with exactly the pinned packages. Standard library only.

A stamp holds the hash of the lists that were installed, so that a second start installs nothing. An environment that
was left half made has no stamp and is continued. In an active conda environment made from environment.yml, that one is
completed instead; LINKER_NO_VENV=1 uses the interpreter as it is. LINKER_TORCH_INDEX is the package index for torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "workflow" / "requirements"
VENV = ROOT / ".venv"


def start(words: list[str]) -> NoReturn:
    """Prepare the environment that `words` need and become linker.cli in it."""
    try:
        python = prepare(extras="test" in words[:1])
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(3)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the next start continues the installation\n")
        sys.exit(130)
    os.execve(python, [str(python), "-P", "-m", "linker.cli", *words], environment())


class SetupError(Exception):
    """The environment cannot be made; one line for people."""


def environment() -> dict[str, str]:
    """Variables for the program: this folder is importable, and nothing of the user's own packages is."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONNOUSERSITE": "1"}


def prepare(extras: bool) -> Path:
    """The interpreter to use, with all packages (and the tests' extras) installed. Raises SetupError."""
    if os.environ.get("LINKER_NO_VENV") == "1":
        return Path(sys.executable)
    home = Path(sys.prefix) if in_conda(os.environ) else VENV
    python = home / "bin" / "python"
    for name in ("run", "test") if extras else ("run",):
        if read_stamp(home, name) != wanted_stamp(name):
            _make_venv(python)
            _install(python, name)
            stamp_path(home, name).write_text(wanted_stamp(name))
    return python


def in_conda(variables: Mapping[str, str]) -> bool:
    """True in an active conda environment that has this workflow's packages; a bare one is left as it is."""
    conda = variables.get("CONDA_PREFIX", "")
    inside = bool(conda) and Path(sys.prefix).resolve() == Path(conda).resolve()
    return inside and importlib.util.find_spec("snakemake") is not None


def files_of(name: str) -> list[Path]:
    """The lists that decide what is installed: for running, or for the tests on top of it."""
    names = {"run": ("run.txt", "nodeps.txt"), "test": ("test.txt",)}[name]
    return [LISTS / file for file in (*names, "constraints.txt")]


def wanted_stamp(name: str) -> str:
    """A hash of the lists, the interpreter's version and the chosen torch."""
    told = [path.read_bytes() for path in files_of(name)]
    told += [sys.version.encode(), os.environ.get("LINKER_TORCH_INDEX", "").encode()]
    return hashlib.sha256(b"\0".join(told)).hexdigest()


def stamp_path(home: Path, name: str) -> Path:
    """Where an environment says what was installed into it."""
    return home / f"linker-{name}.stamp"


def read_stamp(home: Path, name: str) -> str:
    """The stamp of what is installed; '' when that was never finished."""
    try:
        return stamp_path(home, name).read_text() if (home / "bin" / "python").exists() else ""
    except OSError:
        return ""


def _make_venv(python: Path) -> None:
    version = sys.version_info[:2]
    if python.exists() and _runs(python, f"import pip, sys; sys.exit(sys.version_info[:2] != {tuple(version)})"):
        return
    if importlib.util.find_spec("ensurepip") is None:
        package = f"python{version[0]}.{version[1]}-venv"
        raise SetupError(f"this Python cannot make environments (no ensurepip); install it, e.g. apt install {package}")
    sys.stderr.write(f"making {VENV}\n")
    try:
        venv.create(VENV, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"{VENV} cannot be made ({error}); check its folder's rights and space") from error


def _runs(python: Path, code: str) -> bool:
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _install(python: Path, name: str) -> None:
    """Install one set of lists; torch first, from its own index where one is chosen."""
    lock = ["-c", str(LISTS / "constraints.txt")]
    sys.stderr.write(f"installing the pinned packages ({name}); a few minutes, once\n")
    if name == "test":
        _pip(python, ["-r", str(LISTS / "test.txt"), *lock])
        return
    index = os.environ.get("LINKER_TORCH_INDEX", "")
    if index:
        _pip(python, ["--index-url", index, "--no-deps", torch_pin()])
    _pip(python, ["-r", str(LISTS / "run.txt"), *lock])
    _pip(python, ["--no-deps", "-r", str(LISTS / "nodeps.txt")])


def torch_pin() -> str:
    """`torch==...` as run.txt says."""
    lines = (LISTS / "run.txt").read_text().splitlines()
    return next(line.split("#")[0].strip() for line in lines if line.startswith("torch=="))


def _pip(python: Path, words: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, env={**environment(), "PIP_REQUIRE_VIRTUALENV": "0", "PIP_USER": "0"}, check=False)
    if done.returncode:
        raise SetupError("pip failed (its words are above); correct that and run again, what is installed stays")
