"""Quality checks of a finished file: pure judgements over measured facts, each with its value and its limit.

pass; warn = a person should look; fail = the file is not what was ordered; not applicable = nothing to judge, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from linker.config import FPS
from linker.formats import BT709, source_frame
from linker.loudness import CEILING_DB
from linker.measure import DARK_LUMA, Curves, Measured, Pictures, Sound, envelope, offset_s

PASS, WARN, FAIL, NONE = "pass", "warn", "fail", "not applicable"
CLOCK_S = 0.0015  # Matroska counts milliseconds
OFFSET_MS = 5.0
SAME_SOUND = 0.9  # correlation; AAC at 32 kbit/s still reaches it
DARK_SHARE, DARK_STILL = 0.98, 0.9
STILL_CHANGE, FROZEN_S = 0.02, 0.8  # levels of luma a picture; seconds of speech
FLASH_LEVELS, FLASHES_A_S = 21.9, 3  # a tenth of the range, opposing changes (ITU-R BT.1702)
FACE_WARN, FACE_FAIL = 0.8, 0.5
MOUTH_MOVES, MOUTH_FOLLOWS, MOUTH_RESTS = 0.5, 0.1, 1.0
# A mouth is dead where next to nothing changes, or what does goes with the head (decision 0007): shares of the mouth's
# contrast, and of all change in its place; only from this scale on.
MOUTH_STILL, MOUTH_CARRIED, MOUTH_ASKED = 0.016, (0.035, 0.35), 0.5
SEAM_WARN, SEAM_FAIL, SEAM_LEVELS = 2.0, 4.0, 3.0  # times the 99th percentile elsewhere; and at least levels of luma
LOUDNESS_LU = 1.0
CLIPPED = 1e-3
BACKGROUND = 2.0  # levels squared; x264 itself makes some tenths
STEADY_SHARE, HEAD_SHARES, COLOUR_DRIFT = 0.2, (0.95, 1.05), 2.0  # of what was generated; levels of 255
RIM_SHARE = 1.1
HARDLY_SWAM, HARDLY_MOVED = 0.1, 0.05  # levels squared; parts per thousand of the crop a frame
ENOUGH_SPEECH_S, ENOUGH_SILENCE_S, EDGE_S = 1.0, 0.5, 0.2


@dataclass(frozen=True)
class Check:
    """One judgement. `value` and `limit` are JSON values in the unit that the name says."""

    name: str
    state: str
    value: Any
    limit: Any
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ordered:
    """What the file should be. `speech` are spans in seconds; `source` the sound it was made from, decoded."""

    frames: int
    fps: int
    size: tuple[int, int]
    codec: str
    pix_fmt: str
    is_mp4: bool
    sound_codec: str
    language: str
    subtitles: bool
    loudness_lufs: float | None
    source: Sound
    speech: list[list[float]]
    still_dark: float
    mouth_scale: float
    window: int
    anchored_s: tuple[float, ...] = ()
    colours: tuple[int, ...] = BT709


def run_checks(found: Measured, ordered: Ordered) -> list[Check]:
    """All checks in the order in which people want to read them."""
    if found.error or found.pictures is None or found.sound is None:
        lacks = found.error or ("no pictures" if found.pictures is None else "no sound")
        return [Check("decodes", FAIL, lacks, "whole file")]
    pictures, sound = found.pictures, found.sound
    return [
        *_format(found, pictures, sound, ordered),
        *_sound(pictures, sound, ordered),
        *_pictures(pictures.curves, ordered),
        *_mouth(pictures, sound, ordered),
        seams(pictures.curves, ordered),
        _background(pictures),
        Check("drift, windows anchored again", WARN if ordered.anchored_s else PASS, len(ordered.anchored_s), 0,
              ", ".join(f"{second:g} s" for second in ordered.anchored_s)),
    ]  # fmt: skip


def track_checks(found: Measured, ordered: Ordered) -> list[Check]:
    """Those of the file and its sound: for a second file of the same pictures."""
    if found.error or found.pictures is None or found.sound is None:
        return run_checks(found, ordered)
    return [*_format(found, found.pictures, found.sound, ordered), *_sound(found.pictures, found.sound, ordered)]


def failed(checks: list[Check]) -> list[Check]:
    """Those that keep a file back."""
    return [check for check in checks if check.state == FAIL]


def equal(name: str, value: Any, wanted: Any) -> Check:
    """A check of something that is right or wrong."""
    return Check(name, PASS if value == wanted else FAIL, value, wanted)


def _at_most(name: str, value: float, warn: float, fail: float, note: str = "") -> Check:
    state = FAIL if value > fail else WARN if value > warn else PASS
    return Check(name, state, round(value, 3), fail, note)


def _format(found: Measured, pictures: Pictures, sound: Sound, ordered: Ordered) -> Iterator[Check]:
    count, time_s = len(pictures.curves.time_s), pictures.curves.time_s.astype(float)
    yield Check("decodes", FAIL if pictures.error else PASS, pictures.error or "whole file", "whole file")
    yield equal("pictures", count, ordered.frames)
    late_s = float(np.abs(time_s - np.arange(count) / ordered.fps).max()) if count else 0.0
    yield _at_most("clock, ms from an even beat that begins at 0", late_s * 1000, CLOCK_S * 1000, CLOCK_S * 1000)
    yield _at_most("start of the file, ms", abs(found.start_s) * 1000, CLOCK_S * 1000, CLOCK_S * 1000)
    yield equal("rate, pictures a second", round(pictures.fps, 3), float(ordered.fps))
    yield equal("size", list(pictures.size), list(ordered.size))
    yield equal("codec", [pictures.codec, pictures.pix_fmt], [ordered.codec, ordered.pix_fmt])
    yield equal("square pixels", pictures.square_pixels, True)
    yield equal("colour tags, matrix primaries transfer range", list(pictures.colours), list(ordered.colours))
    yield equal("sound codec", sound.codec, ordered.sound_codec)
    yield equal("language tag", sound.language, ordered.language)
    tracks = [ordered.language] if ordered.subtitles else []
    yield equal("subtitle tracks", found.subtitles, tracks)
    if ordered.is_mp4:
        yield equal("index before the pictures", found.faststart, True)


def _sound(pictures: Pictures, sound: Sound, ordered: Ordered) -> Iterator[Check]:
    apart = abs(sound.length_s - len(pictures.curves.time_s) / ordered.fps) * FPS
    yield _at_most("sound and picture end together, frames of 40 ms", apart, 1, 1)
    late_s, likeness = offset_s(sound.samples, ordered.source.samples)
    yield Check("the row's own sound, correlation", PASS if likeness >= SAME_SOUND else FAIL, round(likeness, 4),
                SAME_SOUND)  # fmt: skip
    yield _at_most("sound late or early, ms", abs(late_s) * 1000, OFFSET_MS, OFFSET_MS)
    yield _loudness(sound, ordered)
    yield _clipping(sound, ordered)


def _loudness(sound: Sound, ordered: Ordered) -> Check:
    name, heard = "loudness, LUFS", sound.loudness
    target = ordered.source.loudness.integrated_lufs if ordered.loudness_lufs is None else ordered.loudness_lufs
    if not (np.isfinite(target) and np.isfinite(heard.integrated_lufs)):
        return Check(name, NONE, None, None, "too short or silent to measure")
    fits = abs(heard.integrated_lufs - target) <= LOUDNESS_LU
    peak_fits = ordered.loudness_lufs is None or heard.true_peak_db <= CEILING_DB
    note = f"true peak {heard.true_peak_db:.1f} dBTP" + ("" if ordered.loudness_lufs else ", as the row's own")
    mixed = ordered.loudness_lufs is None and ordered.source.channels > 2  # a mix to stereo has a loudness of its own
    note += "" if peak_fits else f", over {CEILING_DB:g}: raise finish.audio_kbps"
    state = PASS if fits and peak_fits else WARN if mixed else FAIL
    return Check(name, state, heard.integrated_lufs, target, note)


def _clipping(sound: Sound, ordered: Ordered) -> Check:
    name, source = "clipped samples, share", ordered.source.clipped
    state = PASS if sound.clipped <= CLIPPED else WARN if source >= sound.clipped / 10 else FAIL
    return Check(name, state, round(sound.clipped, 6), CLIPPED, "so it came" if state == WARN else "")


def _pictures(curves: Curves, ordered: Ordered) -> Iterator[Check]:
    if ordered.still_dark >= DARK_STILL:
        yield Check("black pictures", NONE, None, 0, "the portrait itself is dark")
    else:
        yield _at_most("black pictures", int((curves.dark >= DARK_SHARE).sum()), 0, 0, f"luma under {DARK_LUMA}")
    yield _frozen(curves, ordered)
    yield _at_most("flashes in a second", most_flashes(curves.luma, ordered.fps), FLASHES_A_S, FLASHES_A_S)
    least = float(curves.face.min()) if len(curves.face) else 0.0
    state = FAIL if least < FACE_FAIL else WARN if least < FACE_WARN else PASS
    below = int((curves.face < FACE_FAIL).sum())
    yield Check("face in every picture, least likeness", state, round(least, 3), FACE_FAIL,
                f"missing in {below} pictures" if below else "")  # fmt: skip


def _background(pictures: Pictures) -> Check:
    """A still portrait's background should be still, too."""
    state = WARN if pictures.background > BACKGROUND else PASS
    return Check("background, variance over time", state, round(pictures.background, 3), BACKGROUND)


def steadied(told: dict[str, Any]) -> list[Check]:
    """What stabilize_background did (its sidecar): a stiller background, the head's own motion, steady colour."""
    before, after = told["before"], told["after"]
    names = ("background stabilised, share of its variance left", "head's motion, share of the generated one",
             "background's drift of colour, levels", "rim about the head, share of its variance left")  # fmt: skip
    swam, moved, drift = before["background_variance"], before["head_motion"], after["colour_drift"]
    if swam is None or drift is None:
        return [Check(name, NONE, None, None, "the head fills the crop") for name in names]
    left, share = after["background_variance"] / max(swam, 1e-9), (after["head_motion"] or 0) / max(moved or 0, 1e-9)
    is_kept, band = HEAD_SHARES[0] <= share <= HEAD_SHARES[1], "{} to {}".format(*HEAD_SHARES)
    return [
        Check(names[0], PASS if left <= STEADY_SHARE else WARN, round(left, 4), STEADY_SHARE)
        if swam >= HARDLY_SWAM
        else Check(names[0], NONE, None, STEADY_SHARE, "it hardly moved before"),
        Check(names[1], PASS if is_kept else WARN, round(share, 3), band)
        if (moved or 0) >= HARDLY_MOVED
        else Check(names[1], NONE, None, band, "it hardly moves"),
        Check(names[2], PASS if drift <= COLOUR_DRIFT else WARN, drift, COLOUR_DRIFT),
        _rim(names[3], before.get("rim_variance"), after.get("rim_variance")),
    ]


def _rim(name: str, swam: float | None, swims: float | None) -> Check:
    """Between head and background hair moves as it should, and may swim as it should not: nothing here tells them
    apart, so this only warns where stabilising made it less steady than it was generated."""
    if swam is None or swims is None or swam < HARDLY_SWAM:
        return Check(name, NONE, None, RIM_SHARE, "it hardly moved before")
    share = swims / swam
    return Check(name, PASS if share <= RIM_SHARE else WARN, round(share, 3), RIM_SHARE, f"{swims:.1f} levels squared")


def _frozen(curves: Curves, ordered: Ordered) -> Check:
    name = "frozen while somebody speaks, s"
    spoken = is_spoken(curves.time_s, ordered.speech)
    longest = max((int(spoken[run].sum()) for run in runs(curves.head_change[1:] < STILL_CHANGE, 1)), default=0)
    if ordered.mouth_scale == 0:
        return Check(name, NONE, longest / ordered.fps, FROZEN_S, "the mouth's scale is 0")
    return _at_most(name, longest / ordered.fps, FROZEN_S, FROZEN_S)


def runs(true: np.ndarray, first: int = 0) -> list[slice]:
    """Where a bool curve is true, as slices; `first` is the number of its first element."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    return [slice(int(start) + first, int(end) + first) for start, end in edges.reshape(-1, 2)]


def most_flashes(luma: np.ndarray, fps: float) -> int:
    """Pairs of opposing changes of luma by FLASH_LEVELS, in the second that has the most of them."""
    turns: list[int] = []
    extreme, direction = (float(luma[0]) if len(luma) else 0.0), 0
    for index, level in enumerate(luma):
        change = float(level) - extreme
        if abs(change) >= FLASH_LEVELS and np.sign(change) != direction:
            turns.append(index)
            extreme, direction = float(level), int(np.sign(change))
        elif direction == 0 or change * direction > 0:
            extreme = float(level) if direction else extreme
    most = max((sum(start <= turn < start + fps for turn in turns) for start in turns), default=0)
    return most // 2


def is_spoken(time_s: np.ndarray, speech: list[list[float]], edge_s: float = 0.0) -> np.ndarray:
    """Bool (F,): pictures in the spans of speech, each widened by `edge_s`."""
    spoken = np.zeros(len(time_s), bool)
    for start, end in speech:
        spoken |= (time_s >= start - edge_s) & (time_s < end + edge_s)
    return spoken


def _mouth(pictures: Pictures, sound: Sound, ordered: Ordered) -> Iterator[Check]:
    """Only a dead mouth fails: weights differ in how far they open one, and a soft voice opens it little."""
    curves = pictures.curves
    spoken, wide = (is_spoken(curves.time_s, ordered.speech, edge_s) for edge_s in (0.0, EDGE_S))
    moves = "mouth moves with speech, levels"
    follows, rests = "mouth follows the sound, correlation", "mouth rests in silence, share of its motion in speech"
    if ordered.mouth_scale == 0 or spoken.sum() < ENOUGH_SPEECH_S * ordered.fps:
        why = "the mouth's scale is 0" if ordered.mouth_scale == 0 else "hardly any speech was found"
        yield from (Check(name, NONE, None, None, why) for name in (moves, follows, rests))
        return
    yield _moves(moves, pictures, spoken, ordered.mouth_scale)
    level = np.log10(envelope(sound.samples, curves.time_s, ordered.fps) + 1e-4)
    together = correlation(level, curves.mouth)
    yield Check(follows, PASS if together >= MOUTH_FOLLOWS else WARN, round(together, 2), MOUTH_FOLLOWS)
    if (~wide).sum() < ENOUGH_SILENCE_S * ordered.fps:
        yield Check(rests, NONE, None, MOUTH_RESTS, "no silence to rest in")
        return
    motion = np.abs(np.diff(curves.mouth, prepend=curves.mouth[:1]))
    share = float(motion[~wide].mean() / max(motion[spoken].mean(), 1e-6))
    yield Check(rests, PASS if share <= MOUTH_RESTS else WARN, round(share, 2), MOUTH_RESTS)


def _moves(name: str, pictures: Pictures, spoken: np.ndarray, scale: float) -> Check:
    """Does the mouth change by itself, beside being carried by the head?"""
    moved, own = (float(curve[spoken].std()) for curve in (pictures.curves.mouth, pictures.curves.mouth_own))
    share, of_all = own / max(pictures.mouth_contrast, 1.0), own / max(moved, 1e-6)
    is_dead = share < MOUTH_STILL or (share < MOUTH_CARRIED[0] and of_all < MOUTH_CARRIED[1])
    if scale >= MOUTH_ASKED and is_dead:
        return Check(name, FAIL, round(own, 2), MOUTH_MOVES, f"of {moved:.2f} levels of change, the rest is the head's")
    return Check(name, PASS if own >= MOUTH_MOVES else WARN, round(own, 2), MOUTH_MOVES)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where one of them never changes."""
    if len(one) < 2 or one.std() < 1e-6 or other.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def seams(curves: Curves, ordered: Ordered) -> Check:
    """Does the head jump where one window of generation ends and the next begins?"""
    name = "seams at window joins, worst against the rest"
    count = len(curves.head_change)
    shown = np.array([source_frame(index, ordered.fps, 1 << 30) for index in range(count)])
    stepped = np.diff(shown, prepend=0) == 1  # repeated and skipped pictures tell nothing
    is_join = stepped & (shown % ordered.window == 0)
    others = stepped & ~is_join
    if not is_join.any() or others.sum() < ordered.window:
        return Check(name, NONE, None, SEAM_FAIL, "a single window")
    worst, usual = float(curves.head_change[is_join].max()), float(np.percentile(curves.head_change[others], 99))
    ratio = worst / max(usual, 0.1) if worst >= SEAM_LEVELS else min(worst / max(usual, 0.1), SEAM_WARN)
    return _at_most(name, ratio, SEAM_WARN, SEAM_FAIL, f"{worst:.1f} levels, elsewhere {usual:.1f}")
