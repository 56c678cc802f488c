"""What finishing needs is looked at before any work starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_upscale import write_network

from linker.config import Settings
from linker.errors import EnvironmentError, LinkerError, SettingsError
from linker.manifest import read_manifest
from linker.needs import check_needs
from linker.plan import _subtitle_faults
from linker.signing import test_identity as make_identity

BAD = [
    ({"finish": {"transcribe": True}}, SettingsError, "set language.whisper"),
    ({"language": {"whisper": "{gone}.pt"}}, EnvironmentError, "whisper weights"),
    ({"upscale": {"weights": "{gone}"}}, EnvironmentError, r"upscale\.weights .*no such file"),
    ({"upscale": {"weights": "{odd}"}}, EnvironmentError, r"upscale\.weights .*cannot be read as weights"),
    ({"finish": {"label": "生成"}}, EnvironmentError, r"finish\.label: .* has no 生 成"),
    ({"finish": {"label": "AI", "label_font": "{gone}"}}, EnvironmentError, r"finish\.label_font"),
    ({"provenance": {"certificate": "{gone}"}}, EnvironmentError, "belong together"),
    ({"provenance": {"certificate": "{gone}", "private_key": "{gone}"}}, EnvironmentError, "needed PEM files"),
]


@pytest.mark.parametrize(("groups", "kind", "words"), BAD)
def test_what_is_missing_is_named(
    tmp_path: Path, groups: dict[str, dict[str, object]], kind: type[LinkerError], words: str
) -> None:
    gone, odd = str(tmp_path / "gone"), tmp_path / "odd"
    odd.write_bytes(b"weights")
    told = {
        group: {
            key: value.replace("{gone}", gone).replace("{odd}", str(odd)) if isinstance(value, str) else value
            for key, value in keys.items()
        }
        for group, keys in groups.items()
    }
    with pytest.raises(kind, match=words):
        check_needs(Settings.model_validate(told))


def test_compiling_needs_a_compiler_where_this_machine_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SLURM it is the nodes that need one."""
    wanted = Settings.model_validate({"generate": {"compile": True}})
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentError, match=r"generate\.compile: found no C\+\+ compiler 'g\+\+'; install it"):
        check_needs(wanted)
    for name in ("sbatch", "my-cxx"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    check_needs(Settings.model_validate({"generate": {"compile": True}, "launch": {"cluster": "slurm"}}))
    monkeypatch.setenv("CXX", "my-cxx")
    check_needs(wanted)


def test_what_is_there_is_enough(tmp_path: Path) -> None:
    identity = make_identity()
    files = {name: tmp_path / name for name in ("c.pem", "k.pem", "w.pt", "n.pth")}
    files["c.pem"].write_bytes(identity.certificates)
    files["k.pem"].write_bytes(identity.private_key)
    files["w.pt"].write_bytes(b"weights")
    write_network(files["n.pth"])
    groups = {
        "provenance": {"certificate": str(files["c.pem"]), "private_key": str(files["k.pem"])},
        "language": {"whisper": str(files["w.pt"])}, "upscale": {"weights": str(files["n.pth"])},
        "finish": {"transcribe": True, "label": "AI"},
    }  # fmt: skip
    check_needs(Settings.model_validate(groups))
    check_needs(Settings())


def test_subtitles_that_cannot_be_read_are_a_fault_of_their_row(tmp_path: Path) -> None:
    lines = ["clip,portrait,audio,subtitles"]
    texts = {"good": "1\n00:00:00,000 --> 00:00:01,000\nBonjour\n", "bad": "1\n00:00 --> 1\nBonjour\n", "none": ""}
    for name, text in texts.items():
        for suffix in ("png", "wav", "srt"):
            (tmp_path / f"{name}.{suffix}").write_text(text or "x")
        lines.append(f"{name},{name}.png,{name}.wav,{name}.srt" if text else f"{name},{name}.png,{name}.wav,")
    (tmp_path / "jobs.csv").write_text("\n".join(lines))
    (fault,) = _subtitle_faults(read_manifest(tmp_path / "jobs.csv"))
    assert (fault.clip, fault.line, fault.column) == ("bad", 3, "subtitles")
    assert "bad.srt:2: no times of SubRip" in fault.message
