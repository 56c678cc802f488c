"""Where published weights come from: folders, or the Hugging Face hub at a pinned revision; and what lies there."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linker.errors import EnvironmentError, SettingsError
from linker.records import sha256_file
from linker.tensors import read_header
from linker.train import hub

PARTS = ("unet", "motion", "codec", "speech")
OTHERS = ("hallo", "tiny")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<folder>[\w.-]+))?@(?P<revision>[0-9a-f]{40})")
CONFIG = "config.json"
WEIGHT_NAMES = (  # the first that is there is taken
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.safetensors"),
    *("diffusion_pytorch_model.bin", "pytorch_model.bin", "net.pth"),
)
PUBLISHED = {  # part -> where its weights are published: repository, folder in it, files
    "unet": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet", (CONFIG, WEIGHT_NAMES[0])),
    "motion": ("guoyww/animatediff-motion-adapter-v1-5-2", "", (CONFIG, WEIGHT_NAMES[0])),
    "codec": ("stabilityai/sd-vae-ft-mse", "", (CONFIG, WEIGHT_NAMES[0])),
    "speech": ("facebook/wav2vec2-xls-r-300m", "", (CONFIG, "pytorch_model.bin")),
    "tiny": ("madebyollin/taesd", "", (CONFIG, WEIGHT_NAMES[0])),
    "hallo": ("fudan-generative-ai/hallo", "hallo", ("net.pth",)),
}


@dataclass(frozen=True)
class Source:
    """Where a part comes from: what the user typed, and the folder it lies in."""

    part: str
    origin: str
    folder: Path

    @property
    def file(self) -> Path:
        """The weights file. Raises EnvironmentError naming what was looked for, and what gets it."""
        for name in WEIGHT_NAMES:
            if (self.folder / name).is_file():
                return self.folder / name
        looked = f"no weights in {self.folder}; looked for {', '.join(WEIGHT_NAMES)}"
        raise EnvironmentError(f"{self.part}: {looked}; {self.get}")

    @property
    def get(self) -> str:
        """The command that gets the part."""
        match = HUB_ID.fullmatch(self.origin.partition("#")[0])
        return _get_again(self.part, match) if match else _get(self.part, self.folder)

    def config(self) -> dict[str, Any]:
        """config.json of the folder."""
        path = self.folder / CONFIG
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise EnvironmentError(f"{self.part}: {path} is missing; {self.get}") from None
        except (OSError, ValueError, TypeError) as error:
            raise EnvironmentError(f"{self.part}: {path} cannot be read ({error}); {self.get}") from None

    def names(self) -> list[str]:
        """Of all its tensors, as they were published."""
        return sorted(read_header(self.file) if self.file.suffix == ".safetensors" else self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors as they are; pickles are read with weights_only, and from the disk as they are asked for."""
        try:
            if self.file.suffix == ".safetensors":
                found = load_file(self.file)
            else:
                mapped = zipfile.is_zipfile(self.file)
                found = torch.load(self.file, map_location="cpu", weights_only=True, mmap=mapped)
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            reason = str(error).split("\n")[0]
            raise EnvironmentError(f"{self.file}: not a whole weights file ({reason})") from None
        if not isinstance(found, dict):
            raise EnvironmentError(f"{self.file}: found a {type(found).__name__}, needed tensors by their names")
        odd = [type(value).__name__ for value in found.values() if not isinstance(value, Tensor)]
        if odd:
            raise EnvironmentError(f"{self.file}: found {odd[0]} among its values, needed tensors alone")
        return dict(found)


def find_sources(words: Iterable[str]) -> dict[str, Source]:
    """`--from` as typed: one folder that holds unet/ motion/ codec/ speech/, or part=PLACE for each part. A place is a
    folder or a hub id owner/name[/folder]@revision; #SHA256 after it pins the weights file. `hallo` takes the place of
    unet and motion; `tiny` may be left out.

    Raises SettingsError for words that cannot be understood, EnvironmentError for what is not there.
    """
    places: dict[str, str] = {}
    for word in words:
        part, equals, place = word.partition("=")
        if equals and part in PARTS + OTHERS:
            places[part] = place
        elif not equals and Path(word).is_dir():
            places |= {name: str(Path(word) / name) for name in PARTS if name not in places}
        else:
            known = ", ".join(PARTS + OTHERS)
            raise SettingsError(f"--from {word}: needed a folder, or one of {known} = folder or hub id")
    needed = ("hallo", "codec", "speech") if "hallo" in places else PARTS
    missing = [part for part in needed if part not in places]
    if missing:
        raise SettingsError(f"--from names no {', '.join(missing)}; give {missing[0]}=FOLDER or owner/name@revision")
    wanted = [*needed, *(part for part in ("tiny",) if part in places)]
    return {part: checked(Source(part, places[part], fetched(part, places[part]))) for part in wanted}


def checked(source: Source) -> Source:
    """The source, its files proved to be there, and its weights to be the pinned ones."""
    if source.part != "hallo":
        source.config()
    file, pin = source.file, source.origin.partition("#")[2].lower()
    if pin and (found := sha256_file(file)) != pin:
        raise EnvironmentError(f"{file}: SHA-256 is {found}, pinned was {pin}")
    return source


def fetched(part: str, place: str) -> Path:
    """The folder of a part: what lies on the hub is fetched, one weights file of those that are there."""
    place = place.partition("#")[0]
    if Path(place).is_dir():
        return Path(place)
    match = HUB_ID.fullmatch(place)
    if not match:
        needed = "a folder, or owner/name[/folder]@ and the 40 digits of a revision"
        raise EnvironmentError(f"{part}={place}: no such folder; needed {needed}; {_get(part, Path(place))}")
    from httpx2 import HTTPError

    config = _paths(match, [] if part == "hallo" else [CONFIG])  # Hallo alone has none
    try:
        return hub.folder_of(match["repo"], match["revision"], config, _paths(match, WEIGHT_NAMES))
    except EnvironmentError as error:
        raise EnvironmentError(f"{part}={place}: {error}") from None
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        why = f"not in the hub's cache and not fetched ({type(error).__name__}: {str(error).splitlines()[0]})"
        again = "or the same again, which goes on where it stopped"
        raise EnvironmentError(f"{part}={place}: {why}; {_get_again(part, match)}, {again}") from None


def _get(part: str, folder: Path) -> str:
    """What gets a published part into a folder, or near it."""
    repo, inside, names = PUBLISHED[part]
    root = folder.parent if inside and folder.name == inside else folder
    files = " ".join(f"{inside}/{name}".lstrip("/") for name in names)
    return f"type `hf download {repo} {files} --local-dir {root}`, and give {part}={root / inside}"


def _get_again(part: str, match: re.Match[str]) -> str:
    files = " ".join(_paths(match, PUBLISHED[part][2]))
    return f"type `hf download {match['repo']} {files} --revision {match['revision']}`"


def _paths(match: re.Match[str], names: Iterable[str]) -> list[str]:
    return [f"{match['folder'] or ''}/{name}".lstrip("/") for name in names]
