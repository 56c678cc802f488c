"""A checkpoint's card: its architecture, the hashes of its files, its training; read without any network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from linker.errors import EnvironmentError
from linker.model.architecture import Architecture
from linker.records import sha256_file

WEIGHTS = "linker.safetensors"
CARD = "lingualinker.json"


def weight_files(folder: Path) -> list[Path]:
    """Every weight file of a checkpoint, in a fixed order."""
    return sorted(path for path in folder.rglob("*.safetensors") if path.is_file())


def read_card(folder: Path) -> dict[str, Any]:
    """The checkpoint's JSON. Raises EnvironmentError when there is none."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EnvironmentError(
            f"{folder}: no {CARD} there; needed 'mini' or a LinguaLinker checkpoint folder"
        ) from None
    except (OSError, ValueError) as error:
        raise EnvironmentError(f"{folder / CARD}: cannot be read ({error})") from None
    if not isinstance(card, dict) or card.get("format") != "lingualinker 1":
        raise EnvironmentError(f"{folder / CARD}: not a LinguaLinker card (format 'lingualinker 1' needed)")
    return card


def read_architecture(folder: Path) -> Architecture:
    """The dimensions that the checkpoint's JSON gives. Raises EnvironmentError."""
    card = read_card(folder)
    try:
        return Architecture.model_validate(card["architecture"])
    except KeyError:
        raise EnvironmentError(f"{folder / CARD}: not an architecture (there is none)") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        told = f"{where}: {fault['msg']}" if where else fault["msg"].removeprefix("Value error, ")
        raise EnvironmentError(f"{folder / CARD}: not an architecture ({told})") from None


def weights_hash(folder: Path) -> str:
    """One SHA-256 for a whole checkpoint: of its card, which holds the hashes of its files."""
    return sha256_file(folder / CARD)
