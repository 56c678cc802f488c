"""Are faults found in filmed footage? Real clips that curation keeps, two at least, with faults planted, judged again.

PYTHONPATH=.:tests python tests/planted.py LIST_OR_FOLDER CURATED [SECONDS]
LIST_OR_FOLDER was curated into CURATED before (`python3 -m linker curate`). Prints a line a fault; misses by name.
The faults: those of linker/synth/defects.py at half strength; sound shifted by so many frames; H.264 at such a crf;
`clean` is none, and says how many are kept when the same seconds are written again without a fault.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from linker.config import CRITIC_DIR, FPS, SAMPLE_RATE_HZ, CurateSettings
from linker.curate.faces import restored
from linker.curate.judge import judge
from linker.curate.measure import Measures, look_through
from linker.encode import Target, encode
from linker.footage import read_footage
from linker.landmarks import OVAL
from linker.media import write_wav
from linker.model.critic import SyncCritic, load_critic
from linker.records import read_json
from linker.synth.defects import DEFECTS, PER_FRAME, Footage, plant
from linker.ticks import read_sound, ticks

KINDS = (
    "clean", "hard_cut", "hand", "thing", "mask", "flicker", "shift_5", "shift_8", "shift_-8", "other_voice", "crf_45",
)  # fmt: skip
CRF = 18  # of the clips that faults are planted into


def filmed(video: Path, measures: Measures, slot: int, seconds: float) -> Footage:
    """The first seconds of a clip, with its speaker's oval as the landmarks have it."""
    count = min(len(measures), round(seconds * FPS))
    frames = np.stack([tick.frame for tick, _ in zip(ticks(video, 640), range(count), strict=False)])
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    points = restored(measures.points[:count, slot])[:, list(OVAL)]
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    boxes[~np.isfinite(boxes).all(1)] = np.nanmedian(boxes, 0)
    return Footage(frames, read_sound(video, count), boxes.astype(np.float32))


def shifted(footage: Footage, frames: int) -> Footage:
    """The sound so many frames later (earlier, if negative); what is missing is silence."""
    moved = np.roll(footage.samples, frames * PER_FRAME)
    silent = slice(0, frames * PER_FRAME) if frames > 0 else slice(frames * PER_FRAME, None)
    moved[silent] = 0
    return replace(footage, samples=moved)


def with_fault(kind: str, footage: Footage, other: Footage, seed: int) -> Footage:
    if kind == "clean" or kind.startswith("crf_"):
        return footage  # the fault is in how it is written
    if kind.startswith("shift_"):
        return shifted(footage, int(kind.removeprefix("shift_")))
    return plant(kind, footage, other, 0.5, seed)


def dropped(
    footage: Footage, critic: SyncCritic, settings: CurateSettings, crf: int = CRF
) -> tuple[dict[str, str], list[int]]:
    """Stage -> reason of what was refused, and the offsets that were found."""
    height, width = footage.frames.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        sound, video = Path(folder, "sound.wav"), Path(folder, "video.mp4")
        write_wav(sound, footage.samples, SAMPLE_RATE_HZ)
        encode(footage.frames, [Target(video, (width, height), crf=crf)], sound, len(footage.frames))
        measures, samples = look_through(video), read_sound(video, len(footage.frames))
    segments, verdicts = judge("planted", measures, samples, critic, settings)
    found = {verdict.stage: verdict.reason for verdict in reversed(verdicts) if not verdict.kept}
    if len(segments) > 1 and "scene" not in found:
        found["scene"] = f"cut into {len(segments)} segments"
    return found, [round(v.measured["offset"]) for v in verdicts if v.stage == "sync"]


def main(listed: Path, curated: Path, seconds: float = 6.0) -> None:
    critic, settings = load_critic(CRITIC_DIR / "critic.safetensors"), CurateSettings()
    told = [json.loads(line) for line in (curated / "verdicts.jsonl").read_text().splitlines()]
    bad = {verdict["video"] for verdict in told if not verdict["kept"]}
    own = {v["video"]: round(v["measured"]["offset"]) for v in told if v["stage"] == "sync" and v["segment"] == 0}
    videos = [video for video in read_footage(listed).videos if video.id not in bad]
    clips = []
    for video in videos:
        home = curated / "footage" / video.id
        slot = read_json(home / "verdicts.json")["segments"][0]["slot"]
        clips.append(filmed(video.path, Measures.load(home / "measures.npz"), slot, seconds))
    tally: dict[str, list[int]] = defaultdict(list)
    for i, (video, clip) in enumerate(zip(videos, clips, strict=True)):
        for kind in KINDS:
            stage = DEFECTS[kind][0] if kind in DEFECTS else "coherence" if kind.startswith("crf_") else "sync"
            planted = with_fault(kind, clip, clips[(i + 1 + i % (len(clips) - 1)) % len(clips)], i)
            crf = int(kind.removeprefix("crf_")) if kind.startswith("crf_") else CRF
            found, offsets = dropped(planted, critic, settings, crf)
            if kind == "clean":
                tally[kind].append(not found)
                print(f"clean: {video.path.name}: {found or 'kept'} {offsets}", flush=True)
                continue
            tally[kind].append(stage in found)
            if kind.startswith("shift_") and offsets:
                wanted = own[video.id] + int(kind.removeprefix("shift_"))
                tally[f"{kind}: offset within a frame"].append(abs(offsets[0] - wanted) <= 1)
            if stage not in found:
                print(f"missed: {kind} in {video.path.name}: {found or 'kept'} {offsets}", flush=True)
    for kind, hits in tally.items():
        print(f"{kind}: {sum(hits)} of {len(hits)}{' kept' if kind == 'clean' else ''}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(float(word) for word in sys.argv[3:4]))
