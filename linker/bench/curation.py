"""What curation costs: processor seconds for a second of footage, by what is done with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linker.bench.common import Figures
from linker.config import CRITIC_DIR, FPS, SAMPLE_RATE_HZ, CurateSettings
from linker.curate.changes import Changes
from linker.curate.faces import Follower
from linker.curate.hands import HandFinder
from linker.curate.judge import judge
from linker.curate.measure import EVERY, READ_PX, look_through
from linker.curate.motion import Mover
from linker.encode import Target, encode
from linker.media import write_wav
from linker.model.critic import load_critic
from linker.synth.footage import draw_footage
from linker.ticks import read_sound, ticks

SEED, SIDE_PX, SECONDS = 41, 640, (8.0, 8.2)


def curation() -> Figures:
    """Drawn footage of 640 x 640: decoding, following faces, hands, motion, cuts; all of it at once; judging."""
    with tempfile.TemporaryDirectory() as folder:
        video = _footage(Path(folder))
        frames = [tick.frame for tick in ticks(video, READ_PX)]
        seconds = len(frames) / FPS
        parts, follower, hands, mover, changes = {}, Follower(), HandFinder(), Mover(), Changes()
        parts["decode"] = _spent(lambda: list(ticks(video, READ_PX)))
        found = [follower.follow(frame) for frame in frames[:1]]  # the networks are loaded
        parts["faces"] = _spent(lambda: found.extend(follower.follow(frame) for frame in frames[1:]))
        parts["hands"] = _spent(lambda: [hands.measure(frame) for frame in frames[::EVERY]])
        parts["motion"] = _spent(lambda: [mover.measure(f, faces) for f, faces in zip(frames, found, strict=True)])
        parts["cuts"] = _spent(lambda: [changes.measure(f, faces) for f, faces in zip(frames, found, strict=True)])
        parts["measure_video"] = _spent(lambda: look_through(video))
        parts["judge_video"] = _spent(_judging(video))
    told = {f"{name}_cpu_s_per_s": round(spent / seconds, 3) for name, spent in parts.items()}
    hours = (parts["measure_video"] + parts["judge_video"]) / seconds * 215
    return {**told, "core_hours_for_215_h": round(hours, 1)}


def _footage(folder: Path) -> Path:
    drawn = draw_footage(SEED, SIDE_PX, SECONDS)
    write_wav(folder / "sound.wav", drawn.samples, SAMPLE_RATE_HZ)
    target = Target(folder / "video.mp4", (SIDE_PX, SIDE_PX), crf=20)
    encode(drawn.frames, [target], folder / "sound.wav", len(drawn.frames))
    return target.path


def _judging(video: Path) -> Callable[[], object]:
    """Judging as it is done after measuring, everything loaded."""
    measures = look_through(video)
    samples, critic = read_sound(video, len(measures)), load_critic(CRITIC_DIR / "critic.safetensors")
    judge("warm", measures, np.zeros_like(samples), critic, CurateSettings())
    return lambda: judge("bench", measures, samples, critic, CurateSettings())


def _spent(task: Callable[[], object]) -> float:
    """Processor seconds of all threads."""
    began = time.process_time()
    task()
    return time.process_time() - began
