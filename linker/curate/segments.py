"""cut_segments: the kept segments as training reads them: frame-exact, square, upright, with the sound in step.

One tar a segment: mp4, wav, landmarks.npy, masks.npy, json; packing names them and adds what is said of the segment.
Pictures are decoded and encoded anew, so a segment begins and ends at its frame and not at a key frame.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from linker.config import FACE_PX, FPS, SAMPLE_RATE_HZ, FaceSettings
from linker.curate.faces import restored
from linker.curate.measure import Measures, refusal_of
from linker.curate.verdicts import STAGES
from linker.encode import Target, encode
from linker.face_models import subject_map
from linker.landmarks import crop_box, region_masks, to_crop
from linker.media import plain, read_audio, write_wav
from linker.pictures import cut_square
from linker.records import atomic, read_json, write_json
from linker.ticks import ticks

MASK_PX = 64  # side of the stored region masks: a latent of the base model
SUBJECT_EVERY = 5  # frames between two looks at what is subject and what is background
CRF = 12  # of the stored pictures: hardly any loss
LEVELS = 255
FACTS = "json"  # member that packing completes


@dataclass(frozen=True)
class Piece:
    """A kept segment as it is cut: frames `first` up to `last` (outside), whose face, and how late its sound is."""

    number: int
    first: int
    last: int
    slot: int
    offset: int


def cut_segments(video: Path, verdicts: Path, measures: Path, sound: Path, segments: Path) -> None:
    """Write a tar for each kept segment into a folder beside `segments` (JSON), which names them, or says why some are
    not there.

    A tar's name tells from which frames of which files it was cut: those that are there stay, so a moved threshold
    decodes only what it lets in anew, and nothing where it lets in nothing.
    """
    wanted, source = kept_segments(read_json(verdicts)), [_stamp(path) for path in (video, measures)]
    files = {piece: segments.parent / "segments" / f"{_name(piece, source)}.tar" for piece in wanted}
    missing, refusal = [piece for piece in wanted if not files[piece].exists()], None
    if missing:
        looked, (samples, _) = Measures.load(measures), read_audio(sound, SAMPLE_RATE_HZ)
        try:
            for piece, frames in _frames_of(video, missing):
                with atomic(files[piece]) as temporary, tarfile.open(temporary, "w") as tar:
                    _store(tar, piece, frames, looked, samples)
        except Exception as fault:
            refusal = refusal_of(plain(video), fault, "cut_segments").to_json()
    for path in (segments.parent / "segments").glob("*.tar"):
        if path not in files.values():
            path.unlink()
    done = {str(piece.number): path.name for piece, path in files.items() if path.exists()}
    write_json(segments, {"segments": done, "refusal": refusal})


def kept_segments(told: dict[str, Any]) -> list[Piece]:
    """The segments that every stage kept, in order."""
    verdicts: dict[int, dict[str, dict[str, Any]]] = {}
    for verdict in told["verdicts"]:
        verdicts.setdefault(verdict["segment"], {})[verdict["stage"]] = verdict
    passed = {n: v for n, v in verdicts.items() if all(stage in v and v[stage]["kept"] for stage in STAGES)}
    offsets = {number: int(stages["sync"]["measured"]["offset"]) for number, stages in passed.items()}
    return [Piece(**one, offset=offsets[one["number"]]) for one in told["segments"] if one["number"] in passed]


def _stamp(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _name(piece: Piece, source: list[str]) -> str:
    told = [*source, piece.first, piece.last, piece.slot, piece.offset]
    return f"{piece.first}-{piece.last}-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


def _frames_of(video: Path, wanted: list[Piece]) -> Iterator[tuple[Piece, Iterator[np.ndarray]]]:
    """Each segment with its frames, streamed out of one pass; a segment's frames are used up before the next's."""
    stream = enumerate(ticks(video))

    def frames(piece: Piece) -> Iterator[np.ndarray]:
        for number, tick in stream:
            if number >= piece.first:
                yield tick.frame
            if number + 1 == piece.last:
                return

    for piece in wanted:
        yield piece, frames(piece)


def _store(
    tar: tarfile.TarFile, piece: Piece, frames: Iterator[np.ndarray], looked: Measures, samples: np.ndarray
) -> None:
    count = piece.last - piece.first
    points = _filled(looked.points[piece.first : piece.last, piece.slot]) / float(looked.scale)
    box = crop_box(restored(np.nanmedian(points, 0)))
    inside = to_crop(restored(points), box)
    subjects: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        picture, wav = Path(folder, "a.mp4"), Path(folder, "a.wav")
        crops = _cropped(frames, box, subjects)
        encode(crops, [Target(picture, (FACE_PX, FACE_PX), crf=CRF)], None, count)
        write_wav(wav, in_step(samples, piece.first, count, piece.offset), SAMPLE_RATE_HZ)
        _add(tar, "mp4", picture.read_bytes())
        _add(tar, "wav", wav.read_bytes())
    _add(tar, "landmarks.npy", _bytes(inside.astype(np.float32)))
    _add(tar, "masks.npy", _bytes(masks(inside, subjects)))
    _add(tar, FACTS, json.dumps({"box": list(box), "fps": FPS, "frames": count, "offset": piece.offset}).encode())


def _filled(points: np.ndarray) -> np.ndarray:
    """Landmarks (T, P, 2) of unseen frames between their neighbours'."""
    seen = np.isfinite(points[:, 0, 0])
    times = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    filled = np.stack([np.interp(times, times[seen], column[seen]) for column in flat.T], 1)
    return filled.reshape(points.shape).astype(np.float32)


def _cropped(frames: Iterator[np.ndarray], box: Any, subjects: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Square crops (512, 512, 3); notes now and then what of them is subject."""
    for i, frame in enumerate(frames):
        crop = cut_square(frame, box, FACE_PX)
        if i % SUBJECT_EVERY == 0:
            small = cv2.resize(crop, (2 * MASK_PX, 2 * MASK_PX), interpolation=cv2.INTER_AREA)
            subjects.append(subject_map(small))
        yield crop


def masks(points: np.ndarray, subjects: list[np.ndarray]) -> np.ndarray:
    """Head, mouth, eyes of every frame: uint8 (T, 3, 64, 64), 255 = inside; as extract_masks makes them."""
    settings, side = FaceSettings(), 2 * MASK_PX
    stored = np.zeros((len(points), 3, MASK_PX, MASK_PX), np.uint8)
    for i, mesh in enumerate(points * (side / FACE_PX)):
        regions = region_masks(mesh, subjects[i // SUBJECT_EVERY], settings)
        for j, name in enumerate(("head", "mouth", "eyes")):
            small = cv2.resize(regions[name].astype(np.float32), (MASK_PX, MASK_PX), interpolation=cv2.INTER_AREA)
            stored[i, j] = np.rint(small * LEVELS)
    return stored


def in_step(samples: np.ndarray, first: int, frames: int, offset: int) -> np.ndarray:
    """The sound of a segment, `offset` frames later in the file than its pictures; silence beyond either end."""
    per_frame = SAMPLE_RATE_HZ // FPS
    start, count = (first + offset) * per_frame, frames * per_frame
    heard = samples[max(0, start) : max(0, start + count)]
    before = min(max(0, -start), count)
    return np.pad(heard, (before, count - before - len(heard[: count - before])))[:count].astype(np.float32)


def _bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without dates or owners: the same segment, the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
