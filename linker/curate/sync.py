"""Stage 3: do lips and sound belong together? Silence, music and other people's voices are named as what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from linker.config import FPS, SAMPLE_RATE_HZ, CurateSettings
from linker.curate.faces import lip_shape
from linker.curate.measure import Measures
from linker.curate.syncnet import Embeddings, segment_score
from linker.curate.verdicts import Segment, Verdict
from linker.model.critic import REACH, Sync, SyncCritic, judge_sync

Says = Callable[[Segment], Sync | None]
QUIET_DB = -55.0  # level under which a segment is silent, dB of full scale


def judge_lips(
    video: str, segment: Segment, heard: np.ndarray, speech: list[list[float]], found: Sync | None,
    settings: CurateSettings,
) -> Verdict:  # fmt: skip
    """The score is the confidence of whoever judged; offset (frames, positive = the sound is late) is in `measured`."""
    talking = speech_share(segment, speech)
    score, least = found.confidence if found else 0.0, least_confidence(settings)
    figures = {"speech": round(talking, 3), "level_db": round(level_db(heard), 1)}
    figures |= {"confidence": round(score, 3), "offset": found.offset if found else 0}
    figures |= {"sync_d": round(found.distance, 3)} if found and found.distance is not None else {}
    kind, reason = fault(found, talking, level_db(heard), settings)
    frames = [[segment.first, segment.last]] if kind else []
    return Verdict(video, segment.number, "sync", round(score, 3), least, not kind, kind, reason, frames, figures)


def least_confidence(settings: CurateSettings) -> float:
    """The threshold of whoever judges: SyncNet's confidence is another scale than our critic's."""
    return settings.syncnet_confidence if settings.syncnet else settings.sync_confidence


def heard_in(segment: Segment, sound: np.ndarray) -> np.ndarray:
    """The samples beside a segment's frames."""
    return sound[segment.first * SAMPLE_RATE_HZ // FPS : segment.last * SAMPLE_RATE_HZ // FPS]


def critic_says(critic: SyncCritic, segment: Segment, measures: Measures, sound: np.ndarray) -> Sync | None:
    """Our own critic's answer."""
    assert segment.slot is not None
    return judge_sync(critic, lip_shape(measures.points[segment.span, segment.slot]), heard_in(segment, sound))


def syncnet_says(embeddings: Embeddings, segment: Segment) -> Sync | None:
    """SyncNet's answer: Sync-C, Sync-D, and its offset in our sense."""
    found = segment_score(embeddings, segment)
    return Sync(-found.offset, found.sync_c, np.zeros(0), found.sync_d) if found else None


def fault(found: Sync | None, talking: float, level: float, settings: CurateSettings) -> tuple[str, str]:
    """Why a segment is dropped, kind and words; both '' when it is kept."""
    if level < QUIET_DB:
        return "silent", f"silent: {level:.0f} dB"
    if talking == 0:
        return "music", "no speech: music or noise"
    if talking < settings.min_speech:
        return "speechless", f"little speech: {talking:.0%} of the {settings.min_speech:.0%} needed"
    if found is None:
        return "unseen", "too little of the lips is seen"
    if found.confidence < least_confidence(settings):
        return "dubbed", f"lips and sound do not belong together: confidence {found.confidence:.2f}"
    if abs(found.offset) > settings.max_offset:
        when = "late" if found.offset > 0 else "early"
        return "out_of_step", f"out of step: the sound is {abs(found.offset)} frames {when}"
    return "", ""


def speech_share(segment: Segment, speech: list[list[float]]) -> float:
    """Share of the segment in which somebody speaks."""
    first_s, last_s = segment.first / FPS, segment.last / FPS
    spoken_s = sum(max(0.0, min(end_s, last_s) - max(start_s, first_s)) for start_s, end_s in speech)
    return spoken_s / max(segment.seconds, 1e-6)


def level_db(samples: np.ndarray) -> float:
    """Root mean square in dB of full scale."""
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12)) if len(samples) else -120.0


def speaker(segment: Segment, measures: Measures, says: Says) -> int | None:
    """Of several faces, the one whose lips fit the sound best, by whoever judges."""
    faces = measures.points[segment.span]
    enough = [slot for slot in range(faces.shape[1]) if np.isfinite(faces[:, slot, 0, 0]).mean() > 0.8]
    if len(enough) < 2:
        return segment.slot
    found = {slot: says(replace(segment, slot=slot)) for slot in enough}
    fits = {slot: sync.confidence for slot, sync in found.items() if sync and abs(sync.offset) < REACH}
    return max(fits, key=lambda slot: fits[slot]) if fits else segment.slot
