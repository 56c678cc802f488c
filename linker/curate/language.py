"""hear_language: what is spoken in a video, as detect_language hears it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from linker.audio import find_speech
from linker.config import SAMPLE_RATE_HZ, LanguageSettings
from linker.curate.judge import SPEECH_THRESHOLD
from linker.language import detect_language
from linker.media import read_audio
from linker.records import read_json, write_json


def hear_language(sound: Path, facts: Path, language: Path, settings: LanguageSettings) -> None:
    """Write `language` (JSON): what detect_language says of a video's `sound`; `facts` tell whether it was refused."""
    refusal = read_json(facts)["refusal"]
    samples, _ = read_audio(sound, SAMPLE_RATE_HZ)
    speech = find_speech(samples, SPEECH_THRESHOLD) if not refusal and samples.any() else []
    with tempfile.TemporaryDirectory() as folder:
        spans = Path(folder, "speech.json")
        write_json(spans, {"refusal": refusal, "speech": speech, "speech_s": sum(end - start for start, end in speech)})
        detect_language(sound, spans, language, settings)
