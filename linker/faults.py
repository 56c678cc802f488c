"""Kinds of failure, told by an error's name and words: this floor loads nothing that could raise them."""

from __future__ import annotations

BREAKING = ("CUDA error", "cuDNN error", "AcceleratorError", "CUBLAS_STATUS", "NCCL")
MEMORY = ("OutOfMemory", "out of memory", "can't allocate memory")


class WorkerBroken(Exception):
    """This process can make no more rows (a CUDA error, say); a new one can."""


def is_broken(error: Exception) -> bool:
    """True for errors after which a process can use its GPU no more."""
    told = f"{type(error).__name__}: {error}"
    return not is_out_of_memory(error) and any(word in told for word in BREAKING)


def is_out_of_memory(error: Exception) -> bool:
    """True where less at a time may fit."""
    told = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(word in told for word in MEMORY)


def first_line(error: Exception) -> str:
    """'ValueError: what was wrong'."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__
