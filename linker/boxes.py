"""MP4 and QuickTime files as a row of boxes (ISO/IEC 14496-12): where the index lies, and XMP at the end."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac").bytes  # XMP specification, part 3
_MAX_XMP = 1 << 20


def top_boxes(path: Path) -> Iterator[tuple[str, int, int]]:
    """(type, start of the content, end) of each box of the file; ends quietly where they stop making sense."""
    size, place = path.stat().st_size, 0
    with path.open("rb") as stream:
        while place + 8 <= size:
            stream.seek(place)
            length, kind = struct.unpack(">I4s", stream.read(8))
            head = 8
            if length == 1:
                length, head = struct.unpack(">Q", stream.read(8).rjust(8, b"\0"))[0], 16
            length = length or size - place
            if length < head:
                return
            yield kind.decode("latin-1"), place + head, min(place + length, size)
            place += length


def is_faststart(path: Path) -> bool:
    """True when the index comes before the pictures, so that players start before they have the whole file."""
    kinds = [kind for kind, _, _ in top_boxes(path)]
    return "moov" in kinds and "mdat" in kinds and kinds.index("moov") < kinds.index("mdat")


def append_xmp(path: Path, packet: str) -> None:
    """Add a packet of XMP as a box at the end: nothing that has an address in the file moves."""
    content = XMP_BOX + packet.encode()
    with path.open("ab") as stream:
        stream.write(struct.pack(">I4s", 8 + len(content), b"uuid") + content)


def read_xmp(path: Path) -> str:
    """The last packet of XMP, '' where there is none."""
    found = ""
    with path.open("rb") as stream:
        for kind, start, end in top_boxes(path):
            stream.seek(start)
            if kind == "uuid" and stream.read(16) == XMP_BOX and end - start < _MAX_XMP:
                found = stream.read(end - start - 16).decode(errors="replace")
    return found
