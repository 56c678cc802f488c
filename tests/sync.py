"""Does the mouth follow the speech? Measured in pixels of generated frames, on portraits and voices never trained on.

PYTHONPATH=. python tests/sync.py [COUNT] [FOLDER]     prints a line a clip and the means
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linker.config import AudioSettings, FaceSettings, GenerateSettings, LimitSettings

FIRST_SEED = 7_000_000  # far from the training videos' seeds
UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN = 13, 14, 10, 152  # of the face mesh: inner lips, and the face's height
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Clip:
    """What was generated, what was measured in it, and what the truth is."""

    name: str
    language: str
    video: Path
    measured: Curve
    true: Curve


def opening(frames: NDArray[np.uint8]) -> Curve:
    """Distance of the inner lips in face heights, a frame, as a face mesh sees it; NaN where it sees no face."""
    from linker.face_models import find_landmarks

    found = []
    for frame in frames:
        side = frame.shape[0]
        points = find_landmarks(frame, (0, 0, side, side))
        height = np.nan if points is None else np.linalg.norm(points[CHIN] - points[FOREHEAD])
        found.append(np.nan if points is None else np.linalg.norm(points[LOWER_LIP] - points[UPPER_LIP]) / height)
    return np.array(found)


def correlation(one: Curve, other: Curve) -> float:
    """Pearson's, over the frames that both have and in which a face was seen."""
    length = min(len(one), len(other))
    seen = np.isfinite(one[:length]) & np.isfinite(other[:length])
    if seen.sum() < 10 or one[:length][seen].std() == 0 or other[:length][seen].std() == 0:
        return 0.0
    return float(np.corrcoef(one[:length][seen], other[:length][seen])[0, 1])


def prepare(number: int, folder: Path) -> tuple[dict[str, object], str, Curve]:
    """Draw a portrait, speak a text, run the workflow's own preparation; the shard's row, the language, the truth."""
    from linker.audio import normalize_audio
    from linker.face import crop_face, extract_masks
    from linker.media import write_wav
    from linker.synth.motion import rest
    from linker.synth.portrait import STYLES, draw_portrait
    from linker.synth.speech import random_speech
    from linker.synth.visemes import motion

    seed = FIRST_SEED + number
    name = f"{number:02d}-{STYLES[number % len(STYLES)]}"
    here = folder / name
    here.mkdir(parents=True)
    portrait = draw_portrait(seed, STYLES[number % len(STYLES)], 512)
    Image.fromarray(portrait.render(rest(1))[0]).save(here / "portrait.png")
    speech = random_speech(seed, duration_s=(2.6, 3.0))
    write_wav(here / "speech.wav", speech.samples, 16_000)
    limits, face = LimitSettings(), FaceSettings()
    crop_face(here / "portrait.png", here / "face.png", here / "crop.json", "", face, limits)
    extract_masks(here / "face.png", here / "crop.json", here / "masks.npz", here / "debug.png", face)
    normalize_audio(here / "speech.wav", here / "driver.wav", here / "loudness.json", AudioSettings(), limits)
    files = {"face": "face.png", "crop": "crop.json", "masks": "masks.npz"}
    files |= {"driver": "driver.wav", "loudness": "loudness.json"}
    row: dict[str, object] = {key: f"{name}/{file}" for key, file in files.items()}
    row |= {"clip": name, "seed": number, "scales": [1, 1, 1], "ranges": [1, 1, 1], "preset": GenerateSettings().preset}
    return row, speech.language, motion(speech, seed).open.astype(np.float64)


def generate_clips(count: int, folder: Path, settings: GenerateSettings) -> list[Clip]:
    """Generate `count` clips through the real step, and measure their mouths."""
    from linker.generate import generate
    from linker.media import read_frames
    from linker.records import read_json, write_json

    prepared = [prepare(number, folder) for number in range(count)]
    listing, ledger = folder / "shards" / "s000.json", folder / "shards" / "s000" / "ledger.json"
    write_json(listing, {"shard": "s000", "rows": [row for row, _, _ in prepared]})
    generate(listing, ledger, settings)
    entries = read_json(ledger)["rows"]
    clips = []
    for row, language, true in prepared:
        video = folder / entries[row["clip"]]["video"]
        frames = np.stack(list(read_frames(video)))
        clips.append(Clip(str(row["clip"]), language, video, opening(frames), true))
    return clips


def scores(clips: list[Clip]) -> list[tuple[float, float]]:
    """(correlation with the clip's own truth, with the next clip's) a clip."""
    others = [*clips[1:], clips[0]]
    return [
        (correlation(c.measured, c.true), correlation(c.measured, o.true)) for c, o in zip(clips, others, strict=True)
    ]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    clips = generate_clips(count, folder, GenerateSettings(**({"weights": sys.argv[3]} if len(sys.argv) > 3 else {})))
    found = scores(clips)
    for clip, (own, other) in zip(clips, found, strict=True):
        print(f"{clip.name:14} {clip.language:3} own {own:6.2f}  other {other:6.2f}")
    own, other = np.mean(found, axis=0)
    print(f"mean own {own:.2f} other {other:.2f} difference {own - other:.2f}")


if __name__ == "__main__":
    main()
