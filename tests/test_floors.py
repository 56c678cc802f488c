"""The floors of the house: imports go down only, steps do not import each other, the ground floor stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "linker"

GROUND = ("errors", "config", "records", "manifest", "layers", "shards", "status", "process", "lock", "iso639")
GROUND += ("heartbeat", "leases", "rows", "keys", "faults", "footage", "tidy")
FLOORS = {
    0: GROUND,
    5: ("cli", "verbs", "__main__", "bootstrap", "run", "plan", "needs", "verify", "bench"),
    4: (
        *("audio", "language", "face", "generate", "collect", "background", "upscale", "deliver", "report", "launch"),
        *("crew", "engine", "clip", "writing", "checkpoint"),
        *("train", "curate", "evaluate"),
    ),
    3: ("model", "synth"),
}
STEPS = ("audio", "language", "face", "generate", "collect", "background", "upscale", "deliver", "report")
LIGHT = {"yaml", "pydantic", "linker"}  # what the ground floor may import beside the standard library
MEDIA = {"media", "mux", "encode", "measure", "loudness", "ticks"}  # decode, encode, containers, facts, the filter
ALONE = {"submitit": {"launch"}, "av": MEDIA, "imageio_ffmpeg": MEDIA}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below linker: 'manifest', 'model.gate'."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in paths.items()}


def imported(tree: ast.Module) -> set[str]:
    """Dotted names a module imports, wherever it does so."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


MODULES = modules()
ROOMS = {name.split(".")[0] for name in MODULES}


def room(name: str) -> str:
    """'model' of 'linker.model.gate'."""
    return name.removeprefix("linker.").split(".")[0]


def floor(name: str) -> int:
    """The floor of a room; helpers that no list names belong to the floors between media and steps (1 and 2)."""
    return next((number for number, rooms in FLOORS.items() if name in rooms), 1)


def linker_imports(name: str) -> set[str]:
    return {room(target) for target in imported(MODULES[name]) if target.startswith("linker.")} & ROOMS - {room(name)}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name: str) -> None:
    upwards = {target for target in linker_imports(name) if floor(target) > floor(room(name))}
    assert upwards == set()


@pytest.mark.parametrize("name", STEPS)
def test_steps_do_not_import_each_other(name: str) -> None:
    assert linker_imports(name) & set(STEPS) == set()


@pytest.mark.parametrize("name", [name for name in GROUND if name in MODULES])
def test_the_ground_floor_is_light(name: str) -> None:
    roots = {target.split(".")[0] for target in imported(MODULES[name])}
    assert roots - LIGHT - set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("name", ["__main__", "bootstrap"])
def test_the_bootstrap_needs_the_standard_library_alone(name: str) -> None:
    roots = {target.split(".")[0] for target in imported(MODULES[name])}
    assert roots - {"linker"} - set(sys.stdlib_module_names) == set()
    assert linker_imports(name) <= {"bootstrap"}


@pytest.mark.parametrize("package", sorted(ALONE))
def test_some_packages_have_one_door(package: str) -> None:
    users = {room(name) for name, tree in MODULES.items() if package in {i.split(".")[0] for i in imported(tree)}}
    assert users <= ALONE[package]


def test_no_import_cycle() -> None:
    graph = {name: linker_imports(name) for name in MODULES if "." not in name}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs & graph.keys() <= done}:
        done |= ready
    assert graph.keys() - done == set()


def test_no_file_is_longer_than_400_lines() -> None:
    long = {path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 400}
    assert long == set()


def test_every_file_says_first_why_it_exists() -> None:
    silent = {name for name, tree in MODULES.items() if tree.body and not ast.get_docstring(tree)}
    assert silent == set()


def test_the_command_line_starts_without_heavy_packages() -> None:
    heavy = "{'torch', 'numpy', 'cv2', 'mediapipe', 'transformers', 'diffusers', 'pandas', 'submitit'}"
    code = f"import sys, linker.cli, linker.verbs, linker.shards; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
