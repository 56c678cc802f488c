"""The curation rules' steps that only arrange: the listing of the footage."""

from __future__ import annotations

from pathlib import Path

from linker.footage import read_footage, write_listing
from linker.records import write_json


def list_footage(footage: Path, listing: Path) -> None:
    """Write every video of a folder or a list into `listing` (JSON)."""
    write_json(listing, {"footage": str(footage), "videos": write_listing(read_footage(footage))})
