"""What a safetensors file holds, told from its bytes alone: names, shapes, SHA-256, and whether all are numbers."""

from __future__ import annotations

import hashlib
import json
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linker.backends import cache_home
from linker.errors import EnvironmentError
from linker.records import read_json, sha256_file, write_json

ALWAYS_MB = 512  # a file up to this is read whole each time, a second at most; a larger one once, until it changes
HEADER_MB = 100  # the format's own limit
PIECE = 1 << 24  # numbers looked at in one go
EXPONENTS = {  # dtype -> its bits as an integer, and those that are all set in NaN and infinity alone
    "F64": ("<u8", 0x7FF0000000000000), "F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80),
}  # fmt: skip
INTEGERS = ("BOOL", *(f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64)))
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Scanned:
    """The bytes' SHA-256, and the first tensor with NaN or infinity, '' where there is none."""

    sha256: str
    odd: str


def read_header(path: Path) -> Shapes:
    """Names and shapes of a safetensors file. Raises EnvironmentError for a missing, truncated or other file."""
    return {name: tuple(told["shape"]) for name, told in _header(path)[1].items()}


def scan(path: Path) -> Scanned:
    """What a whole safetensors file's bytes are. Raises EnvironmentError."""
    found = path.stat()
    if found.st_size <= ALWAYS_MB * 1e6:
        return _scan(path)
    place = str(path.resolve())
    note = cache_home() / "lingualinker" / "scanned" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    seen = {"path": place, "size": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = read_json(note)
        if told["seen"] == seen:
            return Scanned(**told["found"])
    scanned = _scan(path)
    with suppress(OSError):  # a home that cannot be written costs time, no more
        write_json(note, {"seen": seen, "found": asdict(scanned)})
    return scanned


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and each one's dtype, shape and place."""
    try:
        with path.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > HEADER_MB * 1e6:
                raise ValueError(f"its length would be {length} bytes")
            header = json.loads(stream.read(length))
        tensors = {name: told for name, told in header.items() if name != "__metadata__"}
        needed = 8 + length + max((told["data_offsets"][1] for told in tensors.values()), default=0)
        _ = [(tuple(told["shape"]), told["dtype"]) for told in tensors.values()]
    except FileNotFoundError:
        raise EnvironmentError(f"{path}: missing, needed by the checkpoint") from None
    except (OSError, ValueError, struct.error, LookupError, TypeError, AttributeError) as error:
        raise EnvironmentError(f"{path}: found no header ({error}), needed a whole safetensors file") from None
    if (found := path.stat().st_size) != needed:
        raise EnvironmentError(f"{path}: found {found} bytes, needed {needed}; it was truncated or added to")
    return 8 + length, tensors


def _scan(path: Path) -> Scanned:
    begin, tensors = _header(path)
    odd = (name for name, told in tensors.items() if not _is_finite(path, begin, name, told))
    return Scanned(sha256_file(path), next(odd, ""))


def _is_finite(path: Path, begin: int, name: str, told: dict[str, Any]) -> bool:
    import numpy as np

    if told["dtype"] in INTEGERS:
        return True
    if told["dtype"] not in EXPONENTS:
        needed = f"one of {', '.join(EXPONENTS)}, or integers"
        raise EnvironmentError(f"{path}: {name} is {told['dtype']}, needed {needed}")
    kind, bits = EXPONENTS[told["dtype"]]
    (low, high), size = told["data_offsets"], np.dtype(kind).itemsize
    for start in range(low, high, PIECE * size):
        count = min(PIECE, (high - start) // size)
        numbers = np.fromfile(path, kind, count, offset=begin + start)
        if ((numbers & bits) == bits).any():
            return False
    return True
