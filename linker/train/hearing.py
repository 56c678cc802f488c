"""The audio projector's warm-up: before stage 1 it learns to tell, from what is heard about a frame, what a face does.

Only the projector's weights go on. A net that starts with deaf audio tokens spends its steps on heads, which move most;
one whose tokens tell lips from lids has only to show them (decision 0016).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from linker.model.audio_context import AudioProjector, pad_context
from linker.train.mapped import mapped

STEPS, BATCH, RATE = 350, 512, 2e-3  # more steps learn the voices by heart
MOST = 2000  # videos that are read


def heard_and_done(cache: Path, context: int) -> tuple[Tensor, Tensor]:
    """Of every frame of the encoded drawn videos: what is heard about it (N, l, D), and what plain speech does then
    (N, K), of zero mean and unit deviation."""
    heard, done = [], []
    for path in sorted(cache.glob("*.npz"))[:MOST]:
        video = mapped(path)
        if "curves" in video:
            speech = torch.from_numpy(np.array(video["speech"], np.float32))
            heard.append(pad_context(speech[None], context)[0].unfold(0, context, 1).transpose(1, 2))
            done.append(torch.from_numpy(np.array(video["curves"], np.float32)))
    if not heard:
        return torch.zeros(0, context, 1), torch.zeros(0, 1)
    curves = torch.cat(done)
    return torch.cat(heard), (curves - curves.mean(0)) / curves.std(0).clamp(min=1e-3)


def warm_up(projector: AudioProjector, cache: Path, seed: int) -> float:
    """Train the projector with a linear map from the mean of a frame's audio tokens to what is done; the share that is
    unexplained at the end, 1 where there is nothing to learn from (footage)."""
    heard, done = heard_and_done(cache, projector.context)
    if not len(heard):
        return 1.0
    rng = torch.Generator().manual_seed(seed)
    head = nn.Linear(projector.linear_2.out_features, done.shape[1])
    optimizer = torch.optim.AdamW([*projector.parameters(), *head.parameters()], lr=RATE)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        rows = torch.randint(len(heard), (BATCH,), generator=rng)
        loss = (head(projector.tokens(heard[rows]).mean(1)) - done[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"the audio projector hears all but {loss.item():.2f} of what drawn faces do", file=sys.stderr)
    return loss.item()
