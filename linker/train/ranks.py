"""The processes of one training, one a GPU: who this one is, where it computes, and what all of them know together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from linker.engine import resolve_dtype
from linker.heartbeat import job_id

PATIENCE = timedelta(hours=1)  # the first process may be showing samples meanwhile


@dataclass(frozen=True)
class Ranks:
    """This process is number `index` of `count`; the first alone writes."""

    index: int
    count: int
    device: torch.device

    @staticmethod
    def join() -> Ranks:
        """Meet the other processes, which the environment names (RANK, WORLD_SIZE, MASTER_ADDR); alone without."""
        together = {"timeout": PATIENCE} if int(os.environ.get("WORLD_SIZE", "1")) > 1 else {}
        state = PartialState(cpu=not torch.cuda.is_available(), **together)
        return Ranks(state.process_index, state.num_processes, state.device)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Put the mean over all processes into each gradient; the same parameters have one everywhere."""
        if self.count == 1:
            return
        for value in parameters:
            if value.grad is not None:
                dist.all_reduce(value.grad)
                value.grad.div_(self.count)

    def mean(self, *values: float) -> list[float]:
        """Each value's mean over all processes, the same numbers in each of them."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return [float(value) for value in together / self.count]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier()


def mixed(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision: matrices in `dtype`; the weights themselves, norms and sums in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def training_dtype(name: str, device: torch.device) -> torch.dtype:
    """What matrices are multiplied in; float16 would need its losses scaled, so float32 takes its place."""
    dtype = resolve_dtype(name, device)
    return torch.float32 if dtype == torch.float16 else dtype


def cores() -> int:
    """Of this process: its share of the job's, where it was submitted; else what the workflow gave its rule
    (OMP_NUM_THREADS)."""
    share = max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return share if job_id() or not given.isdigit() else min(max(int(given), 1), share)
