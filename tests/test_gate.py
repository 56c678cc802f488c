"""Equations 1 to 5 against NumPy, written out again from the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from linker.model.gate import LayerConditions, RegionGate, TransformerBlock, grid_sinusoids

WIDTH, HEADS, TIME, AUDIO, TOKENS, FRAMES = 16, 2, 24, 12, 16, 3
Array = NDArray[np.float64]


@pytest.fixture
def block() -> TransformerBlock:
    torch.manual_seed(0)
    made = TransformerBlock(WIDTH, HEADS, TIME, AUDIO, positions=False).double()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return made


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    return {
        "h": draw(FRAMES, TOKENS, WIDTH),
        "time": draw(FRAMES, TIME),
        "features": draw(1, 9, WIDTH),
        "audio": draw(FRAMES, 5, AUDIO),
        "masks": torch.rand((1, TOKENS, 3), generator=rng, dtype=torch.float64),
        "scales": torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64),
    }


def conditions(block: TransformerBlock, given: dict[str, torch.Tensor], **changes: torch.Tensor) -> LayerConditions:
    now = {**given, **changes}
    return LayerConditions(
        block.reference_key_value(now["features"]),
        block.attn2.key_value(now["audio"]),
        now["masks"],
        now["scales"],
        now.get("keep"),
    )


def linear(layer: torch.nn.Linear, x: Array) -> Array:
    out = x @ layer.weight.detach().numpy().T
    return out if layer.bias is None else out + layer.bias.detach().numpy()


def layer_norm(x: Array, layer: torch.nn.LayerNorm) -> Array:
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return y if layer.weight is None else y * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def cross_attention(layer: torch.nn.Module, x: Array, context: Array) -> Array:
    def heads(y: Array) -> Array:
        return y.reshape(y.shape[0], HEADS, -1)

    q, k, v = heads(linear(layer.to_q, x)), heads(linear(layer.to_k, context)), heads(linear(layer.to_v, context))
    scores = np.einsum("thc,shc->hts", q, k) / np.sqrt(WIDTH // HEADS)
    out = np.einsum("hts,shc->thc", softmax(scores), v).reshape(x.shape)
    return linear(layer.to_out[0], out)


def by_the_paper(block: TransformerBlock, given: dict[str, torch.Tensor], frame: int) -> Array:
    """hidden_states after Eq. 1, for one frame, from hidden_states before Eq. 4."""
    now = {name: value.numpy() for name, value in given.items()}
    h, time = now["h"][frame], now["time"][frame]
    h_ref = h + cross_attention(block.attn_ref, layer_norm(h, block.norm_ref), now["features"][0])  # Eq. 4
    h_audio = cross_attention(block.attn2, layer_norm(h_ref, block.norm2), now["audio"][frame])  # Eq. 5
    shift, scale = np.split(linear(block.gate.ada_norm.linear, silu(time)), 2)
    inner = linear(block.gate.linear, h_audio)
    states = layer_norm(inner, block.gate.ada_norm.norm) * (1 + scale) + shift  # Eq. 3
    alpha = block.gate.alpha.detach().numpy()
    gates = now["masks"][0] + np.tanh(linear(block.gate.offset, states)) * silu(alpha)  # Eq. 2
    return h_ref + (now["scales"][0] * gates).sum(-1, keepdims=True) * h_audio  # Eq. 1


def test_equations_1_to_5_equal_numpy(block: TransformerBlock, given: dict[str, torch.Tensor]) -> None:
    told = conditions(block, given)
    with torch.no_grad():
        out = block.attend_audio(block.attend_reference(given["h"], told), given["time"], told).numpy()
    for frame in range(FRAMES):
        np.testing.assert_allclose(out[frame], by_the_paper(block, given, frame), rtol=1e-9, atol=1e-11)


def test_scale_zero_silences_the_audio(block: TransformerBlock, given: dict[str, torch.Tensor]) -> None:
    silent = conditions(block, given, scales=torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(block.attend_audio(given["h"], given["time"], silent), given["h"])


def test_alpha_zero_leaves_the_masks_alone(block: TransformerBlock, given: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        block.gate.alpha.zero_()
    gates = block.gate(given["h"], given["time"], given["masks"].expand(FRAMES, -1, -1))
    assert torch.equal(gates, given["masks"].expand(FRAMES, -1, -1))


def test_a_new_gate_starts_with_the_alpha_that_learns() -> None:
    gate = RegionGate(WIDTH, TIME)
    assert torch.allclose(gate.alpha, torch.full((3,), 0.1))
    assert gate.offset.weight.abs().max() > 0


def test_new_audio_attention_starts_silent() -> None:
    made = TransformerBlock(WIDTH, HEADS, TIME, AUDIO, positions=True)
    assert not made.attn2.to_out[0].weight.any()
    assert made.attn_ref.to_out[0].weight.any()


@pytest.mark.parametrize(("condition", "other"), [(0, "features"), (1, "audio")])
def test_a_dropped_condition_has_no_effect(
    block: TransformerBlock, given: dict[str, torch.Tensor], condition: int, other: str
) -> None:
    keep = torch.ones(1, 2)
    keep[0, condition] = 0
    first = block(given["h"], given["time"], conditions(block, given, keep=keep))
    second = block(given["h"], given["time"], conditions(block, given, keep=keep, **{other: given[other] + 1}))
    assert torch.equal(first, second)
    told = conditions(block, given)
    absent = LayerConditions(
        None if condition == 0 else told.reference,
        None if condition == 1 else told.audio,
        told.masks,
        told.scales,
    )
    torch.testing.assert_close(first, block(given["h"], given["time"], absent))


def test_places_are_told_apart() -> None:
    codes = grid_sinusoids(64, 32, torch.zeros(1))
    distances = torch.cdist(codes, codes) + 10 * torch.eye(64)
    assert distances.min() > 0.1
