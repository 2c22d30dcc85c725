"""Data-parallel training. ``DistributedDataParallel`` averages the gradients, :class:`Ranks` all other numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snf_models.bijections.devices import find_device
from snf_models.errors import RanksUnfit

TIMEOUT = timedelta(hours=2)  # longest wait for another process; the others wait while the first one validates


@dataclass(frozen=True)
class Ranks:
    """The processes that train one flow. All must call methods that exchange numbers, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    def share(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this process's slice of a batch and its share; slices differ by one image at most."""
        part = batch.tensor_split(self.size)[self.rank]
        return part, len(part) / len(batch)

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the mean over the whole batch. The processes' mean of its gradient is that of the whole batch."""
        if self.alone:
            return value
        total = value.detach() * share
        dist.all_reduce(total)
        own = value * (share * self.size)
        return total + (own - own.detach())

    def gather(self, values: Tensor, share: float) -> Tensor:
        """Return the values of all N images of a batch, ``(N,)``, from those of each process."""
        if self.alone:
            return values
        total = values.new_zeros(round(len(values) / share))
        total.tensor_split(self.size)[self.rank].copy_(values)
        dist.all_reduce(total)
        return total

    def value_of_first(self, value: float) -> float:
        """Return the value of process 0, exchanged by the CPUs: none waits for its GPU."""
        if self.alone:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process, exchanged by the CPUs: none waits for its GPU."""
        if self.alone:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count)
        return int(count) > 0

    def require_same_start(self, step: int, run: str) -> None:
        """Raise ``RanksUnfit`` in all processes unless step, settings and data are the same."""
        if self.alone:
            return
        starts: list[Any] = [None] * self.size
        dist.all_gather_object(starts, (step, run))
        if len(set(starts)) > 1:
            listed = ", ".join(f"process {rank} at step {at} of run {of[:8]}" for rank, (at, of) in enumerate(starts))
            raise RanksUnfit(
                f"expected all processes to start at the same step of the same training, got {listed}; "
                "give all of them the same settings, images and folder"
            )

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module for data-parallel training; the first process's parameters replace those of the others."""
        if self.alone:
            return module
        # Gradients are parts of the buffers that are exchanged, in place of copies.
        wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)
        # No broadcast of buffers at each step: every process computes them from the same weights and gathered numbers.
        # An attribute, as the argument has different names in different versions of PyTorch.
        wrapped.broadcast_buffers = False
        return wrapped


SINGLE_PROCESS = Ranks()


@contextmanager
def ranks_of_torchrun(device: str = "cpu") -> Iterator[Ranks]:
    """Connect to the processes of ``torchrun``, if any; raise ``DeviceNotFound`` or ``RanksUnfit``."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    if device not in ("cpu", "cuda"):
        raise RanksUnfit(f"expected device cpu or cuda for {size} processes, got {device}")
    if device == "cuda":
        torch.cuda.set_device(find_device(f"cuda:{os.environ['LOCAL_RANK']}"))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
