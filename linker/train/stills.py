"""Portraits of a user's folder as stills that training videos set in motion: real skin, light and paint."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from linker.config import FaceSettings, LimitSettings, TrainSettings
from linker.errors import EnvironmentError
from linker.face import crop_face
from linker.records import read_json, sha256_file
from linker.synth.video import STILL
from linker.synth.warp import StillPortrait

KINDS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
VIDEO_PX = 256  # side of the frames they are rendered to


@dataclass(frozen=True)
class Stills:
    """The faces that were found and their pictures' names, what was skipped and why, and a digest of the pictures."""

    faces: list[StillPortrait] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    digest: str = ""


def find_stills(settings: TrainSettings, cache: Path) -> Stills:
    """Those of the user's folder; where none is named, the photograph that every installation has: Grace Hopper by
    James S. Davis, US Navy, in the public domain, among matplotlib's sample data. Raises EnvironmentError."""
    if settings.stills:
        return read_stills(Path(settings.stills), cache)
    from matplotlib.cbook import get_sample_data

    photograph = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    digest = sha256_file(photograph)
    found = read_still(photograph, cache / digest[:16])
    if isinstance(found, str):
        raise EnvironmentError(f"{photograph}: {found}; give portraits of your own, train.stills")
    return Stills([found], [photograph.name], [], digest)


def read_stills(folder: Path, cache: Path) -> Stills:
    """Every picture of `folder` whose face the workflow accepts, cropped as it crops portraits; crops are kept in
    `cache`. Raises EnvironmentError where there is none."""
    if not folder.is_dir():
        raise EnvironmentError(f"train.stills: found no folder {folder}; give one with portraits, or leave it empty")
    faces, names, skipped, digests = [], [], [], [f"{STILL}"]
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS):
        digest = sha256_file(path)
        found = read_still(path, cache / digest[:16])
        if isinstance(found, str):
            skipped.append(f"{path.name}: {found}")
            print(f"train.stills: skipped {skipped[-1]}", file=sys.stderr)
        else:
            faces.append(found)
            names.append(path.name)
            digests.append(digest)
    if not faces:
        why = f" ({skipped[0]})" if skipped else ""
        raise EnvironmentError(f"train.stills: {folder} has no picture with one face{why}; give other portraits")
    return Stills(faces, names, skipped, hashlib.sha256(" ".join(digests).encode()).hexdigest())


def read_still(path: Path, cache: Path) -> StillPortrait | str:
    """A picture's face as a still, or why it has none."""
    cache.mkdir(parents=True, exist_ok=True)
    face, crop = cache / "face.png", cache / "crop.json"
    if not crop.exists():
        crop_face(path, face, crop, "", FaceSettings(), LimitSettings())
    facts = read_json(crop)
    if facts["refusal"]:
        return str(facts["refusal"]["reason"])
    pixels = np.asarray(Image.open(face).convert("RGB"))
    return StillPortrait(pixels, np.array(facts["landmarks"], np.float32), VIDEO_PX)
