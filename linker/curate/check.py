"""Does curation find what it should? Drawn footage with planted faults, measured and judged as any other.

measure_check draws and measures a share of it; check_curation judges all of it and writes the confusion matrix. A
fault is planted at four strengths; from DOCUMENTED on it must be found by its stage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linker.config import MEASURED_FORM, SAMPLE_RATE_HZ, CurateSettings
from linker.curate.funnel import write_rows
from linker.curate.judge import judge
from linker.curate.measure import Measures, look_through
from linker.curate.verdicts import STAGES
from linker.encode import Target, encode
from linker.media import read_audio, write_wav
from linker.model.critic import SyncCritic, load_critic
from linker.records import write_json
from linker.synth.defects import DEFECTS
from linker.synth.footage import draw_defect, draw_footage
from linker.ticks import read_sound

FIRST_SEED = 20_000_000
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
DOCUMENTED = 0.5
CRF = 20  # of the drawn videos, as footage mostly comes
# What a fault rightly shows to other stages too: covered lips say nothing, a cut is also a leap, and so on.
ALSO = {
    "hand": ("sync", "scene"), "microphone": ("sync", "scene"), "thing": ("sync", "scene", "coherence"),
    "caption": ("sync", "scene"), "mask": ("sync", "scene"), "leaving": ("cut", "scene", "sync", "coherence"),
    "hard_cut": ("occlusion", "sync", "coherence", "cut"), "jump_cut": ("occlusion", "coherence", "sync"),
    "fade": ("occlusion", "sync", "coherence"), "dissolve": ("occlusion", "sync", "coherence"),
    "flicker": ("scene",), "shake": ("scene", "occlusion", "sync"), "passer_by": ("scene", "occlusion"),
    "splice": ("scene", "occlusion"), "freeze": ("sync", "scene"),
    "blur": ("sync", "occlusion", "scene"), "compression": ("sync", "occlusion", "scene"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One drawn video: `kind` of DEFECTS, or 'clean'."""

    name: str
    seed: int
    kind: str
    strength: float


def cases(count: int) -> list[Case]:
    """`count` videos with faults, kinds and strengths taking turns, and as many clean ones."""
    kinds = list(DEFECTS)
    planted = [(kinds[i % len(kinds)], STRENGTHS[i // len(kinds) % len(STRENGTHS)]) for i in range(count)]
    made = [Case(f"{kind}-{i:04d}", FIRST_SEED + i, kind, strength) for i, (kind, strength) in enumerate(planted)]
    return made + [Case(f"clean-{i:04d}", FIRST_SEED + 250_000 + i, "clean", 0.0) for i in range(count)]


def measure_check(measured: Path, share: int, shares: int, count: int) -> None:
    """Draw, encode and measure every `shares`-th case from `share` on; those that are there are kept. `measured` (JSON)
    is written when all are."""
    mine = cases(count)[share::shares]
    for case in mine:
        target = measured.parent / f"{case.name}.{MEASURED_FORM}.npz"
        if not target.exists():
            _measure(case, target)
    write_json(measured, {"cases": [case.name for case in mine]})


def _measure(case: Case, target: Path) -> None:
    footage = draw_footage(case.seed) if case.kind == "clean" else draw_defect(case.seed, case.kind, case.strength)
    height, width = footage.frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        sound, video = Path(folder, "sound.wav"), Path(folder, "video.mp4")
        write_wav(sound, footage.samples, SAMPLE_RATE_HZ)
        encode(footage.frames, [Target(video, (width, height), crf=CRF)], sound, len(footage.frames))
        found = look_through(video)
        write_wav(target.with_suffix(".wav"), read_sound(video, len(found)), SAMPLE_RATE_HZ)
    found.save(target)


def check_curation(measured: list[Path], critic: Path, confusion: Path, settings: CurateSettings, count: int) -> None:
    """Judge every case; `confusion` (CSV) has a line a kind and strength; recall and precision lie beside it (JSON)."""
    judge_of = load_critic(critic)
    results = [(case, flags(case, measured[0].parent, judge_of, settings)) for case in cases(count)]
    write_rows(confusion, list(table(results)))
    write_json(confusion.with_suffix(".json"), {stage: figures(stage, results) for stage in STAGES[1:]})


def flags(case: Case, folder: Path, critic: SyncCritic, settings: CurateSettings) -> dict[str, str]:
    """Stage -> kind of the first fault it found in the video; absent where it kept everything."""
    measures = Measures.load(folder / f"{case.name}.{MEASURED_FORM}.npz")
    samples, _ = read_audio(folder / f"{case.name}.{MEASURED_FORM}.wav", SAMPLE_RATE_HZ)
    _, verdicts = judge(case.name, measures, samples, critic, settings)
    return {verdict.stage: verdict.kind for verdict in reversed(verdicts) if not verdict.kept}


def table(results: list[tuple[Case, dict[str, str]]]) -> Iterator[dict[str, Any]]:
    """How many videos of each kind and strength each stage dropped."""
    for kind, strength in dict.fromkeys((case.kind, case.strength) for case, _ in results):
        found = [flag for case, flag in results if (case.kind, case.strength) == (kind, strength)]
        hits = {stage: sum(stage in flag for flag in found) for stage in STAGES}
        told = {"kind": kind, "strength": strength, "means": in_words(kind, strength), "videos": len(found)}
        yield {**told, **hits, "kept": sum(not flag for flag in found)}


def in_words(kind: str, strength: float) -> str:
    """What a strength of a fault is, in the units that its plant draws."""
    share, seconds = 0.08 + 0.5 * strength, 0.6 + strength
    before = f"before {share:.0%} of the face's box, for {seconds:.2g} s"
    return {
        "clean": "nothing planted", "hand": before, "microphone": before, "thing": before, "caption": before,
        "leaving": f"the face goes over the edge within {0.4 + strength:.2g} s, and comes back",
        "mask": f"worn throughout, from {0.64 - 0.24 * strength:.0%} of the face's height down",
        "hard_cut": "another video from some frame on", "jump_cut": f"{1.15 + 0.5 * strength:.3g} times nearer",
        "fade": f"{min(1.0, 0.9 + strength):.0%} of the way to black or white, and back, within 1 s",
        "dissolve": f"into another video within {round(25 - 15 * strength) / 25:.2g} s",
        "late_sound": f"{round(6 + 8 * strength)} frames late or early", "other_voice": "another person's speech",
        "silence": "no sound but faint noise", "music": "chords in place of the voice",
        "flicker": f"the light jumps by up to {0.04 + 0.16 * strength:.0%} a frame, for 1.2 s",
        "shake": f"the picture moves by {0.01 + 0.03 * strength:.2%} of its width at 3 Hz, for 1.6 s",
        "passer_by": f"a figure {0.12 + 0.2 * strength:.0%} of the width wide, across in {1.6 - 0.6 * strength:.2g} s",
        "splice": f"0.5 s missing, the head {0.08 + 0.2 * strength:.2g} face heights away",
        "freeze": f"one frame for {0.3 + 0.7 * strength:.2g} s",
        "blur": f"a blur of {0.01 + 0.03 * strength:.2%} of the face's height (sigma)",
        "compression": f"JPEG of quality {round(12 - 10 * strength)}",
    }[kind]  # fmt: skip


def figures(stage: str, results: list[tuple[Case, dict[str, str]]]) -> dict[str, float]:
    """Recall of a stage on its own faults from DOCUMENTED on; precision over everything it dropped."""
    own = [flag for case, flag in results if _stage(case) == stage and case.strength >= DOCUMENTED]
    raised = [case for case, flag in results if stage in flag]
    right = [case for case in raised if _stage(case) == stage or stage in ALSO.get(case.kind, ())]
    hits = sum(stage in flag for flag in own)
    clean = [flag for case, flag in results if case.kind == "clean"]
    return {
        "planted": len(own), "found": hits, "recall": round(hits / max(len(own), 1), 4),
        "raised": len(raised), "right": len(right), "precision": round(len(right) / max(len(raised), 1), 4),
        "clean": len(clean), "false_alarms": sum(stage in flag for flag in clean),
    }  # fmt: skip


def _stage(case: Case) -> str:
    return DEFECTS[case.kind][0] if case.kind != "clean" else ""
