"""Curated footage for training: the segments of curate's shards, decoded in worker processes at the model's size.

A shard is only read, and may be broken: its names are checked, nothing is unpacked under a name of its own, and a
segment that cannot be used is told with its reason while the others go on.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from linker.config import REGIONS, SAMPLE_RATE_HZ
from linker.errors import EnvironmentError
from linker.media import Undecodable, read_audio, read_frames

KINDS = ("mp4", "wav", "masks.npy")  # of the members that training reads
NAME = re.compile(r"(?P<key>[a-z0-9][a-z0-9-]{0,120})\.(?P<kind>[a-z0-9.]+)")
MEMBER_MB = 1000
LEVELS = 255  # of a stored mask
MOST = 16  # processes that decode: one holds up to 400 MB of frames


@dataclass(frozen=True)
class Segment:
    """A segment in its shard: kind of member -> (offset, size) in bytes."""

    shard: Path
    key: str
    places: dict[str, tuple[int, int]]

    def name(self, kinds: tuple[str, ...] = KINDS) -> str:
        """Its key, and a digest of all that is read of it: a segment that was cut or aligned anew has another name."""
        content = hashlib.sha256()
        for kind in kinds:
            content.update(hashlib.sha256(self.read(kind)).digest())
        return f"{self.key}.{content.hexdigest()[:16]}"

    def read(self, kind: str) -> bytes:
        """A member's bytes. Raises EnvironmentError where the segment lacks it."""
        if kind not in self.places:
            raise EnvironmentError(f"{self.shard}: {self.key} has no .{kind}; curate the footage again")
        offset, size = self.places[kind]
        with self.shard.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)


@dataclass(frozen=True)
class Decoded:
    """frames (T, S, S, 3) uint8 RGB; samples (n,) float32 at 16 kHz; masks (T, 3, h, w) float16: head, mouth, eyes."""

    frames: np.ndarray
    samples: np.ndarray
    masks: np.ndarray


def read_segments(shards: list[Path], kinds: tuple[str, ...] = KINDS) -> list[Segment]:
    """The segments of shards that have members of all `kinds`, by their tables of contents. Raises EnvironmentError for
    what is no whole tar."""
    found = []
    for shard in shards:
        places: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    name = NAME.fullmatch(member.name)
                    if name and member.isreg() and member.size < MEMBER_MB * 1e6:
                        places.setdefault(name["key"], {})[name["kind"]] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise EnvironmentError(f"{shard}: cannot be read ({error}); curate the footage again") from None
        found += [Segment(shard, key, members) for key, members in sorted(places.items()) if members.keys() >= {*kinds}]
    return found


def decode_segment(segment: Segment, side_px: int, mask_px: int) -> Decoded:
    """A segment at the model's size. Raises Undecodable or ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        picture, sound = Path(folder, "a.mp4"), Path(folder, "a.wav")
        picture.write_bytes(segment.read("mp4"))
        sound.write_bytes(segment.read("wav"))
        frames = np.stack([resized(frame, side_px) for frame in read_frames(picture)])
        samples, _ = read_audio(sound, SAMPLE_RATE_HZ)
    masks = np.load(io.BytesIO(segment.read("masks.npy")), allow_pickle=False)
    if masks.dtype != np.uint8 or masks.ndim != 4 or masks.shape[:2] != (len(frames), len(REGIONS)):
        raise ValueError(f"masks are {masks.dtype} {masks.shape}, needed uint8 ({len(frames)}, {len(REGIONS)}, h, w)")
    return Decoded(frames, samples, pooled(masks, mask_px))


def resized(picture: np.ndarray, side_px: int) -> np.ndarray:
    """A square picture at another size."""
    if picture.shape[0] == side_px:
        return picture
    smaller = side_px < picture.shape[0]
    return cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def pooled(masks_T3HW: np.ndarray, side: int) -> np.ndarray:
    """uint8 masks, 255 = inside -> shares of each place of a latent, (T, 3, side, side) float16."""
    flat = masks_T3HW.reshape(-1, *masks_T3HW.shape[2:]).astype(np.float32) / LEVELS
    small = np.stack([cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) for mask in flat])
    return small.reshape(*masks_T3HW.shape[:2], side, side).astype(np.float16)


def attempt(segment: Segment, side_px: int, mask_px: int) -> Decoded | str:
    """The segment, or why it cannot be used."""
    try:
        return decode_segment(segment, side_px, mask_px)
    except (Undecodable, ValueError, EOFError) as error:
        return f"{segment.shard.name}: {segment.key}: {error}"


def decoded(
    segments: list[Segment], side_px: int, mask_px: int, workers: int
) -> Iterator[tuple[Segment, Decoded | str]]:
    """Each segment, decoded by one of `workers` processes or told why not; in order, and no more than one a worker in
    memory."""
    coming: deque[tuple[Segment, Future[Decoded | str]]] = deque()
    waiting, workers = iter(segments), min(workers, MOST)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while True:
            while len(coming) < workers and (segment := next(waiting, None)):
                coming.append((segment, pool.submit(attempt, segment, side_px, mask_px)))
            if not coming:
                return
            segment, answer = coming.popleft()
            yield segment, _made(segment, answer)


def _made(segment: Segment, answer: Future[Decoded | str]) -> Decoded | str:
    try:
        return answer.result()
    except BrokenProcessPool:
        why = "a process that decodes was killed, mostly because memory was short; run again, with fewer cores"
        raise EnvironmentError(f"{segment.shard}: {segment.key}: {why}") from None
