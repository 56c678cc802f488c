"""What a face does while it speaks: phonemes become mouth shapes, and prosody becomes blinks, brows and nods."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linker.config import FPS, SAMPLE_RATE_HZ
from linker.synth.motion import Motion
from linker.synth.speech import SILENCE, Speech

Curve = NDArray[np.float32]
Grid = NDArray[np.float64]  # values every 1 / _GRID_HZ seconds

_GRID_HZ = 200
_COARTICULATION_S = 0.12  # whole width of the Hann window; it acts like a window of 60 ms
_CLOSURE_S = 0.07  # lips take at least this long to shut and part, so that a frame of 40 ms sees them shut
_PAUSE_S = 0.15  # shorter silences (before a stop, between words) are no pauses


@dataclass(frozen=True)
class Viseme:
    """A mouth shape: open and teeth 0..1, width -1 rounded..1 spread; how firmly it holds against its neighbours."""

    open: float
    width: float
    teeth: float
    firm_open: float = 1.0
    firm_width: float = 1.0


VISEMES: dict[str, Viseme] = {
    "silence": Viseme(0.00, 0.00, 0.00),
    "lips": Viseme(0.00, -0.05, 0.00, 3.0, 0.3),
    "lip_teeth": Viseme(0.08, 0.10, 0.60, 3.0, 0.7),
    "tongue_teeth": Viseme(0.18, 0.10, 0.55, 1.0, 0.4),
    "tongue_tip": Viseme(0.22, 0.10, 0.35, 0.6, 0.2),
    "hiss": Viseme(0.12, 0.30, 0.90, 1.5, 0.5),
    "hush": Viseme(0.16, -0.50, 0.80, 1.5, 1.0),
    "back": Viseme(0.28, 0.00, 0.15, 0.4, 0.1),
    "rhotic": Viseme(0.24, -0.25, 0.25, 0.6, 0.5),
    "open": Viseme(1.00, 0.10, 0.30, 1.5, 1.0),
    "mid": Viseme(0.55, 0.60, 0.50, 1.2, 1.2),
    "spread": Viseme(0.25, 1.00, 0.60, 1.2, 1.5),
    "round_mid": Viseme(0.60, -0.65, 0.10, 1.2, 1.5),
    "round": Viseme(0.20, -1.00, 0.00, 1.5, 1.8),
    "central": Viseme(0.42, 0.00, 0.25, 0.8, 0.5),
}
CLASSES = tuple(VISEMES)
N_VISEMES = len(CLASSES)

_SOUNDS = {
    "lips": "pbmɓʙ",
    "lip_teeth": "fvʋɱɸβ",
    "tongue_teeth": "θð",
    "tongue_tip": "tdnlɫɬʈɖɳɭɗ",
    "hiss": "szɮ",
    "hush": "ʃʒɕʑʂʐ",
    "back": "kgɡŋxɣχqɴhħɦʔʕɢcɟɲçʎʝʁʀɰ",
    "rhotic": "rɹɾɽɻ",
    "open": "aɐɑæʌɶ",
    "mid": "eɛ",
    "spread": "iɪjɨɯᵻ",
    "round_mid": "oɔɒøœ",
    "round": "uʊwyʏɥʉ",
    "central": "əɜɘɚɝɤɵɞ",
}
_CLASS_OF = {sound: name for name, sounds in _SOUNDS.items() for sound in sounds}
_UNKNOWN = "central"


def classify(name: str) -> tuple[str, ...]:
    """Viseme classes of one IPA name, in order: "aɪ" is open, spread; "" is silence; unknown sounds are neutral."""
    return _known(name) or (("silence",) if name == SILENCE else (_UNKNOWN,))


def is_known(name: str) -> bool:
    """Whether a phoneme's class comes from the table and is not the neutral shape of unknown ones."""
    return name == SILENCE or bool(_known(name))


def _known(name: str) -> tuple[str, ...]:
    name = {"ʲ": "j", "ɯᵝ": "u"}.get(name, name)  # a glide of its own; the Japanese u, which is rounded
    letters = unicodedata.normalize("NFD", name)
    return tuple(_CLASS_OF[letter] for letter in letters if letter in _CLASS_OF)


def viseme_classes(speech: Speech, rate_hz: float = 50) -> NDArray[np.int64]:
    """Class numbers (indices of CLASSES) at the centres of round(duration * rate_hz) frames."""
    ends, classes = _segments(speech)
    return _classes_at(_centres(speech, rate_hz), ends, classes)


def mouth_track(speech: Speech, fps: float = FPS) -> tuple[Curve, Curve, Curve]:
    """(open, width, teeth), each (T,), at frame centres, T = round(duration * fps); 0 in silence."""
    grid_s = (np.arange(int(np.ceil(speech.duration_s * _GRID_HZ)) + 1)) / _GRID_HZ
    ends, classes = _segments(speech)
    shapes = [VISEMES[CLASSES[index]] for index in _classes_at(grid_s, ends, classes)]
    firm_open = np.array([shape.firm_open for shape in shapes])
    firm_width = np.array([shape.firm_width for shape in shapes])
    opening = _blend(np.array([shape.open for shape in shapes]), firm_open)
    opening *= (1 - _closure(grid_s, ends, classes)) * (0.7 + 0.3 * _loudness(speech, grid_s))
    width = _blend(np.array([shape.width for shape in shapes]), firm_width)
    teeth = _blend(np.array([shape.teeth for shape in shapes]), firm_open)
    centres = _centres(speech, fps)
    curves = (np.interp(centres, grid_s, curve).astype(np.float32) for curve in (opening, width, teeth))
    return next(curves), next(curves), next(curves)


def motion(speech: Speech, seed: int, fps: float = FPS) -> Motion:
    """The whole face over round(duration * fps) frames: all zero in the first one, deterministic in (speech, seed)."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(len(_centres(speech, fps))) / fps
    opening, width, teeth = (curve * _ramp(time_s, 0.08) for curve in mouth_track(speech, fps))
    head = _head(speech, time_s, rng)
    curves = {
        "open": opening,
        "width": width,
        "teeth": teeth,
        "blink": _blinks(speech, time_s, rng),
        "brow": _brow(speech, time_s),
        "gaze_x": np.clip(-head["yaw_deg"] / 30, -1, 1),  # the eyes stay with the listener
        "gaze_y": np.clip(-head["pitch_deg"] / 30, -1, 1),
        **head,
        "breath": 0.5 - 0.5 * np.cos(2 * np.pi * time_s * rng.uniform(0.2, 0.3)),
    }
    soft = _ramp(time_s, 0.4)
    still = ("open", "width", "teeth", "breath")
    return Motion(**{k: np.asarray(v if k in still else v * soft, np.float32) for k, v in curves.items()})


def _centres(speech: Speech, rate_hz: float) -> Grid:
    return np.asarray((np.arange(round(speech.duration_s * rate_hz)) + 0.5) / rate_hz, np.float64)


def _ramp(time_s: Grid, length_s: float) -> Grid:
    """0 at the first frame, smoothly 1 from `length_s` on."""
    part = np.clip(time_s / length_s, 0, 1)
    return np.asarray(part * part * (3 - 2 * part))


def _segments(speech: Speech) -> tuple[Grid, NDArray[np.int64]]:
    """Ends in seconds and class numbers; sounds of several letters share their time evenly."""
    ends: list[float] = []
    classes: list[int] = []
    for phoneme in speech.phonemes:
        names = classify(phoneme.name)
        ends += list(np.linspace(phoneme.start_s, phoneme.end_s, len(names) + 1)[1:])
        classes += [CLASSES.index(name) for name in names]
    return np.array(ends), np.array(classes, np.int64)


def _classes_at(time_s: Grid, ends: Grid, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    padded = np.append(classes, CLASSES.index("silence"))
    return np.asarray(padded[np.searchsorted(ends, time_s, side="right")])


def _smooth(values: Grid, width_s: float, rate_hz: float, outside: float = 0.0) -> Grid:
    """Convolution with a Hann window of unit sum; exactly zero where the window sees only zeros."""
    if not len(values):
        return values
    half = max(1, round(width_s * rate_hz / 2))
    window = np.hanning(2 * half + 1)
    padded = np.pad(values, half, constant_values=outside)
    return np.convolve(padded, window / window.sum(), mode="valid")


def _blend(targets: Grid, firm: Grid) -> Grid:
    """Coarticulation: each moment is the mean of the targets around it, weighted by how firmly they are held."""
    weight = _smooth(firm, _COARTICULATION_S, _GRID_HZ, outside=VISEMES["silence"].firm_open)
    return _smooth(targets * firm, _COARTICULATION_S, _GRID_HZ) / weight


def _closure(grid_s: Grid, ends: Grid, classes: NDArray[np.int64]) -> Grid:
    """1 while the lips are shut, with quick ramps; long enough that a frame sees it."""
    shut = np.zeros(len(grid_s))
    starts = np.append(0.0, ends[:-1])
    for start, end in zip(starts[classes == 1], ends[classes == 1], strict=True):
        longer = max(0.0, _CLOSURE_S - (end - start)) / 2
        shut[(grid_s >= start - longer) & (grid_s <= end + longer)] = 1
    return np.clip(1.25 * _smooth(shut, 0.04, _GRID_HZ), 0, 1)


def _loudness(speech: Speech, time_s: Grid) -> Grid:
    """Loudness over time: 0..1 of the loud parts of this speech."""
    block = SAMPLE_RATE_HZ // _GRID_HZ
    padded = np.pad(speech.samples.astype(np.float64), (0, block - len(speech.samples) % block))
    power = _smooth((padded**2).reshape(-1, block).mean(axis=1), 0.08, _GRID_HZ)
    level = np.sqrt(np.interp(time_s, (np.arange(len(power)) + 0.5) / _GRID_HZ, power))
    if not len(level):
        return level
    return np.asarray(np.clip(level / (np.percentile(level, 95) + 1e-6), 0, 1))


def _pauses(speech: Speech) -> list[tuple[float, float]]:
    return [(p.start_s, p.end_s) for p in speech.phonemes if p.name == SILENCE and p.end_s - p.start_s >= _PAUSE_S]


def _blinks(speech: Speech, time_s: Grid, rng: np.random.Generator) -> Grid:
    """Lids shut where pauses begin, at least 1 s apart (what is heard tells every one), and on their own when none
    comes for 6 s."""
    wanted = [start for start, _ in _pauses(speech) if start > 0.4]  # the start is at rest
    lids, last_s = np.zeros(len(time_s)), -1.0
    for edge in [*wanted, speech.duration_s + 6.0]:
        while edge - last_s >= 6.0:
            last_s += rng.uniform(3.0, min(5.0, edge - last_s - 1.0))
            lids = np.maximum(lids, _lid(time_s - last_s))
        if edge - last_s >= 1.0:
            last_s = edge
            lids = np.maximum(lids, _lid(time_s - last_s))
    return lids


def _lid(since_s: Grid) -> Grid:
    """One blink: shut within 80 ms, shut for 30 ms, open again over 150 ms."""
    part = np.interp(since_s, (0.0, 0.08, 0.11, 0.26), (0.0, 1.0, 1.0, 0.0))
    return np.asarray(part * part * (3 - 2 * part))


def _beats(speech: Speech, time_s: Grid) -> Grid:
    """Bumps of 0.36 s on the stressed sounds, as high as they are loud."""
    loudness = _loudness(speech, time_s)
    beats = np.zeros(len(time_s))
    for phoneme in speech.phonemes:
        if phoneme.stress == 2:
            middle = (phoneme.start_s + phoneme.end_s) / 2
            near = np.clip(np.abs(time_s - middle) / 0.18, 0, 1)
            beats = np.maximum(beats, (0.5 + 0.5 * np.cos(np.pi * near)) * np.interp(middle, time_s, loudness))
    return beats


def _energy(speech: Speech, time_s: Grid) -> Grid:
    """Loudness over a phrase: smoothed over 0.6 s."""
    rate_hz = 1 / (time_s[1] - time_s[0]) if len(time_s) > 1 else float(FPS)
    return _smooth(_loudness(speech, time_s), 0.6, rate_hz)


def _brow(speech: Speech, time_s: Grid) -> Grid:
    """Brows go up where a phrase gathers energy and on its beats, and back in pauses."""
    energy = _energy(speech, time_s)
    return np.asarray(np.clip(1.1 * (energy - 0.25) * (energy > 0.25) + 0.25 * _beats(speech, time_s), -1, 1))


def _head(speech: Speech, time_s: Grid, rng: np.random.Generator) -> dict[str, Grid]:
    """Nods on beats, a chin that rises with the phrase's energy, a turn with its rise and back with its fall; little
    drift beside: what nothing tells is noise to a net. Speakers differ in how much they do."""
    energy, lively, told = _energy(speech, time_s), rng.uniform(0.0, 0.15), rng.uniform(0.8, 1.2)
    rise = energy - np.interp(time_s - 0.5, time_s, energy, left=0.0) if len(time_s) else energy
    yaw = told * 12.0 * rise + 4.0 * lively * _drift(time_s, rng)
    pitch = told * (3.0 * _beats(speech, time_s) - 4.0 * energy) + 2.5 * lively * _drift(time_s, rng)
    roll = told * 4.0 * energy + 2.5 * lively * _drift(time_s, rng) + 0.15 * yaw
    return {
        "yaw_deg": yaw,
        "pitch_deg": pitch,
        "roll_deg": roll,
        "x": 0.003 * yaw + 0.006 * lively * _drift(time_s, rng),
        "y": 0.002 * pitch + 0.005 * lively * _drift(time_s, rng),
    }


def _drift(time_s: Grid, rng: np.random.Generator) -> Grid:
    """Slow wandering within about -1.4..1.4: four waves of 0.07 to 0.5 Hz."""
    waves = [np.sin(2 * np.pi * (rng.uniform(*band) * time_s + rng.random())) for band in _BANDS_HZ]
    return np.asarray(sum(wave / (1 + k) for k, wave in enumerate(waves)) / 1.5)


_BANDS_HZ = ((0.07, 0.15), (0.15, 0.25), (0.25, 0.35), (0.35, 0.5))
