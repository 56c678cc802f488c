"""judge_video: every stage's verdict on every segment, from what was measured; nothing is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from linker.audio import find_speech
from linker.config import SAMPLE_RATE_HZ, CurateSettings
from linker.curate.coherence import judge_coherence
from linker.curate.cut import find_segments, judge_cut
from linker.curate.doubles import Look, look_at, save_looks
from linker.curate.measure import Measures, refusal_of
from linker.curate.occlusion import judge_occlusion
from linker.curate.scenes import judge_scenes
from linker.curate.sync import critic_says, heard_in, judge_lips, speaker, syncnet_says
from linker.curate.syncnet import Embeddings, load_embeddings
from linker.curate.verdicts import Segment, Verdict
from linker.media import read_audio
from linker.model.critic import Sync, SyncCritic, load_critic
from linker.records import read_json, write_json

SPEECH_THRESHOLD = 0.5


def judge_video(
    video: str, measures: Path, sound: Path, facts: Path, critic: Path, verdicts: Path, looks: Path,
    settings: CurateSettings, embeddings: list[Path],
) -> None:  # fmt: skip
    """Write `verdicts` (JSON): the segments and a verdict a stage; a refused video has one verdict, of stage cut;
    and `looks` (.npz), by which segments are compared across videos.

    `embeddings` has SyncNet's, where it judges instead of our own critic.
    """
    told, network = read_json(facts), load_critic(critic)
    refusal, segments, found, seen = told["refusal"], list[Segment](), list[Verdict](), dict[int, Look]()
    if not refusal:
        samples, _ = read_audio(sound, SAMPLE_RATE_HZ)
        measured, heard = Measures.load(measures), [load_embeddings(path) for path in embeddings]
        try:
            segments, found = judge(video, measured, samples, network, settings, *heard)
            seen = {segment.number: look_at(measured, segment) for segment in segments if segment.slot is not None}
        except Exception as fault:
            refusal = refusal_of(video, fault, "judge_video").to_json()
    if refusal:
        segments, found = [], [Verdict(video, 0, "cut", 0.0, 0.0, False, refusal["kind"], refusal["reason"])]
    save_looks(looks, seen)
    listed = [{"number": s.number, "first": s.first, "last": s.last, "slot": s.slot} for s in segments]
    spoken = {"video": video, "duration_s": told["duration_s"], "segments": listed}
    write_json(verdicts, spoken | {"verdicts": [with_tracks(verdict, told).to_json() for verdict in found]})


def with_tracks(verdict: Verdict, told: dict[str, Any]) -> Verdict:
    """What stage 3 says is of the first sound track: how many there are belongs to it."""
    if verdict.stage != "sync":
        return verdict
    return replace(verdict, measured={**verdict.measured, "audio_tracks": told["audio_tracks"]})


def judge(
    video: str, measures: Measures, samples: np.ndarray, critic: SyncCritic, settings: CurateSettings,
    embeddings: Embeddings | None = None,
) -> tuple[list[Segment], list[Verdict]]:  # fmt: skip
    """All segments and all verdicts. A stretch that the cut refuses gets no further verdicts: there is no face."""
    speech = find_speech(samples, SPEECH_THRESHOLD) if np.abs(samples).max(initial=0) > 0 else []
    segments: list[Segment] = []
    verdicts: list[Verdict] = []

    def says(segment: Segment) -> Sync | None:
        return syncnet_says(embeddings, segment) if embeddings else critic_says(critic, segment, measures, samples)

    for candidate in find_segments(measures, speech, settings):
        segment = candidate
        if candidate.slot is not None:
            segment = replace(candidate, slot=speaker(candidate, measures, says))
        segments.append(segment)
        verdicts.append(judge_cut(video, segment, measures, settings))
        if segment.slot is not None:
            verdicts += [
                judge_occlusion(video, segment, measures, settings),
                judge_scenes(video, segment, measures, settings),
                judge_lips(video, segment, heard_in(segment, samples), speech, says(segment), settings),
                judge_coherence(video, segment, measures, settings),
            ]
    return segments, verdicts
