"""Arrays of an .npz as they lie on disk: they are mapped, and only what is used of them is read."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

LOCAL_HEADER = 30  # bytes of a zip's local file header before the member's name


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file that np.savez wrote, by its name. Raises ValueError for a compressed one."""
    found: dict[str, np.ndarray] = {}
    whole = np.memmap(path, np.uint8, "r")  # one for all of them: each map holds a file open
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: {member.filename} is compressed")
            stream.seek(member.header_offset + LOCAL_HEADER - 4)
            name_bytes, extra_bytes = struct.unpack("<HH", stream.read(4))
            stream.seek(name_bytes + extra_bytes, 1)
            npy.read_magic(stream)
            shape, is_fortran, dtype = npy.read_array_header_1_0(stream)
            order = "F" if is_fortran else "C"
            found[member.filename.removesuffix(".npy")] = np.ndarray(shape, dtype, whole, stream.tell(), order=order)
    return found
