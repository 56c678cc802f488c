"""Errors: each knows its exit code, and all descend from one."""

from __future__ import annotations

import pytest

from linker import errors


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("LinkerError", 1),
        ("SettingsError", 2),
        ("ManifestError", 2),
        ("EnvironmentError", 3),
        ("RowsFailed", 4),
        ("Diverged", 5),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.LinkerError)
    assert kind.exit_code == code
    assert str(kind("found x, needed y")) == "found x, needed y"
