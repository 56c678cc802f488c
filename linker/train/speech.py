"""The mini model's speech encoder: XLS-R's own class made small, warmed up until it hears phonemes.

The paper takes XLS-R as it is. At mini size there is nothing to take, so a small Wav2Vec2 learns to name the viseme of
every 20 ms of synthetic speech in many languages, and to tell how a face moves with it (decision 0021). Stage 2 freezes
it, as it freezes XLS-R, until its last part trains both together (listening.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from linker.config import SAMPLE_RATE_HZ, SPEECH_FORM
from linker.model.audio_context import normalise_samples, speech_states
from linker.synth.crops import MOVES, write_pool
from linker.synth.visemes import N_VISEMES
from linker.train.fit import Plan, fit
from linker.train.ranks import Ranks, mixed, training_dtype

PHASES = 4  # of each band of the first layer; half-wave rectified, four phases add up to its magnitude


def small_encoder() -> Wav2Vec2Model:
    """A Wav2Vec2 of 1.3 M parameters and 50 Hz whose first layer starts as a mel-spaced filter bank."""
    config = Wav2Vec2Config(
        hidden_size=160, num_hidden_layers=4, num_attention_heads=4, intermediate_size=480,
        conv_dim=(256, 160), conv_kernel=(400, 2), conv_stride=(160, 2), num_feat_extract_layers=2, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=16, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        feat_proj_dropout=0.0, layerdrop=0.0, apply_spec_augment=False, vocab_size=N_VISEMES,
    )  # fmt: skip
    encoder = Wav2Vec2Model(config)
    first = encoder.feature_extractor.conv_layers[0].conv
    with torch.no_grad():
        first.weight.copy_(filter_bank(first.out_channels, first.kernel_size[0])[:, None])
    return encoder


def filter_bank(channels: int, taps: int) -> Tensor:
    """(channels, taps): Hann-windowed waves at mel-spaced frequencies, 60 Hz to 7.6 kHz, in four phases each."""
    mel = torch.linspace(2595 * math.log10(1 + 60 / 700), 2595 * math.log10(1 + 7600 / 700), channels // PHASES)
    frequency_hz = 700 * (10 ** (mel / 2595) - 1)
    time_s = (torch.arange(taps) - taps / 2) / SAMPLE_RATE_HZ
    phase = torch.arange(PHASES) * (2 * math.pi / PHASES)
    waves = torch.cos(2 * math.pi * frequency_hz[:, None, None] * time_s + phase[None, :, None])
    return (waves * torch.hann_window(taps) * (2 / taps)).reshape(channels, taps)


class Listener(nn.Module):
    """The encoder, the head that names visemes and the one that tells MOVES, each in units of its deviation; both heads
    are dropped afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = small_encoder()
        self.head = nn.Linear(self.encoder.config.hidden_size, N_VISEMES)
        self.moves = nn.Linear(self.encoder.config.hidden_size, len(MOVES))

    def forward(self, samples_Bn: Tensor) -> tuple[Tensor, Tensor]:
        """Of samples (B, n), the logits (B, T, N_VISEMES) and the moves (B, T, len(MOVES)) at RATE_HZ."""
        states = speech_states(self.encoder, normalise_samples(samples_Bn))
        return self.head(states), self.moves(states)


@dataclass(frozen=True)
class Pool:
    """Spoken crops: samples (count, n) float16, and at RATE_HZ their viseme classes (count, T) and moves
    (count, T, len(MOVES)) float16, in units of their deviation."""

    samples: Tensor
    classes: Tensor
    moves: Tensor


def read_pool(path: Path) -> Pool:
    """What `write_pool` wrote; a move that none of it makes stays 0."""
    with np.load(path) as found:
        deviation = found["moves"].std((0, 1), dtype=np.float32).clip(1e-3)
        moves = (found["moves"] / deviation).astype(np.float16)
        return Pool(*(torch.from_numpy(part) for part in (found["samples"], found["classes"].astype(np.int64), moves)))


def train_speech(folder: Path, encoder: Path, count: int, steps: int, batch: int = 16, processes: int = 1) -> None:
    """Warm the small encoder up on `count` spoken crops; writes a transformers folder `encoder`."""
    pool_file = folder / f"pool.{SPEECH_FORM}.{count}.npz"
    if not pool_file.exists():
        write_pool(pool_file, count, seed=1_000_000, processes=processes)
    pool = read_pool(pool_file)
    torch.manual_seed(0)
    device = Ranks.join().device
    listener = Listener().to(device)

    def rows_of(number: int) -> Tensor:
        return torch.randint(count, (batch,), generator=torch.Generator().manual_seed(number))

    def names_of_draw(number: int) -> list[str]:
        return [f"utterance {row}" for row in rows_of(number).tolist()]

    def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
        rows = rows_of(number)
        drawn = Pool(*(part[rows].to(device) for part in vars(pool).values()))
        with mixed(device, training_dtype("auto", device)):
            logits, moves = listener(drawn.samples.float())
        return speech_loss(logits.float(), moves.float(), drawn)

    plan = Plan(steps=steps, learning_rate=1e-3, warmup=100, ema=0.995)
    fit(listener, loss_of_draw, plan, folder, names_of_draw, data=f"{SPEECH_FORM}: {count} pieces")
    listener.encoder.save_pretrained(encoder)


def speech_loss(logits_BTN: Tensor, moves_BTM: Tensor, drawn: Pool) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the visemes and the squared error of the moves, and how many visemes are right."""
    heard = logits_BTN.shape[1]  # the encoder's last states may lack a frame of the crop
    target, moved = drawn.classes[:, :heard], drawn.moves[:, :heard].float()
    named = F.cross_entropy(logits_BTN[:, : target.shape[1]].flatten(0, 1), target.flatten())
    error = (moves_BTM[:, : moved.shape[1]] - moved).square().mean((0, 1))
    right = (logits_BTN.argmax(-1)[:, : target.shape[1]] == target).float().mean().item()
    parts = {f"off/{name}": value for name, value in zip(MOVES, error.tolist(), strict=True)}
    return named + error.mean(), {"accuracy": right} | parts
