"""What curation costs: processor seconds for a second of footage, by what is done with it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linker.bench.common import Figures
from linker.config import CRITIC_DIR, FPS, ROOT_DIR, SAMPLE_RATE_HZ, CurateSettings
from linker.curate.changes import Changes
from linker.curate.faces import Follower
from linker.curate.hands import HandFinder
from linker.curate.judge import judge
from linker.curate.measure import EVERY, READ_PX, look_through
from linker.curate.motion import Mover
from linker.curate.segments import cut_segments
from linker.curate.verdicts import STAGES
from linker.encode import Target, encode
from linker.media import write_wav
from linker.model.critic import load_critic
from linker.records import write_json
from linker.synth.footage import draw_footage
from linker.ticks import read_sound, ticks

SEED, SIDE_PX, SECONDS = 41, 640, (8.0, 8.2)


def curation() -> Figures:
    """Drawn footage of 640 x 640: decoding, following faces, hands, motion, cuts; all of that, judging, cutting what is
    kept; and what the three steps of a video take besides, mostly to start."""
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
        steps = _in_turn(video)
        started = _started(video.parent)
    told = {f"{name}_cpu_s_per_s": round(spent / seconds, 3) for name, spent in (parts | steps).items()}
    told["startup_cpu_s_per_video"] = round(started - sum(steps.values()), 2)
    return {**told, "core_hours_for_215_h": round(sum(steps.values()) / seconds * 215, 1)}


def _in_turn(video: Path) -> dict[str, float]:
    """Processor seconds of the steps, everything loaded; their files lie beside the video then."""
    home, settings = video.parent, CurateSettings()
    spent = {"measure_video": _spent(lambda: look_through(video))}
    looked = look_through(video)
    samples, critic = read_sound(video, len(looked)), load_critic(CRITIC_DIR / "critic.safetensors")
    judge("warm", looked, np.zeros_like(samples), critic, settings)
    spent["judge_video"] = _spent(lambda: judge("bench", looked, samples, critic, settings))
    looked.save(home / "measures.npz")
    write_wav(home / "sound.wav", samples, SAMPLE_RATE_HZ)
    whole = {"number": 0, "first": 0, "last": len(looked), "slot": 0}
    kept = [{"segment": 0, "stage": stage, "kept": True, "measured": {"offset": 0}} for stage in STAGES]
    write_json(home / "verdicts.json", {"video": "bench", "segments": [whole], "verdicts": kept})
    names = [home / name for name in ("verdicts.json", "measures.npz", "sound.wav", "segments.json")]
    return spent | {"cut_segments": _spent(lambda: cut_segments(video, *names))}


def _footage(folder: Path) -> Path:
    drawn = draw_footage(SEED, SIDE_PX, SECONDS)
    write_wav(folder / "sound.wav", drawn.samples, SAMPLE_RATE_HZ)
    target = Target(folder / "video.mp4", (SIDE_PX, SIDE_PX), crf=20)
    encode(drawn.frames, [target], folder / "sound.wav", len(drawn.frames))
    return target.path


def _started(home: Path) -> float:
    """Processor seconds of a video's three steps as processes of their own."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = {name: str(home / file) for name, file in _FILES.items()}
    path |= {"critic": str(CRITIC_DIR / "critic.safetensors")}
    for step, options in _STEPS.items():
        words = [word for option in options for word in (f"--{option}", path[option])]
        words += ["--video", str(home / "video.mp4") if step != "judge_video" else "bench"]
        words += ["--settings", "{}"] if step != "cut_segments" else []
        words += {"measure_video": ["--limits", "{}"], "judge_video": ["--embeddings"]}.get(step, [])
        command = [sys.executable, "-P", "-m", "linker.cli", step, *words]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT_DIR)})
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


_FILES = {
    "measures": "again/measures.npz", "sound": "again/sound.wav", "facts": "again/facts.json",
    "verdicts": "verdicts.json", "looks": "again/looks.npz", "segments": "again/segments.json",
}  # fmt: skip
_STEPS = {
    "measure_video": ("measures", "sound", "facts"),
    "cut_segments": ("verdicts", "measures", "sound", "segments"),
    "judge_video": ("measures", "sound", "facts", "critic", "verdicts", "looks"),
}


def _spent(task: Callable[[], object]) -> float:
    """Processor seconds of all threads."""
    began = time.process_time()
    task()
    return time.process_time() - began
