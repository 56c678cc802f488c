"""What a mini codec can show at most: true frames of people never seen, encoded and drawn again. What the stages learn
on its latents cannot be better.

PYTHONPATH=. python tests/codec_figures.py FOLDER [--clips 10] [--sheet PNG]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from figures import GAP, MESH_H, Prepared, Seen, blinks_of, correlation, look, prepare
from numpy.typing import NDArray
from PIL import Image

from linker.model.codec import decode_frames, encode_frames, load_codec, read_portrait
from linker.model.motion_codec import MotionCodec
from linker.train.lids import written

SIDE = 256
TOGETHER = 8  # frames at a time


def true_frames(clip: Prepared) -> NDArray[np.uint8]:
    """The portrait, then what is said, its head held still."""
    portrait = np.asarray(Image.open(clip.folder / "face.png").convert("RGB").resize((SIDE, SIDE)))
    return np.stack([portrait, *(clip.frame(number, SIDE) for number in range(len(clip.true)))])


@torch.no_grad()
def drawn_again(codec: MotionCodec, clip: Prepared, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames after the portrait, by their latents, blinks as training has them written."""
    portrait = read_portrait(codec, frames[0], SIDE)
    parts = [frames[first : first + TOGETHER] for first in range(1, len(frames), TOGETHER)]
    latents = torch.cat([encode_frames(codec, part, portrait) for part in parts])
    with np.load(clip.folder / "masks.npz") as masks:
        eyes = cv2.resize(masks["eyes"].astype(np.float32), latents.shape[-2:], interpolation=cv2.INTER_AREA)
    where = torch.from_numpy(eyes).expand(len(latents), -1, -1)
    latents = written(codec, latents, where, clip.motion.blink[: len(latents)].astype(np.float32))
    return np.concatenate([decode_frames(codec, part, portrait.appearance) for part in latents.split(TOGETHER)])


def figures_of(clips: list[Prepared], seen: list[Seen]) -> dict[str, float]:
    """Mouths: how well they follow the truth (mean and least), and how far they open (1 = as the truth); blinks."""
    own = [correlation(each.mouth, clip.true) for each, clip in zip(seen, clips, strict=True)]
    wide = [each.mouth.std() / (GAP / MESH_H * clip.true.std()) for each, clip in zip(seen, clips, strict=True)]
    return {
        "own": float(np.mean(own)), "least_clip": min(own), "amplitude": float(np.mean(wide)), **blinks_of(clips, seen)
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", type=Path, help="folder of a codec, training/weights/codec of a run")
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--sheet", type=Path, help="PNG: portrait, the widest mouth, the same drawn again")
    given = parser.parse_args()
    codec = load_codec(given.codec)
    assert isinstance(codec, MotionCodec)
    with tempfile.TemporaryDirectory() as folder:
        clips = [prepare(number, Path(folder)) for number in range(given.clips)]
        true = [true_frames(clip) for clip in clips]
        made = [drawn_again(codec, clip, frames) for clip, frames in zip(clips, true, strict=True)]
        told = {"truth": figures_of(clips, [look(frames[1:]) for frames in true])}
        told["codec"] = figures_of(clips, [look(frames) for frames in made])
    print(json.dumps(told, indent=1))
    if given.sheet:
        widest = [int(clip.true.argmax()) for clip in clips]
        rows = [np.concatenate([t[0], t[1 + n], m[n]], axis=1) for t, m, n in zip(true, made, widest, strict=True)]
        Image.fromarray(np.concatenate(rows)).save(given.sheet)


if __name__ == "__main__":
    main()
