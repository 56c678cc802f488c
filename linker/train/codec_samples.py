"""What a codec in training makes of people it is not trained on: their widest mouth and their most closed lids, from
the true latents. What it smears here, no stage can make better: stages learn latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from linker.model.codec import decode_frames, encode_frames, read_portrait
from linker.model.motion_codec import MotionCodec
from linker.train.lids import written

TOGETHER = 8  # frames that are encoded at a time


def codec_sheet(net: MotionCodec, files: list[Path]) -> np.ndarray:
    """A row for each held-out video's frames file, (rows S, 5 S, 3) uint8."""
    return np.concatenate([codec_row(net, path) for path in files])


@torch.no_grad()
def codec_row(net: MotionCodec, path: Path) -> np.ndarray:
    """The portrait; the widest mouth, true and drawn; the most closed lids, true and drawn: (S, 5 S, 3) uint8."""
    frames, device = np.load(path), next(net.parameters()).device
    with np.load(path.with_name(path.name.replace(".frames.npy", ".npz"))) as truth:
        opening, shut = truth["opening_px"], truth["acted_blink"]
        eyes = torch.from_numpy(truth["acted_eyes"].astype(np.float32)).to(device)
    portrait = read_portrait(net, frames[0], frames.shape[1])
    parts = (frames[first : first + TOGETHER] for first in range(0, len(frames), TOGETHER))
    latents = written(net, torch.cat([encode_frames(net, part, portrait) for part in parts]), eyes, shut)
    shown = [int(opening.argmax()), int(shut.argmax())]
    wide, closed = decode_frames(net, latents[shown], portrait.appearance)
    return np.concatenate([frames[0], frames[shown[0]], wide, frames[shown[1]], closed], axis=1)
