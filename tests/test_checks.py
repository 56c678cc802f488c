"""Quality checks: every planted fault is caught by its own check, and a clean file raises none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from film import film
from hypothesis import given
from hypothesis import strategies as st
from scene import paint

from linker import checks, provenance, signing
from linker.checks import FAIL, NONE, PASS, WARN, Check, Ordered, most_flashes, run_checks, runs
from linker.measure import Places, measure, offset_s, sound_of
from linker.media import write_wav

FPS, SECONDS, RATE_HZ = 25, 4, 48_000
FRAMES = FPS * SECONDS
SIZE = (160, 200)
SPEECH = [[0.2, 1.6], [2.8, 3.9]]
FACTS = {"producer": "Me", "clip": "c"}
Picture = np.ndarray


@dataclass
class Film:
    """How the file is made: what a fault changes. `sound` is float32 (samples,) at 48 kHz."""

    pictures: list[Picture]
    sound: np.ndarray
    target: dict[str, Any]
    ordered: dict[str, Any]
    is_signed: bool = False


def voice() -> np.ndarray:
    """Syllables of noise where somebody speaks, almost nothing elsewhere."""
    seconds = np.arange(SECONDS * RATE_HZ) / RATE_HZ
    loud = np.zeros(len(seconds))
    for start, end in SPEECH:
        loud += ((seconds >= start) & (seconds < end)) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * seconds))
    return (np.random.default_rng(3).normal(0, 0.1, len(seconds)) * (loud + 0.002)).astype(np.float32)


def opening(time_s: float) -> float:
    is_spoken = any(start <= time_s < end for start, end in SPEECH)
    return 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time_s) if is_spoken else 0.0


def picture(index: int, mouth: float | None = None, move: float = 0.0) -> Picture:
    """A head that sways a little and speaks; never quite still, as a generated one."""
    time_s = index / FPS
    sway = 1.2 * np.sin(time_s * 2.1) + move, 0.8 * np.cos(time_s * 1.3)
    return paint(*SIZE, (80, 80), 90, sway, opening(time_s) if mouth is None else mouth)


@pytest.fixture(scope="module")
def clean() -> tuple[list[Picture], np.ndarray, Places]:
    still = paint(*SIZE, (80, 80), 90)
    return [picture(index) for index in range(FRAMES)], voice(), Places(still, (40, 30, 120, 130), (66, 92, 94, 114))


def ordinary(clean: tuple[list[Picture], np.ndarray, Places]) -> Film:
    pictures, sound, _ = clean
    target = {"language": "fr", "metadata": provenance.tags(Path("v.mp4"), "T", FACTS)}
    return Film(list(pictures), sound.copy(), target, {})


def make(film_: Film, folder: Path) -> Path:
    write_wav(folder / "heard.wav", film_.sound, RATE_HZ)
    path = film(folder / "v.mp4", film_.pictures, len(film_.pictures), folder / "heard.wav", SIZE, **film_.target)
    identity = signing.test_identity() if film_.is_signed else None
    provenance.mark(path, "T", FACTS, [folder / "own.wav"], identity)
    return path


def judge(path: Path, film_: Film, folder: Path, places: Places) -> dict[str, Check]:
    source = sound_of(folder / "own.wav")
    assert source is not None
    ordered = Ordered(
        frames=FRAMES, fps=FPS, size=SIZE, codec="h264", pix_fmt="yuv420p", is_mp4=True, sound_codec="aac",
        language="fra", subtitles=False, loudness_lufs=None, source=source, speech=SPEECH, still_dark=0.0,
        mouth_scale=1.0, window=12,
    )  # fmt: skip
    found = run_checks(measure(path, places), replace(ordered, **film_.ordered))
    marks = provenance.read_marks(path) if path.suffix == ".mp4" else provenance.Marks("", "", {})
    found += [
        checks.equal("mark XMP", marks.xmp == provenance.xmp_packet("T", FACTS), True),
        checks.equal("mark AIGC", marks.aigc == provenance.aigc_label(FACTS), True),
    ]
    if film_.is_signed:
        found.append(checks.equal("mark C2PA", provenance.c2pa_fault(marks.c2pa, FACTS, ["own.wav"]), ""))
    return {check.name: check for check in found}


# ---- faults that are planted before the file is made


def dropped_frame(film_: Film) -> None:
    del film_.pictures[40]


def shifted_sound(film_: Film) -> None:
    film_.sound = np.roll(film_.sound, 3 * RATE_HZ // FPS)


def other_sound(film_: Film) -> None:
    film_.sound = np.random.default_rng(9).permutation(film_.sound)


def clipped_sound(film_: Film) -> None:
    film_.sound = np.clip(film_.sound * 12, -1, 1)


def quiet_sound(film_: Film) -> None:
    film_.sound = film_.sound * 0.5


def missed_loudness(film_: Film) -> None:
    film_.ordered = {"loudness_lufs": -16.0}


def black_second(film_: Film) -> None:
    film_.pictures[30:55] = [np.zeros_like(film_.pictures[0])] * 25


def frozen_second(film_: Film) -> None:
    film_.pictures[10:35] = [film_.pictures[10]] * 25


def flashing(film_: Film) -> None:
    for index in range(50, 75, 2):
        film_.pictures[index] = np.clip(film_.pictures[index].astype(int) + 90, 0, 255).astype(np.uint8)


def lost_face(film_: Film) -> None:
    for index in range(60, 66):
        film_.pictures[index] = film_.pictures[index].copy()
        film_.pictures[index][20:140, 30:130] = cv2.GaussianBlur(film_.pictures[index], (0, 0), 30)[20:140, 30:130]


def seam(film_: Film) -> None:
    film_.pictures[48:] = [picture(index, move=14.0) for index in range(48, FRAMES)]


def dead_mouth(film_: Film) -> None:
    film_.pictures = [picture(index, mouth=0.3) for index in range(FRAMES)]


def still_mouth(film_: Film) -> None:
    """The head rests, and the mouth with it."""
    film_.pictures = [paint(*SIZE, (80, 80), 90, (0, 0), 0.3) for _ in range(FRAMES)]


def unasked_mouth(film_: Film) -> None:
    """As dead, but hardly any motion was ordered."""
    dead_mouth(film_)
    film_.ordered = {"mouth_scale": 0.1}


def mouth_in_silence(film_: Film) -> None:
    film_.pictures = [
        picture(index, mouth=0.8 * (index % 3 == 0) - opening(index / FPS) * 0.1) for index in range(FRAMES)
    ]


def swimming_background(film_: Film) -> None:
    rng = np.random.default_rng(4)
    for index, shown in enumerate(film_.pictures):
        swim = cv2.resize(rng.normal(0, 9, (6, 6)).astype(np.float32), SIZE)[..., None]
        film_.pictures[index] = np.clip(shown + swim, 0, 255).astype(np.uint8)


def wrong_language(film_: Film) -> None:
    film_.target["language"] = "de"


def wrong_size(film_: Film) -> None:
    film_.ordered = {"size": (160, 202)}


def wrong_rate(film_: Film) -> None:
    film_.target["fps"] = 24


def wrong_codec(film_: Film) -> None:
    film_.target["codec"] = "h265"


def no_label(film_: Film) -> None:
    del film_.target["metadata"]["AIGC"]


BEFORE: list[tuple[Callable[[Film], None], str, str]] = [
    (dropped_frame, "pictures", FAIL),
    (shifted_sound, "sound late or early, ms", FAIL),
    (other_sound, "the row's own sound, correlation", FAIL),
    (clipped_sound, "clipped samples, share", FAIL),
    (quiet_sound, "loudness, LUFS", FAIL),
    (missed_loudness, "loudness, LUFS", FAIL),
    (black_second, "black pictures", FAIL),
    (frozen_second, "frozen while somebody speaks, s", FAIL),
    (flashing, "flashes in a second", FAIL),
    (lost_face, "face in every picture, least likeness", FAIL),
    (seam, "seams at window joins, worst against the rest", FAIL),
    (swimming_background, "background, variance over time", WARN),
    (dead_mouth, "mouth moves with speech, levels", FAIL),
    (still_mouth, "mouth moves with speech, levels", FAIL),
    (unasked_mouth, "mouth moves with speech, levels", WARN),
    (mouth_in_silence, "mouth rests in silence, share of its motion in speech", WARN),
    (wrong_language, "language tag", FAIL),
    (wrong_size, "size", FAIL),
    (wrong_rate, "rate, pictures a second", FAIL),
    (wrong_codec, "codec", FAIL),
    (no_label, "mark AIGC", FAIL),
]


@pytest.mark.parametrize(("plant", "name", "state"), BEFORE, ids=[plant.__name__ for plant, _, _ in BEFORE])
def test_a_fault_of_the_making_is_caught(
    clean: tuple[list[Picture], np.ndarray, Places],
    tmp_path: Path,
    plant: Callable[[Film], None],
    name: str,
    state: str,
) -> None:
    write_wav(tmp_path / "own.wav", clean[1], RATE_HZ)
    film_ = ordinary(clean)
    plant(film_)
    found = judge(make(film_, tmp_path), film_, tmp_path, clean[2])
    assert found[name].state == state, found[name]


# ---- faults that happen to a finished file


def ffmpeg(*words: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, words)], check=True)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)


def remuxed(path: Path) -> None:
    ffmpeg("-i", path, "-c", "copy", path.with_name("r.mp4"))
    path.with_name("r.mp4").replace(path)


def late(path: Path) -> None:
    ffmpeg("-itsoffset", "0.4", "-i", path, "-c", "copy", "-movflags", "+faststart", path.with_name("r.mp4"))
    path.with_name("r.mp4").replace(path)


def retagged(path: Path) -> None:
    words = ("-c", "copy", "-bsf:v", "h264_metadata=matrix_coefficients=6:colour_primaries=6", path.with_name("r.mp4"))
    ffmpeg("-i", path, *words)
    path.with_name("r.mp4").replace(path)


def tampered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + 2000] ^= 1
    path.write_bytes(content)


def short_sound(path: Path) -> None:
    words = ("-filter_complex", "[0:a]atrim=end=3.7[a]", "-map", "0:v", "-map", "[a]", "-c:v", "copy")
    ffmpeg("-i", path, *words, path.with_name("r.mp4"))
    path.with_name("r.mp4").replace(path)


AFTER: list[tuple[Callable[[Path], None], str]] = [
    (truncated, "decodes"),
    (damaged, "decodes"),
    (remuxed, "mark XMP"),
    (remuxed, "mark C2PA"),
    (remuxed, "index before the pictures"),
    (late, "start of the file, ms"),
    (retagged, "colour tags, matrix primaries transfer range"),
    (tampered, "mark C2PA"),
    (short_sound, "sound and picture end together, frames of 40 ms"),
]


@pytest.fixture(scope="module")
def finished(clean: tuple[list[Picture], np.ndarray, Places], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_wav(folder / "own.wav", clean[1], RATE_HZ)
    return make(replace(ordinary(clean), is_signed=True), folder)


@pytest.mark.parametrize(("harm", "name"), AFTER, ids=[f"{harm.__name__}: {name}" for harm, name in AFTER])
def test_a_fault_of_the_file_is_caught(
    clean: tuple[list[Picture], np.ndarray, Places],
    finished: Path,
    tmp_path: Path,
    harm: Callable[[Path], None],
    name: str,
) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(finished.read_bytes())
    harm(path)
    found = judge(path, replace(ordinary(clean), is_signed=True), finished.parent, clean[2])
    assert found[name].state == FAIL, found[name]


def test_a_clean_file_raises_nothing(clean: tuple[list[Picture], np.ndarray, Places], finished: Path) -> None:
    found = judge(finished, replace(ordinary(clean), is_signed=True), finished.parent, clean[2])
    assert {name: check for name, check in found.items() if check.state not in (PASS, NONE)} == {}
    assert sum(check.state == PASS for check in found.values()) >= 28


def test_what_is_no_video_at_all_fails(clean: tuple[list[Picture], np.ndarray, Places], tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video")
    write_wav(tmp_path / "own.wav", clean[1], RATE_HZ)
    source = sound_of(tmp_path / "own.wav")
    assert source is not None
    found = measure(tmp_path / "v.mp4", clean[2])
    ordered = Ordered(1, FPS, SIZE, "h264", "yuv420p", True, "aac", "und", False, None, source, [], 0.0, 1.0, 12)
    assert [check.state for check in run_checks(found, ordered)] == [FAIL]


# ---- the pieces


@given(st.lists(st.booleans(), max_size=60))
def test_runs_are_where_a_curve_is_true(values: list[bool]) -> None:
    curve = np.array(values, bool)
    found = runs(curve)
    assert sorted(i for run in found for i in range(run.start, run.stop)) == list(np.flatnonzero(curve))
    assert all(a.stop < b.start for a, b in pairwise(found))


@given(st.integers(-8000, 8000))
def test_an_offset_is_found_to_the_sample(late: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    heard = np.roll(np.pad(sound, 16_000), late)[16_000:-16_000]
    assert offset_s(heard, sound)[0] == pytest.approx(late / 16_000)


def levels() -> Iterator[tuple[list[float], int]]:
    yield [100.0] * 50, 0
    yield [100.0, 160.0] * 25, 12
    yield [100.0 + 0.5 * index for index in range(50)], 0  # a fade is no flash
    yield [100.0] * 20 + [200.0] + [100.0] * 29, 1


@pytest.mark.parametrize(("luma", "count"), levels())
def test_flashes_are_pairs_of_opposing_changes(luma: list[float], count: int) -> None:
    assert most_flashes(np.array(luma), 25) == count
