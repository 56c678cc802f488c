"""The mini model's speech encoder: XLS-R's own class made small, warmed up until it hears phonemes.

The paper takes XLS-R as it is. At mini size there is nothing to take, so a small Wav2Vec2 learns to name the viseme of
every 20 ms of synthetic speech in many languages; stage 2 then freezes it, as it freezes XLS-R.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from linker.config import SAMPLE_RATE_HZ
from linker.model.audio_context import normalise_samples, speech_states
from linker.records import atomic
from linker.synth.speech import random_speech
from linker.synth.visemes import N_VISEMES, viseme_classes
from linker.train.fit import Plan, fit
from linker.train.ranks import Ranks, mixed, training_dtype

PHASES = 4  # of each band of the first layer; half-wave rectified, four phases add up to its magnitude
CROP_S = 2.0


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
    """The encoder and the head that names visemes; the head is dropped afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = small_encoder()
        self.head = nn.Linear(self.encoder.config.hidden_size, N_VISEMES)

    def forward(self, samples_Bn: Tensor) -> Tensor:
        return self.head(speech_states(self.encoder, normalise_samples(samples_Bn)))


def write_pool(path: Path, count: int, seed: int) -> None:
    """Speak `count` utterances once: CROP_S seconds of each, (count, n) float16, and the class of every 20 ms."""
    samples = np.zeros((count, round(CROP_S * SAMPLE_RATE_HZ)), np.float16)
    classes = np.zeros((count, round(CROP_S * 50)), np.int8)
    for i in range(count):
        speech = random_speech(seed + i, duration_s=(CROP_S, CROP_S + 0.2))
        n, m = min(len(speech.samples), samples.shape[1]), classes.shape[1]
        samples[i, :n] = speech.samples[:n]
        found = viseme_classes(speech)[:m]
        classes[i, : len(found)] = found
    with atomic(path) as temporary:
        np.savez(temporary, samples=samples, classes=classes)


def train_speech(folder: Path, encoder: Path, count: int, steps: int, batch: int = 16) -> None:
    """Warm the small encoder up on `count` spoken crops; writes a transformers folder `encoder`."""
    pool_file = folder / f"pool.{count}.npz"
    if not pool_file.exists():
        write_pool(pool_file, count, seed=1_000_000)
    pool = np.load(pool_file)
    samples, classes = torch.from_numpy(pool["samples"]), torch.from_numpy(pool["classes"]).long()
    torch.manual_seed(0)
    device = Ranks.join().device
    listener = Listener().to(device)

    def loss_of_draw(number: int) -> tuple[Tensor, dict[str, float]]:
        rng = torch.Generator().manual_seed(number)
        rows = torch.randint(len(samples), (batch,), generator=rng)
        with mixed(device, training_dtype("auto", device)):
            logits = listener(samples[rows].float().to(device)).float()
        target = classes[rows][:, : logits.shape[1]].to(device)
        loss = F.cross_entropy(logits[:, : target.shape[1]].flatten(0, 1), target.flatten())
        right = (logits.argmax(-1)[:, : target.shape[1]] == target).float().mean().item()
        return loss, {"accuracy": right}

    plan = Plan(steps=steps, learning_rate=1e-3, warmup=100, ema=0.995)
    fit(listener, loss_of_draw, plan, folder, data=f"{count} pieces")
    listener.encoder.save_pretrained(encoder)
