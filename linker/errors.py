"""What can go wrong, drawn as a tree. Only the command line catches these; each knows its exit code.

    LinkerError            1   never raised itself; anything else that escapes is a bug and also exits 1
    ├── SettingsError      2   a setting is unknown, of the wrong type or out of its range
    ├── ManifestError      2   a manifest cannot be read, or rows of it are wrong (file:line:column)
    ├── EnvironmentError   3   a tool, a package or weights are missing or do not fit
    ├── RowsFailed         4   the run finished, and some rows were refused
    └── Diverged           5   a training's loss or gradient is not finite, or it spikes; the last good state is kept

A row's own fault (no face, silence, a broken file) is not an exception but a `records.Refusal`: it travels in the
sidecars, so that one bad row never stops another.
"""

from __future__ import annotations

import errno

DIVERGED = "diverged: "  # so begin the words of a Diverged: in a step's log, the command knows it by them
FULL = (errno.ENOSPC, errno.EDQUOT)
MACHINE_FAULTS = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


class LinkerError(Exception):
    """Base of all expected errors; `str(error)` is one line for people: found, needed, where, what to do."""

    exit_code = 1


class SettingsError(LinkerError):
    exit_code = 2


class ManifestError(LinkerError):
    exit_code = 2


class EnvironmentError(LinkerError):
    exit_code = 3


class RowsFailed(LinkerError):
    exit_code = 4


class Diverged(LinkerError):
    exit_code = 5


def is_machine_fault(error: Exception) -> bool:
    """True for a full disk, a folder that may not be written, a lost file system."""
    return isinstance(error, OSError) and error.errno in MACHINE_FAULTS


def as_expected(error: Exception) -> LinkerError | None:
    """The error as people are told it; a full disk or a folder that may not be written is the machine's fault."""
    if isinstance(error, LinkerError):
        return error
    if isinstance(error, OSError) and is_machine_fault(error):
        where = error.filename or "the results folder"
        return EnvironmentError(f"{where}: {error.strerror}; make room or allow writing, and run again")
    return None
