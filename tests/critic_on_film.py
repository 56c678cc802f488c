"""How well does our sync critic hear filmed and generated clips? Offsets, and true against other clips' sound.

PYTHONPATH=.:tests python tests/critic_on_film.py CURATED [LAGS]
CURATED is a results folder of `python3 -m linker curate`. LAGS (CSV: path, sync_verdict, sync_lag_frames25) measures
clips independently: how many frames of 25 a second their lips are late. Of those it lists, the ones with a verdict 'in
sync ...' are heard.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from linker.config import CRITIC_DIR, SAMPLE_RATE_HZ
from linker.curate.measure import Measures
from linker.curate.sync import critic_says
from linker.curate.verdicts import Segment
from linker.footage import read_listing
from linker.media import read_audio
from linker.model.critic import load_critic
from linker.records import read_json

Clip = tuple[str, Measures, np.ndarray, Segment]


def clips(curated: Path, wanted: set[str]) -> list[Clip]:
    """Every measured video with its sound and its longest stretch with a face, as one segment."""
    found: list[Clip] = []
    for video in read_listing(read_json(curated / "footage.json")["videos"]):
        home = curated / "footage" / video.id
        if read_json(home / "facts.json")["refusal"] or (wanted and video.path.name not in wanted):
            continue
        measures = Measures.load(home / "measures.npz")
        samples, _ = read_audio(home / "sound.wav", SAMPLE_RATE_HZ)
        slots = [int(np.isfinite(measures.points[:, slot, 0, 0]).sum()) for slot in range(measures.points.shape[1])]
        found.append((video.path.name, measures, samples, Segment(0, 0, len(measures), int(np.argmax(slots)))))
    return found


def main(curated: Path, lags: Path | None = None) -> None:
    rows = list(csv.DictReader(lags.open(encoding="utf-8"))) if lags else []
    sure = [row for row in rows if row["sync_verdict"].startswith("in sync")]
    late = {Path(row["path"]).name: -round(float(row["sync_lag_frames25"])) for row in sure}
    critic, heard = load_critic(CRITIC_DIR / "critic.safetensors"), clips(curated, set(late))
    true, swapped, near = list[float](), list[float](), list[bool]()
    for name, measures, samples, segment in heard:
        own = critic_says(critic, segment, measures, samples)
        if own is None:
            print(f"{name}: too little of the lips is seen")
            continue
        true.append(own.confidence)
        near += [abs(own.offset - late[name]) <= 1] if name in late else []
        print(f"{name}: {own.offset} frames late, confidence {own.confidence:.2f}; measured {late.get(name, '-')}")
        others = (sound for other, _, sound, _ in heard if other != name)
        answers = (critic_says(critic, segment, measures, np.resize(sound, len(samples))) for sound in others)
        swapped += [answer.confidence for answer in answers if answer]
    auc = np.mean([(one > np.array(swapped)).mean() + (one == np.array(swapped)).mean() / 2 for one in true])
    print(f"offset within a frame: {sum(near)} of {len(near)}")
    print(f"true against other sound: AUC {auc:.3f} ({len(true)} clips, {len(swapped)} swapped)")


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:3]))
