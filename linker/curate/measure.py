"""measure_video: one decode pass in which everything is measured that the stages judge; nothing is judged here.

So thresholds can be moved without decoding again. Faces, cuts, hands, motion and light are all measured on the same
small picture, the sound beside it.
"""

from __future__ import annotations

import math
import sys
import traceback
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from linker.config import FPS, SAMPLE_RATE_HZ, CurateSettings, LimitSettings
from linker.curate.changes import Changes
from linker.curate.faces import KEPT, SLOTS, TILE_PX, Follower, kept, tile
from linker.curate.hands import HandFinder
from linker.curate.motion import Mover, blockiness
from linker.errors import as_expected
from linker.media import MediaInfo, Undecodable, check_file, plain, probe, write_wav
from linker.records import Refusal, atomic, write_json
from linker.ticks import read_clocks, read_sound, ticks

_STEP = "measure_video"
LOOK_PX = 640  # longest side of the picture that is measured
READ_PX = 1920  # longest side that is decoded to
LEAST_PX = 64  # shortest side of a picture
WORDS_MAX = 300  # of a reason
EVERY = 5  # frames between two looks for hands and for further faces
PREVIEW_EVERY, PREVIEW_PX = 10, 192
THUMB = (32, 18)  # width, height


@dataclass(frozen=True)
class Measures:
    """One video, T frames at 25 a second. Pixels are those of the measured picture, `scale` times the source's.

    source (T,) number of the file's own frame, qp (T,) H.264's quantiser of it (NaN of other codecs); luma and
    luma_outside (T,) mean of the picture and of what lies outside the head, 0..255; content, content_face, histogram,
    adaptive, adaptive_face (T,) PySceneDetect's figures; change (T,) mean difference to the frame before; camera,
    objects (T,) median and 95th percentile of the motion outside the head, picture widths a frame; sharpness (T,) of
    the face; blocks (T/5,) of the picture; thumbs (T, 18, 32, 3); points (T, slots, P, 2) landmarks, NaN unseen; tiles
    (T, slots, 32, 32, 3) upright faces; hands (T/5, 2, 21, 2); others (T/5, 4, 5) faces of any size as box and score;
    previews: JPEG bytes of every tenth frame.
    """

    source: np.ndarray
    qp: np.ndarray
    luma: np.ndarray
    luma_outside: np.ndarray
    content: np.ndarray
    content_face: np.ndarray
    histogram: np.ndarray
    adaptive: np.ndarray
    adaptive_face: np.ndarray
    change: np.ndarray
    camera: np.ndarray
    objects: np.ndarray
    sharpness: np.ndarray
    blocks: np.ndarray
    thumbs: np.ndarray
    points: np.ndarray
    tiles: np.ndarray
    hands: np.ndarray
    others: np.ndarray
    previews: np.ndarray
    preview_ends: np.ndarray
    size: np.ndarray  # height, width of the measured picture
    scale: np.ndarray  # () measured pixels a source pixel

    def __len__(self) -> int:
        return len(self.source)

    def preview(self, frame: int) -> np.ndarray:
        """The kept picture nearest before `frame`, uint8 (h, w, 3) RGB."""
        number = min(frame // PREVIEW_EVERY, len(self.preview_ends) - 1)
        first = self.preview_ends[number - 1] if number else 0
        picture = cv2.imdecode(self.previews[first : self.preview_ends[number]], cv2.IMREAD_COLOR)
        return np.asarray(picture)[..., ::-1]

    def save(self, path: Path) -> None:
        """Write one .npz, whole or not at all."""
        with atomic(path) as temporary:
            np.savez_compressed(temporary, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> Measures:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return Measures(**{field.name: arrays[field.name] for field in fields(Measures)})


def measure_video(
    video: Path, measures: Path, sound: Path, facts: Path, settings: CurateSettings, limits: LimitSettings
) -> None:
    """Write `measures` (.npz), `sound` (16 kHz mono WAV) and `facts` (JSON: the container, or the refusal)."""
    looker = Looker()  # before the video is opened: networks that do not load are no fault of its
    try:
        info = admitted(video, settings, limits)
        found = look_through(video, looker, settings.max_video_s)
        heard = (
            read_sound(video, len(found)) if info.audio else np.zeros(len(found) * SAMPLE_RATE_HZ // FPS, np.float32)
        )
        known = told(video, info, len(found))
    except Exception as fault:
        write_empty(measures, sound)
        refusal = refusal_of(plain(video), fault, _STEP)
        write_json(facts, {"refusal": refusal.to_json(), "duration_s": round(stated_s(video), 3)})
        return
    found.save(measures)
    write_wav(sound, heard, SAMPLE_RATE_HZ)
    write_json(facts, known)


def refusal_of(video: str, fault: Exception, step: str) -> Refusal:
    """What a video is refused for. Raises `fault` where the machine is to blame: every video would be refused then."""
    if isinstance(fault, ImportError | MemoryError) or as_expected(fault):
        raise fault
    if not isinstance(fault, Undecodable):
        traceback.print_exception(fault)
        words = (
            f"{video}: cannot be read as it should be ({type(fault).__name__}: {(str(fault) or '-').splitlines()[0]})"
        )
        fault = Undecodable("unreadable", words[:WORDS_MAX])
    print(f"refused ({fault.kind}): {fault}", file=sys.stderr)
    return Refusal(fault.kind, str(fault), step)


def stated_s(video: Path) -> float:
    """How long a video is by its own account, 0 where it has none: refused hours are hours of footage, too."""
    try:
        info = probe(video)
    except Undecodable:
        return 0.0
    return max(info.duration_s, 0.0) if info.video else 0.0


def admitted(video: Path, settings: CurateSettings, limits: LimitSettings) -> MediaInfo:
    """What the container states, if it may be read at all. Raises Undecodable."""
    size_mb = check_file(video) / 1e6
    if size_mb > settings.max_video_mb:
        raise Undecodable("too_large", f"{plain(video)}: {size_mb:.0f} MB, at most {settings.max_video_mb:g}")
    info = probe(video)
    if info.video is None:
        raise Undecodable("no_video", f"{plain(video)}: holds no moving pictures")
    if info.duration_s > settings.max_video_s:
        raise Undecodable(
            "too_long", f"{plain(video)}: {info.duration_s:.0f} s, at most {settings.max_video_s:g}; split it"
        )
    if 0 < info.video.fps < settings.min_fps:
        raise Undecodable("slow", f"{plain(video)}: {info.video.fps:g} frames a second, needed {settings.min_fps:g}")
    if min(info.video.width, info.video.height) < LEAST_PX:
        size = f"{info.video.width} x {info.video.height}"
        raise Undecodable("too_small", f"{plain(video)}: pictures of {size}, needed {LEAST_PX} pixels a side")
    if info.video.width * info.video.height > limits.max_image_megapixels * 1e6:
        raise Undecodable("too_large", f"{plain(video)}: pictures over {limits.max_image_megapixels:g} megapixels")
    return info


def told(video: Path, info: MediaInfo, frames: int) -> dict[str, Any]:
    """What is known of the file itself."""
    assert info.video is not None
    clocks = read_clocks(video)
    bits = video.stat().st_size * 8 / max(frames, 1) / (info.video.width * info.video.height)
    return {
        "refusal": None,
        "duration_s": frames / FPS,
        "bits_a_pixel": round(bits, 4),
        "video": asdict(info.video),
        "audio": asdict(info.audio) if info.audio else None,
        "audio_tracks": clocks.tracks,
        "audio_starts_s": round(clocks.audio_s - clocks.video_s, 4),
    }


def write_empty(measures: Path, sound: Path) -> None:
    """Stand-ins for a refused video, so that the rule's outputs exist; no stage reads them."""
    with atomic(measures) as temporary:
        np.savez(temporary)
    write_wav(sound, np.zeros(SAMPLE_RATE_HZ // 5, np.float32), SAMPLE_RATE_HZ)


def look_through(video: Path, looker: Looker | None = None, most_s: float = math.inf) -> Measures:
    """The one decode pass, of at most `most_s` seconds. Raises Undecodable."""
    looker = looker or Looker()
    for tick in ticks(video, READ_PX, most_s=most_s):
        looker.look(tick.frame, tick.source, tick.scale, tick.qp)
    return looker.done()


class Looker:
    """Takes frames one by one; holds figures, not pictures."""

    def __init__(self) -> None:
        self.follower, self.hands, self.mover, self.changes = Follower(), HandFinder(), Mover(), Changes()
        self.columns: dict[str, list[Any]] = {}
        self.scale, self.size = 1.0, (0, 0)

    def look(self, frame: np.ndarray, source: int, decoded: float = 1.0, qp: float = np.nan) -> None:
        """Measure one frame, uint8 (H, W, 3) RGB, with `decoded` of its pixels a pixel of the file's."""
        count = len(self.columns.get("source", ()))
        scale = min(1.0, LOOK_PX / max(frame.shape[:2]))
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        self.scale, self.size = scale * decoded, small.shape[:2]
        faces = self.follower.follow(small)
        self._add(source=source, qp=qp, **self.mover.measure(small, faces), **self.changes.measure(small, faces))
        self._add(thumbs=cv2.resize(small, THUMB, interpolation=cv2.INTER_AREA), **_in_slots(small, faces))
        if count % EVERY == 0:
            self._add(blocks=blockiness(frame), **self.hands.measure(small))
        if count % PREVIEW_EVERY == 0:
            self._add(previews=_preview(small))

    def _add(self, **figures: Any) -> None:
        for name, figure in figures.items():
            self.columns.setdefault(name, []).append(figure)

    def done(self) -> Measures:
        """Everything measured."""
        self.follower.close()
        self.hands.close()
        pictures = self.columns.pop("previews")
        arrays = {name: np.array(column) for name, column in self.columns.items()}
        arrays = {
            name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in arrays.items()
        }
        used = max(1, int(np.isfinite(arrays["points"]).any((0, 2, 3)).nonzero()[0].max(initial=0)) + 1)
        arrays |= {"points": arrays["points"][:, :used], "tiles": arrays["tiles"][:, :used]}
        arrays |= self.changes.windows()
        ends = np.cumsum([len(picture) for picture in pictures])
        return Measures(
            **arrays, previews=np.concatenate(pictures), preview_ends=ends,
            size=np.array(self.size), scale=np.array(self.scale),
        )  # fmt: skip


def _in_slots(small: np.ndarray, faces: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    points = np.full((SLOTS, len(KEPT), 2), np.nan, np.float32)
    tiles = np.zeros((SLOTS, TILE_PX, TILE_PX, 3), np.uint8)
    for slot, face in faces.items():
        points[slot], tiles[slot] = kept(face), tile(small, face)
    return {"points": points, "tiles": tiles}


def _preview(small: np.ndarray) -> np.ndarray:
    scale = PREVIEW_PX / max(small.shape[:2])
    picture = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]).ravel()
