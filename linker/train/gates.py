"""What the region gates do while a net is trained: Eq. 2's alpha and the gate itself, region by region."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from linker.config import REGIONS
from linker.model.gate import RegionGate


class Gates:
    """The region gates of a net, and what they let through since they were last asked."""

    def __init__(self, net: nn.Module) -> None:
        self.modules = [module for module in net.modules() if isinstance(module, RegionGate)]
        self.seen: list[Tensor] = []

    def note(self, _gate: nn.Module, inputs: tuple[Tensor, ...], gates_NTR: Tensor) -> None:
        """A forward hook: the gate's mean inside each region."""
        masks_NTR = inputs[2]
        inside = (gates_NTR * masks_NTR).detach().float().sum((0, 1))
        self.seen.append(inside / masks_NTR.float().sum((0, 1)).clamp(min=1e-3))

    def forget(self) -> None:
        """Count from here on: samples that were shown, and what checkpointing passed again, are no part of a draw."""
        self.seen = []

    def tell(self) -> dict[str, float]:
        """Means over the layers, of alpha and of the gate; nothing where no gate was passed (single frames)."""
        seen, self.seen = self.seen, []
        if not seen:
            return {}
        alpha = torch.stack([module.alpha.detach().float() for module in self.modules]).mean(0)
        found = {"alpha": alpha.tolist(), "gate": torch.stack(seen).mean(0).tolist()}
        return {
            f"{name}/{region}": v for name, values in found.items() for region, v in zip(REGIONS, values, strict=True)
        }


@contextmanager
def watched(net: nn.Module) -> Iterator[Gates]:
    """The gates of a net, watched in the block."""
    gates = Gates(net)
    hooks = [module.register_forward_hook(gates.note) for module in gates.modules]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()
