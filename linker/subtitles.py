"""Subtitles: from a SubRip file of the user's, or heard by whisper."""

from __future__ import annotations

import re
from pathlib import Path

from linker.errors import LinkerError
from linker.media import check_file, plain, read_audio
from linker.mux import Cue

MAX_MB, MAX_CHARACTERS = 5, 500
_TIME = r"(\d{1,3}):(\d{2}):(\d{2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(\s.*)?")
_WHISPER_NAMES = {"nb": "no", "jv": "jw", "fil": "tl", "iw": "he", "in": "id", "cmn": "zh"}  # where they differ
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_srt(path: Path) -> list[Cue]:
    """Cues of a SubRip file (UTF-8), in order and apart from each other. Raises LinkerError with file and line."""
    if check_file(path) > MAX_MB * 1e6:
        raise LinkerError(f"{plain(path)}: more than {MAX_MB} MB of subtitles; give a SubRip file")
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LinkerError(f"{plain(path)}: not UTF-8 (byte {error.start}); save it again as UTF-8 text") from None
    cues: list[Cue] = []
    for number, line in enumerate(lines, 1):
        if "-->" in line:
            cues.append(_cue(path, number, line, _text(lines[number:])))
    if not cues:
        raise LinkerError(f"{plain(path)}: holds no subtitles; needed SubRip: 00:00:01,000 --> 00:00:02,500 and text")
    return apart(cues)


def _text(after: list[str]) -> str:
    """The words of a cue out of the lines after its times: up to the next times, and the number that stands before them
    with an empty line between or, in careless files, without one."""
    end = next((index for index, line in enumerate(after) if "-->" in line), len(after))
    if end < len(after) and after[end - 1 : end] and after[end - 1].strip().isdecimal():
        end -= 1
    words = (_CONTROL.sub("", line).strip() for line in after[:end])
    return "\n".join(word for word in words if word)


def _cue(path: Path, number: int, line: str, text: str) -> Cue:
    times = _TIMES.fullmatch(line)
    if not times:
        raise LinkerError(f"{plain(path)}:{number}: no times of SubRip (00:00:01,000 --> 00:00:02,500): {line[:60]!r}")
    start_s, end_s = (_seconds(times.groups()[place : place + 4]) for place in (0, 4))
    if end_s <= start_s:
        raise LinkerError(f"{plain(path)}:{number}: ends before it begins")
    if len(text) > MAX_CHARACTERS:
        found = f"{len(text)} characters, needed at most {MAX_CHARACTERS}"
        raise LinkerError(f"{plain(path)}:{number}: a subtitle of {found}; divide it into several")
    return start_s, end_s, text


def _seconds(fields: tuple[str, ...]) -> float:
    hours, minutes, seconds, thousandths = fields
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths.ljust(3, "0")) / 1000


def apart(cues: list[Cue]) -> list[Cue]:
    """In the order of time, each ending where the next begins at the latest; empty ones are left out, those that begin
    together are one."""
    together: dict[float, list[Cue]] = {}
    for cue in sorted((cue for cue in cues if cue[2]), key=lambda cue: cue[0]):
        together.setdefault(cue[0], []).append(cue)
    ordered = [(start, max(cue[1] for cue in found), "\n".join(cue[2] for cue in found))
               for start, found in together.items()]  # fmt: skip
    ends = [*(cue[0] for cue in ordered[1:]), float("inf")][: len(ordered)]
    cut = [(start, min(end, following), text) for (start, end, text), following in zip(ordered, ends, strict=True)]
    return [cue for cue in cut if cue[1] - cue[0] >= 0.001]


def until(cues: list[Cue], end_s: float) -> list[Cue]:
    """Without what comes after the end of the pictures."""
    return [(start, min(end, end_s), text) for start, end, text in cues if start < end_s]


def transcribe(driver: Path, weights: str, language: str) -> list[Cue]:
    """What whisper hears in a driver (16 kHz mono WAV). Raises EnvironmentError for weights that are missing."""
    from linker.backends import load_whisper

    if not weights:
        raise LinkerError("finish.transcribe needs whisper: set language.whisper, or name subtitles in the manifest")
    model = load_whisper(weights)
    samples, _ = read_audio(driver)
    known = whisper_language(language, model.num_languages)
    # At temperature 0 whisper draws nothing at random: the same sound gives the same words.
    heard = model.transcribe(samples, language=known, temperature=0.0, fp16=model.device.type == "cuda", verbose=None)
    return apart([(float(part["start"]), float(part["end"]), part["text"].strip()) for part in heard["segments"]])


def whisper_language(tag: str, languages: int) -> str | None:
    """Whisper's name of a BCP-47 language among so many that a model knows; None = it listens which one it is."""
    from whisper.tokenizer import LANGUAGES

    spoken = tag.split("-")[0].lower()
    spoken = _WHISPER_NAMES.get(spoken, spoken)
    return spoken if spoken in list(LANGUAGES)[:languages] else None
