"""Stage 2's last part, at mini size: the speech encoder is trained along with the nets, on new people and stills.

Until then it is frozen, as XLS-R is at base size (section 4.1), and knows what all speech has in common; here it learns
what this model's faces need of it (decision 0025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from linker.model.audio_context import encode_speech
from linker.model.lingualinker import LinguaLinker
from linker.train.dataset import Sound


class Joint(nn.Module):
    """A model and the speech encoder that it hears with, trained as one; nothing of the encoder is left to chance."""

    def __init__(self, model: LinguaLinker, encoder: nn.Module) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder.eval().requires_grad_(True)  # eval: without dropout

    def hear(self, sounds: Sequence[Sound]) -> Tensor:
        """Of B windows' recordings, the features of the frames that each window hears, (B, F + l - 1, D): exactly those
        that generation gives the nets."""
        return torch.stack([encode_speech(self.encoder, each.samples, each.frames)[0, each.heard] for each in sounds])
