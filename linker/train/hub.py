"""Files of the Hugging Face hub at a pinned revision: from its cache, or fetched here, where a killed fetch goes on.

The hub's own client begins a file again when its process was killed, since each of its downloads has a name of its own;
weights are gigabytes. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to that client.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from linker.backends import cache_home
from linker.errors import EnvironmentError
from linker.records import sha256_file

SHA256 = re.compile(r"[0-9a-f]{64}")  # what the hub calls a large file by; small ones have a shorter name


def folder_of(repo: str, revision: str, needed: Sequence[str], choices: Sequence[str]) -> Path:
    """Where all `needed` files and the first of `choices` that there is lie together: in the hub's cache, in this one,
    or fetched now. Raises EnvironmentError where the hub has none, or what came is damaged; else what its client does.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    wanted = [*needed, *choices]
    held = {name: try_to_load_from_cache(repo, name, revision=revision) for name in wanted}
    there = {name: Path(path) for name, path in held.items() if isinstance(path, str)}
    here = {name: place for name in wanted if (place := place_of(repo, revision, name)).is_file()}
    for cached in (there, here):
        if names := chosen(cached, needed, choices):
            return cached[names[0]].parent
    listed = HfApi().list_repo_files(repo, revision=revision)
    names = chosen(listed, needed, choices)
    if not names:
        lacking = next((name for name in needed if name not in listed), "weights")
        raise EnvironmentError(f"the hub has no {lacking}; looked for {', '.join(wanted)}")
    files = [fetched(repo, revision, name) for name in names]
    return files[0].parent


def chosen(there: Collection[str], needed: Sequence[str], choices: Sequence[str]) -> list[str]:
    """What is to be had of the files that are there; nothing unless it is enough."""
    first = [name for name in choices if name in there][:1]
    return [*needed, *first] if first and all(name in there for name in needed) else []


def place_of(repo: str, revision: str, name: str) -> Path:
    """Where a file lies once it is whole."""
    return cache_home() / "lingualinker" / "hub" / repo.replace("/", "--") / revision / name


def fetched(repo: str, revision: str, name: str) -> Path:
    """A file of the hub, whole; two processes take turns at it."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    place = place_of(repo, revision, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(place.with_name(f".{place.name}.lock")):
        if not place.is_file():
            part = place.with_name(f"{place.name}.part")
            complete(part, hf_hub_url(repo, name, revision=revision))
            part.rename(place)
    return place


def complete(part: Path, url: str) -> None:
    """Fetch what `part` lacks of a file. Raises EnvironmentError, and deletes it, when it is not the hub's then."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    told = get_hf_file_metadata(url)
    with part.open("ab") as stream:
        if told.size is not None and stream.tell() > told.size:
            stream.truncate(0)
        begun = part.stat().st_size
        http_get(url, stream, resume_size=begun, headers=build_hf_headers(), expected_size=told.size)
    wanted = told.etag or ""
    if SHA256.fullmatch(wanted) and (found := sha256_file(part)) != wanted:
        part.unlink()
        raise EnvironmentError(f"{url}: what came has SHA-256 {found}, needed the hub's {wanted}; it is deleted")
