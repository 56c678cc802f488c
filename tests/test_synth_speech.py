"""Synthetic speech: the same input gives the same samples, timings fit the sound, and the mouth obeys the phonemes."""

from __future__ import annotations

import ctypes.util
import importlib.util
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.config import ROOT_DIR, SAMPLE_RATE_HZ
from linker.errors import EnvironmentError
from linker.media import probe
from linker.synth import visemes
from linker.synth.speech import LANGUAGES, SILENCE, VARIANTS, Speech, cut, join, random_speech, silence, speak
from linker.synth.texts import GREETINGS, SENTENCES, phrase, shuffled, spoken
from linker.synth.visemes import CLASSES, N_VISEMES, classify, is_known, motion, mouth_track, viseme_classes

SEEDS = st.integers(0, 2**31 - 1)


@cache
def example() -> Speech:
    return join([silence(0.6), speak("My brother bought a blue bicycle.", "en"), silence(0.8), speak("Papa!", "en")])


def assert_tiled(speech: Speech) -> None:
    """Phonemes start at 0, follow each other without gaps, and end with the samples."""
    edges = [0.0] + [phoneme.end_s for phoneme in speech.phonemes]
    assert [phoneme.start_s for phoneme in speech.phonemes] == edges[:-1]
    assert all(later > earlier for earlier, later in pairwise(edges))
    assert edges[-1] == pytest.approx(speech.duration_s, abs=1e-4)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) if len(samples) else 0.0


# --- speech ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_is_spoken_with_sounds_of_sensible_length(language: str) -> None:
    for text in SENTENCES[language]:
        speech = speak(text, language)
        sounds = [phoneme for phoneme in speech.phonemes if phoneme.name != SILENCE]
        assert_tiled(speech)
        assert speech.samples.dtype == np.float32
        assert np.abs(speech.samples).max() <= 1
        assert 0.9 < speech.duration_s < 6
        assert 5 < len(sounds) / speech.duration_s < 20, text
        assert rms(speech.samples) > 0.02


def test_every_language_has_a_dozen_different_sentences() -> None:
    assert set(SENTENCES) == set(LANGUAGES) >= {"en", "zh", "ja", "ko", "fr", "th"}
    assert all(len(set(texts)) >= 12 for texts in SENTENCES.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_phrase_is_some_neighbouring_words_of_a_sentence(language: str) -> None:
    rng = np.random.default_rng(0)
    for text in SENTENCES[language]:
        part = phrase(text, rng).removeprefix("[[").removesuffix("]]")
        assert 2 <= len(part.split()) <= 4
        whole = "".join(letter for letter in spoken(text) if letter.isalpha() or letter.isspace())
        assert "".join(letter for letter in part if letter.isalpha()) in "".join(whole.split())
    assert speak(phrase(SENTENCES[language][0], rng), language).duration_s > 0.2


@pytest.mark.parametrize("variant", ["", "m3", "f2", "Alicia"])  # f2 and Alicia breathe: noise from a generator
def test_the_same_text_gives_the_same_samples_whatever_was_said_before(variant: str) -> None:
    first = speak("Good morning to you.", "en", variant)
    speak("Bonjour à tous", "fr", "f5", 210, 75)
    again = speak("Good morning to you.", "en", variant)
    assert np.array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes


def test_voice_speed_and_pitch_are_heard() -> None:
    plain = speak("Good morning to you.", "en")
    assert speak("Good morning to you.", "en", speed_wpm=220).duration_s < 0.85 * plain.duration_s
    for other in (speak("Good morning to you.", "en", "f2"), speak("Good morning to you.", "en", pitch=80)):
        assert not np.array_equal(other.samples[:8000], plain.samples[:8000])


def test_all_variants_exist() -> None:
    for variant in VARIANTS:
        assert 0.3 < speak("Good day.", "en", variant).duration_s < 1.5


def test_pauses_are_quiet_and_stressed_vowels_loud() -> None:
    speech = speak("Hello papa. Good morning mama.", "en")
    sound: dict[bool, list[float]] = {True: [], False: []}
    for phoneme in speech.phonemes:
        if phoneme.stress == 2 or (phoneme.name == SILENCE and phoneme.end_s - phoneme.start_s > 0.1):
            start, end = (round(second * SAMPLE_RATE_HZ) for second in (phoneme.start_s + 0.02, phoneme.end_s - 0.02))
            sound[phoneme.stress == 2].append(rms(speech.samples[start:end]))
    assert max(sound[False]) < 0.01 < 0.05 < min(sound[True])


def test_phonemes_can_be_spelt_and_thai_is() -> None:
    names = [phoneme.name for phoneme in speak("[[m'ama]]", "it").phonemes if phoneme.name]
    assert names == ["m", "a", "m", "a"]
    assert all(spoken(text).startswith("[[") for text in (*SENTENCES["th"], GREETINGS["th"]))


def test_unknown_voices_are_errors() -> None:
    with pytest.raises(ValueError, match="nobody"):
        speak("Hello", "en", "nobody")
    with pytest.raises(ValueError, match="tlh"):
        speak("Hello", "tlh")


def test_a_missing_synthesiser_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(EnvironmentError, match="install the Python package espeakng-loader"):
        speak("Hello", "en")


@settings(deadline=None, max_examples=40)
@given(seconds=st.floats(0.05, 4.0))
def test_cut_keeps_the_tiling_and_fades(seconds: float) -> None:
    part = cut(example(), seconds)
    assert_tiled(part)
    assert len(part.samples) == min(round(seconds * SAMPLE_RATE_HZ), len(example().samples))
    if len(part.samples) < len(example().samples):
        assert part.samples[-1] == 0


def test_joining_shifts_the_second_piece() -> None:
    speech = speak("Mama.", "en")
    both = join([silence(1.0), speech])
    assert_tiled(both)
    assert both.phonemes[1].end_s == pytest.approx(1 + speech.phonemes[0].end_s)
    assert np.array_equal(both.samples[SAMPLE_RATE_HZ:], speech.samples)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, language=st.sampled_from((None, *LANGUAGES)))
def test_random_speech_is_drawn_from_its_seed_alone(seed: int, language: str | None) -> None:
    speech = random_speech(seed, language, (1.0, 2.0))
    assert np.array_equal(speech.samples, random_speech(seed, language, (1.0, 2.0)).samples)
    assert_tiled(speech)
    assert speech.language == (language or speech.language)
    assert 0.99 < speech.duration_s < 2.01
    assert np.isfinite(speech.samples).all()
    assert np.abs(speech.samples).max() <= 1


def test_shuffling_keeps_the_words() -> None:
    rng = np.random.default_rng(0)
    text = "one two three four five six"
    assert sorted(shuffled(text, rng).split()) == sorted(text.split())
    assert shuffled(text, rng) != text
    assert sorted(shuffled("早上好，朋友", rng).replace(" ", "")) == sorted("早上好朋友")
    thai = shuffled(SENTENCES["th"][0], rng)
    assert thai.startswith("[[")
    assert thai.endswith("]]")
    assert "[" not in thai[2:-2]


def test_the_demo_recordings_are_short_and_carry_their_language() -> None:
    for language in GREETINGS:
        info = probe(Path(ROOT_DIR) / "workflow" / "resources" / "demo" / f"{language}.opus")
        assert info.audio is not None
        assert info.audio.codec == "opus"
        assert 2.5 <= info.duration_s <= 4


# --- visemes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_knows_the_sounds_of_every_language(language: str) -> None:
    names = [phoneme.name for text in SENTENCES[language] for phoneme in speak(text, language).phonemes]
    unknown = [name for name in names if not is_known(name)]
    assert len(unknown) <= 0.02 * len(names), f"not in the table: {sorted(set(unknown))}"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (SILENCE, ("silence",)),
        ("m", ("lips",)),
        ("aɪ", ("open", "spread")),
        ("tʃ", ("tongue_tip", "hush")),
        ("ɔ̃", ("round_mid",)),
        ("uː", ("round",)),
        ("ɯᵝ", ("round",)),
        ("ä", ("open",)),
        ("!", ("central",)),
    ],
)
def test_names_are_classified_by_their_letters(name: str, classes: tuple[str, ...]) -> None:
    assert classify(name) == classes


def test_no_sound_is_in_two_classes() -> None:
    letters = "".join(visemes._SOUNDS.values())
    assert len(letters) == len(set(letters))
    assert set(visemes._SOUNDS) | {"silence"} == set(CLASSES)


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 40_000), fps=st.sampled_from((24.0, 25.0, 30.0, 50.0)))
def test_tracks_have_exactly_one_value_a_frame(count: int, fps: float) -> None:
    whole = example()
    speech = cut(whole, count / SAMPLE_RATE_HZ)
    frames = round(len(speech.samples) / SAMPLE_RATE_HZ * fps)
    assert [curve.shape for curve in mouth_track(speech, fps)] == [(frames,)] * 3
    assert len(motion(speech, 1, fps)) == frames
    assert viseme_classes(speech, fps).shape == (frames,)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_values_stay_in_their_ranges(seed: int) -> None:
    moves = motion(random_speech(seed, duration_s=(1.0, 3.0)), seed)
    for name, low, high in (("open", 0, 1), ("width", -1, 1), ("teeth", 0, 1), ("blink", 0, 1), ("brow", -1, 1)):
        curve = getattr(moves, name)
        assert curve.dtype == np.float32, name
        assert low <= curve.min() <= curve.max() <= high, name
    for name, most in (("yaw_deg", 25), ("pitch_deg", 15), ("roll_deg", 12), ("x", 0.08), ("y", 0.08)):
        assert np.abs(getattr(moves, name)).max() <= most, name


def test_the_mouth_is_closed_in_silence() -> None:
    assert not any(curve.any() for curve in mouth_track(silence(2.0)))
    opening, width, teeth = mouth_track(example())
    centres = (np.arange(len(opening)) + 0.5) / 25
    for pause in (p for p in example().phonemes if p.name == SILENCE and p.end_s - p.start_s > 0.3):
        inside = (centres > pause.start_s + 0.08) & (centres < pause.end_s - 0.1)
        assert inside.any()
        assert not opening[inside].any()
        assert not width[inside].any()
        assert not teeth[inside].any()


@pytest.mark.parametrize("language", ["en", "ko", "fr", "th", "de", "es"])
def test_lips_meet_on_every_lip_sound_and_part_on_open_vowels(language: str) -> None:
    speech = speak("[[m'ap'ab'a m'ama p'apa]]", language, speed_wpm=110)
    opening, _, _ = mouth_track(speech)
    for phoneme in speech.phonemes:
        first, last = (round(second * 25) for second in (phoneme.start_s - 0.07, phoneme.end_s + 0.03))
        around = opening[max(0, first) : last + 1]
        if phoneme.name in ("p", "b", "m") and phoneme.start_s > 0.05:
            assert around.min() < 0.06, phoneme
        if phoneme.name in ("a", "ɐ") and phoneme.stress:
            assert around.max() > 0.6, phoneme


def test_round_and_spread_vowels_shape_the_mouth() -> None:
    for text, sign in (("[[u:]]", -1), ("[[i:]]", 1)):
        _, width, _ = mouth_track(join([silence(0.2), speak(text, "de", speed_wpm=100), silence(0.2)]))
        assert (sign * width).max() > 0.8
        assert (-sign * width).max() < 0.1


def test_viseme_classes_follow_the_phonemes() -> None:
    speech = speak("[[m'a:m'a:]]", "it", speed_wpm=100)
    classes = viseme_classes(speech)
    assert classes.dtype == np.int64
    assert classes.min() >= 0
    assert classes.max() < N_VISEMES
    for index, number in enumerate(classes):
        now = next(p for p in speech.phonemes if p.end_s > (index + 0.5) / 50)
        assert CLASSES[number] in classify(now.name)


# --- motion ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_motion_starts_at_rest_and_repeats(seed: int) -> None:
    moves, again = motion(example(), seed), motion(example(), seed)
    for name, curve in vars(moves).items():
        assert curve[0] == 0, name
        assert np.array_equal(curve, getattr(again, name)), name


def test_other_seeds_move_the_head_and_not_the_mouth() -> None:
    one, two = motion(example(), 1), motion(example(), 2)
    assert np.array_equal(one.open, two.open)
    assert np.array_equal(one.brow, two.brow)
    assert not np.allclose(one.yaw_deg, two.yaw_deg)


def test_people_blink_as_in_conversation_each_for_a_few_frames() -> None:
    speech = join([piece for text in SENTENCES["en"] for piece in (speak(text, "en"), silence(0.5))])
    shut = motion(speech, 0).blink > 0
    starts = np.flatnonzero(np.diff(shut.astype(int)) == 1)
    ends = np.flatnonzero(np.diff(shut.astype(int)) == -1)
    assert 12 <= len(starts) / (speech.duration_s / 60) <= 26  # Bentivoglio 1997: 17 at rest, 26 in conversation
    assert {end - start for start, end in zip(starts, ends, strict=False)} <= {5, 6, 7}


def test_a_pause_brings_a_blink_at_its_start() -> None:
    speech = join([speak("My brother bought a blue bicycle.", "en"), silence(1.5)])
    peak = int(np.argmax(motion(speech, 5).blink)) / 25
    start = next(p.start_s for p in speech.phonemes if p.name == SILENCE and p.end_s - p.start_s > 1)
    assert start - 0.05 < peak < start + 0.25


def test_the_head_nods_on_stress_and_keeps_typical_angles() -> None:
    poses = [motion(random_speech(seed, duration_s=(5.0, 6.0)), seed) for seed in range(12)]
    for name, low, high in (("yaw_deg", 1, 9), ("pitch_deg", 0.5, 5), ("roll_deg", 0.4, 5)):
        angles = np.abs(np.concatenate([getattr(pose, name) for pose in poses]))
        assert low < np.percentile(angles, 95) < high, name
