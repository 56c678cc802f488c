"""A finished file in one call, for tests that need one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from linker.encode import Target, encode


def film(
    path: Path, frames: Iterable[np.ndarray], count: int, audio: Path | None = None, size: tuple[int, int] = (64, 48),
    **target: Any,
) -> Path:  # fmt: skip
    """Encode `frames` as a deliverable of the default kind unless `target` says otherwise."""
    encode(frames, [Target(path, size, **target)], audio, count)
    return path
