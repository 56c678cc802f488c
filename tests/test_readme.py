"""README's commands as they are written: they exist, their files exist, and the example manifest is a manifest."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from linker.cli import verb_parser
from linker.manifest import read_manifest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python3 -m linker [^`\n]+", README)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    words = shlex.split(command)[3:]
    parsed = verb_parser().parse_args(words)
    assert callable(parsed.verb)


def test_the_two_commands_come_first() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert [block.strip() for block in blocks[:2]] == ["python3 -m linker demo", "python3 -m linker test"]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_example_manifest_is_one(tmp_path: Path) -> None:
    text = re.search(r"```csv\n(.*?)```", README, re.DOTALL)
    assert text
    (tmp_path / "jobs.csv").write_text(text[1])
    for name in re.findall(r"(?:portraits|speech|scans)/[\w.]+", text[1]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"there")
    manifest = read_manifest(tmp_path / "jobs.csv")
    assert len(manifest.rows) == 3
    assert not manifest.faults


def test_columns_are_those_of_the_reader() -> None:
    from linker.manifest import COLUMNS

    table = README[README.index("| column") : README.index("CSV, TSV or JSON lines")]
    assert set(
        re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    ) == set(COLUMNS)


def test_presets_are_the_engines() -> None:
    from linker.config import PRESETS

    for size, presets in PRESETS.items():
        for name, preset in presets.items():
            guidance = "off" if preset.guidance_scale == 1 else f"{preset.guidance_scale}"
            told = (f"`{name}`", size, str(preset.steps), guidance, preset.sampler, preset.decoder)
            assert f"| {' | '.join(told)} |" in README
