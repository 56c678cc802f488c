"""Speech whose phoneme timings are known, spoken by eSpeak NG, and endless random speech for training and checks."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.signal import fftconvolve, lfilter

from linker.config import SAMPLE_RATE_HZ
from linker.errors import EnvironmentError
from linker.synth.texts import SENTENCES, phrase, shuffled, spoken

Samples = NDArray[np.float32]

VOICES: dict[str, str] = {
    "en": "en-us", "zh": "cmn", "ja": "ja", "ko": "ko", "fr": "fr", "th": "th", "de": "de", "es": "es",
    "it": "it", "pt": "pt-br", "ru": "ru", "hi": "hi", "ar": "ar", "tr": "tr", "pl": "pl", "nl": "nl",
}  # fmt: skip
LANGUAGES = tuple(VOICES)
VARIANTS = (
    "", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5",
    "Andy", "Annie", "Denis", "Alicia", "Michael", "linda", "steph", "john", "max", "shelby", "travis",
)  # fmt: skip
SILENCE = ""  # the name of a pause
_CLOSE_FRONT = {"ru": "ɨ", "pt": "i"}  # voices whose unrounded sound is wrongly named "y"


@dataclass(frozen=True)
class Phoneme:
    """One sound: seconds, its IPA name without stress marks ("" = a pause), stress 0 none, 1 secondary, 2 primary."""

    start_s: float
    end_s: float
    name: str
    stress: int = 0


@dataclass(frozen=True)
class Speech:
    """`samples` float32 (n,) at 16 kHz within -1..1; `phonemes` cover it from 0 to its end without gaps."""

    samples: Samples
    phonemes: tuple[Phoneme, ...]
    language: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


def speak(text: str, language: str, variant: str = "", speed_wpm: int = 165, pitch: int = 50) -> Speech:
    """Say `text` in one of LANGUAGES; text in `[[...]]` is read as eSpeak phonemes. The same input, the same samples.

    `variant` is one of VARIANTS, `speed_wpm` 80..450 words a minute, `pitch` 0..100.
    Raises EnvironmentError when eSpeak NG is missing, too old or without its data, ValueError for an unknown voice.
    """
    if language not in VOICES or variant not in VARIANTS:
        raise ValueError(f"found voice {language}+{variant}, needed one of {LANGUAGES} and {VARIANTS}")
    pcm, marks = _synthesise(spoken(text), VOICES[language] + (f"+{variant}" if variant else ""), speed_wpm, pitch)
    samples = soxr.resample(pcm.astype(np.float32) / 32768, _ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
    marks = [(start, name.replace("y", _CLOSE_FRONT.get(language, "y"))) for start, name in _with_closures(marks, pcm)]
    return Speech(np.clip(samples, -1, 1), _phonemes(marks, len(samples) / SAMPLE_RATE_HZ), language)


def silence(seconds: float, language: str = "") -> Speech:
    """A pause of round(seconds * 16000) samples."""
    count = round(seconds * SAMPLE_RATE_HZ)
    pause = (Phoneme(0.0, count / SAMPLE_RATE_HZ, SILENCE),) if count else ()
    return Speech(np.zeros(count, np.float32), pause, language)


def join(pieces: list[Speech]) -> Speech:
    """One speech after the other; the language is the first piece's."""
    phonemes: list[Phoneme] = []
    samples = 0
    for piece in pieces:
        start = samples / SAMPLE_RATE_HZ
        for p in piece.phonemes:
            edge = phonemes[-1].end_s if phonemes else 0.0
            phonemes.append(Phoneme(edge, start + p.end_s, p.name, p.stress))
        samples += len(piece.samples)
    return Speech(np.concatenate([piece.samples for piece in pieces]), tuple(phonemes), pieces[0].language)


def cut(speech: Speech, seconds: float) -> Speech:
    """The first `seconds`, faded out over 20 ms where speech goes on."""
    count = min(round(seconds * SAMPLE_RATE_HZ), len(speech.samples))
    end = count / SAMPLE_RATE_HZ
    samples = speech.samples[:count].copy()
    fade = min(count, SAMPLE_RATE_HZ // 50) if count < len(speech.samples) else 0
    samples[count - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    kept = (Phoneme(p.start_s, min(p.end_s, end), p.name, p.stress) for p in speech.phonemes if p.start_s < end)
    return Speech(samples, tuple(kept), speech.language)


def random_speech(seed: int, language: str | None = None, duration_s: tuple[float, float] = (2.0, 6.0)) -> Speech:
    """Random sentences of one random voice in a random room, with pauses; as long as a draw from `duration_s`."""
    rng = np.random.default_rng(seed)
    language = language or str(rng.choice(LANGUAGES))
    length_s = float(rng.uniform(*duration_s))
    say = _random_voice(language, rng)
    pieces = [silence(_pause_s(rng), language)] if rng.random() < 0.5 else []
    while sum(piece.duration_s for piece in pieces) < length_s:
        pieces += [say(_random_text(language, rng)), silence(_pause_s(rng), language)]
    speech = cut(join(pieces), length_s)
    return Speech(_in_a_room(speech.samples, rng), speech.phonemes, language)


def _random_voice(language: str, rng: np.random.Generator) -> Callable[[str], Speech]:
    variant, speed, pitch = str(rng.choice(VARIANTS)), int(rng.integers(120, 221)), int(rng.integers(20, 81))
    return lambda text: speak(text, language, variant, speed, pitch)


def _pause_s(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.2, 0.7) if rng.random() < 0.8 else rng.uniform(0.03, 0.2))


def _random_text(language: str, rng: np.random.Generator) -> str:
    """A few words of a sentence (so that pauses are heard), all of it, one with its words in another order, or
    babble."""
    kind = rng.random()
    if kind < 0.1:
        return _babble(rng)
    text = str(rng.choice(SENTENCES[language]))
    if kind < 0.75:
        return phrase(text, rng)
    return text if kind < 0.85 else shuffled(text, rng)


def _babble(rng: np.random.Generator) -> str:
    """Random syllables, rich in lip sounds, as phonemes that every voice knows."""
    onsets = ("p", "b", "m", "m", "b", "p", "f", "v", "w", "t", "d", "n", "s", "l", "k", "j", "")
    nuclei = ("a", "e", "i", "o", "u", "a", "i:", "u:", "a:", "o")
    syllables = [rng.choice(onsets) + rng.choice(("", "'")) + rng.choice(nuclei) for _ in range(rng.integers(4, 13))]
    return "[[" + "".join(str(part) + (" " if rng.random() < 0.35 else "") for part in syllables) + "]]"


def _in_a_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """Reverberation, slow level changes, a level between -36 and -14 dB RMS, and noise under it; peaks stay below 1."""
    wet = _reverberate(samples, rng) if rng.random() < 0.4 else samples
    drift_db = np.interp(np.arange(len(wet)), np.linspace(0, len(wet), 5), rng.uniform(-4, 4, 5))
    voiced = wet * 10 ** (drift_db / 20)
    level = 10 ** (rng.uniform(-36, -14) / 20)
    voiced = voiced * (level / (np.sqrt(np.mean(voiced**2)) + 1e-6))
    if rng.random() < 0.7:
        voiced = voiced + _noise(len(wet), rng) * level * 10 ** (-rng.uniform(15, 50) / 20)
    return np.asarray(voiced / max(1.0, np.abs(voiced).max() / 0.98), np.float32)


def _reverberate(samples: Samples, rng: np.random.Generator) -> Samples:
    decay_s = rng.uniform(0.08, 0.35)  # until the tail is 60 dB down
    time_s = np.arange(int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)
    tail *= rng.uniform(0.1, 0.5) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return np.asarray(fftconvolve(samples, tail)[: len(samples)], np.float32)


def _noise(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of unit RMS, between white and brownish."""
    coloured = lfilter([1.0], [1.0, -rng.uniform(0, 0.98)], rng.standard_normal(count))
    return np.asarray(coloured / (np.std(coloured) + 1e-9))


# --- eSpeak NG through ctypes ------------------------------------------------------------------------------------

_ESPEAK_RATE_HZ = 22_050
_SYNCHRONOUS, _PHONEME_EVENTS_IPA, _NO_EXIT = 2, 3, 1 << 15
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_PHONEME_EVENT = 7  # espeak_EVENT_TYPE
_UTF8_WITH_PHONEMES = 0x101
_JOIN_S = 0.06  # unnamed sounds shorter than this are transitions between two sounds, longer ones are pauses
_INSTALL = "install the Python package espeakng-loader, or espeak-ng 1.52 or newer from the system"
_STOPS = tuple("ptkqcʈ")  # voiceless; voiced ones sound through their closure
_LOCK = threading.Lock()

Mark = tuple[float, str]  # (seconds, IPA name with stress marks)


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _synthesise(text: str, voice: str, speed_wpm: int, pitch: int) -> tuple[NDArray[np.int16], list[Mark]]:
    """PCM at 22.05 kHz and the phonemes' starts.

    The library keeps flutter state between utterances and seeds its breath noise by the clock, so it is loaded
    afresh each time (under 1 ms) and seeded.
    """
    with _LOCK:
        library = _load()
        try:
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            library.espeak_SetParameter(_RATE, speed_wpm, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise EnvironmentError(f"{library._name}: found no voice {voice!r}; {_INSTALL}")
            return _collect(library, text)
        finally:
            library.espeak_Terminate()
            close = ctypes.CDLL(None).dlclose
            close.argtypes = [ctypes.c_void_p]
            close(library._handle)


def _load() -> ctypes.CDLL:
    path, data = _location()
    library = ctypes.CDLL(path)
    library.espeak_Info.restype = ctypes.c_char_p
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS_IPA | _NO_EXIT)
    version = library.espeak_Info(None).decode().split()[0]
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 52):  # older ones spell out Chinese in English
        raise EnvironmentError(f"{path}: found espeak-ng {version}, needed 1.52 or newer; {_INSTALL}")
    if rate != _ESPEAK_RATE_HZ:
        raise EnvironmentError(f"{path}: espeak-ng does not start (no voice data?); {_INSTALL}")
    return library


def _location() -> tuple[str, bytes | None]:
    """The library and its data folder: the wheel's, which is pinned, before the system's."""
    wheel = importlib.util.find_spec("espeakng_loader")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent
        found = [p for p in folder.glob("libespeak-ng.*") if p.suffix in (".so", ".dylib")]
        if found:
            return str(found[0]), str(folder / "espeak-ng-data").encode()
    system = ctypes.util.find_library("espeak-ng")
    if system is None:
        raise EnvironmentError(f"espeak-ng was not found; {_INSTALL}")
    return system, None


def _collect(library: ctypes.CDLL, text: str) -> tuple[NDArray[np.int16], list[Mark]]:
    chunks: list[NDArray[np.int16]] = [np.zeros(0, np.int16)]
    marks: list[Mark] = []

    @_Callback
    def receive(wave, count, events):  # type: ignore[no-untyped-def]
        if wave and count:
            chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != 0:
            if events[index].type == _PHONEME_EVENT:
                marks.append((events[index].sample / _ESPEAK_RATE_HZ, events[index].id.decode("utf-8", "ignore")))
            index += 1
        return 0

    library.espeak_SetSynthCallback(receive)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 1, 0, _UTF8_WITH_PHONEMES, None, None)
    library.espeak_Synchronize()
    return np.concatenate(chunks), marks


def _with_closures(marks: list[Mark], pcm: NDArray[np.int16]) -> list[Mark]:
    """Stops begin where the sound stops: eSpeak marks their burst, up to 60 ms after the closure."""
    sounding = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 8) / _ESPEAK_RATE_HZ
    moved: list[Mark] = []
    for start, name in marks:
        if name.lstrip("ˈˌ")[:1] in _STOPS:
            before = sounding[: np.searchsorted(sounding, start)]
            start = max(float(before[-1]) if len(before) else 0.0, start - 0.06, moved[-1][0] if moved else 0.0)
        moved.append((start, name))
    return moved


def _phonemes(marks: list[Mark], duration_s: float) -> tuple[Phoneme, ...]:
    """Sounds from their starts: gapless over 0..duration_s, transitions joined to the sound before them."""
    marks = [mark for mark in marks if not mark[1].startswith("(")]  # "(en)": the language changes here
    starts = [min(start, duration_s) for start, _ in marks] + [duration_s]
    sounds = [Phoneme(0.0, starts[0], SILENCE)]
    for (_, mark), start, end in zip(marks, starts, starts[1:], strict=False):
        name = mark.lstrip("ˈˌ").strip("_:|")
        if (name == SILENCE and end - start < _JOIN_S) or name == sounds[-1].name == SILENCE:
            sounds[-1] = Phoneme(sounds[-1].start_s, end, sounds[-1].name, sounds[-1].stress)
        else:
            sounds.append(Phoneme(start, end, name, {"ˈ": 2, "ˌ": 1}.get(mark[:1], 0)))
    return tuple(sound for sound in sounds if sound.end_s > sound.start_s)
