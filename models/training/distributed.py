"""Data-parallel training of one flow: processes started by ``torchrun`` divide each batch.

PyTorch's ``DistributedDataParallel`` averages the gradients. :class:`Ranks` divides the batches and computes, over all
processes, the numbers that the loss and the training loop need beside the gradients.
"""

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

from models.devices import find_device
from models.errors import RanksUnfit

TIMEOUT = timedelta(hours=2)
"""Longest wait for another process; the others wait while the first one validates."""


@dataclass(frozen=True)
class Ranks:
    """The number of this process, called its rank, and how many processes train one flow together.

    Its methods exchange values with the other processes.

    The methods that exchange numbers must be called by all processes, in the same order. In a process that trains
    alone they return their arguments unchanged.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is process 0 of the training, the only one that reports, validates and writes files."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether this is the only training process.

        There are then no others to exchange values with.
        """
        return self.size == 1

    def share(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this process's slice of a batch and the fraction of the batch that the slice contains.

        The slices of two processes differ by one image at most.
        """
        part = batch.tensor_split(self.size)[self.rank]
        return part, len(part) / len(batch)

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the mean of a value over a training batch that is split among the processes.

        Each process passes the mean over its slice. The gradient, averaged over the processes, is exact.

        All processes get the same value, Σ_r (n_r / N) value_r. Its gradient is W (n_r / N) times that of ``value``, W
        the number of processes, so that the mean over processes that ``DistributedDataParallel`` takes is the gradient
        of the whole batch, also where slices differ in size.
        """
        if self.alone:
            return value
        total = value.detach() * share
        dist.all_reduce(total)
        own = value * (share * self.size)
        return total + (own - own.detach())

    def gather(self, values: Tensor, share: float) -> Tensor:
        """Return the values of all images of a training batch that is split among the processes.

        Each process passes the values of its own slice. All get the N values, ``(N,)``.
        """
        if self.alone:
            return values
        total = values.new_zeros(round(len(values) / share))
        total.tensor_split(self.size)[self.rank].copy_(values)
        dist.all_reduce(total)
        return total

    def value_of_first(self, value: float) -> float:
        """Send a number from process 0 to all processes, and return it in each.

        All processes must make this call.

        The processes exchange it by their CPUs: none waits for its GPU.
        """
        if self.alone:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in at least one training process.

        All processes must make this call.

        The processes exchange it by their CPUs: none waits for its GPU.
        """
        if self.alone:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count)
        return int(count) > 0

    def require_same_start(self, step: int, run: str) -> None:
        """Check that all processes start the same training at the same step; else raise ``RanksUnfit``.

        It is raised in all processes. Their settings and data must be equal, too.
        """
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
        """Wrap a module in ``DistributedDataParallel``, which averages gradients over the processes.

        In a process that trains alone, the module is returned unchanged.

        The parameters of the first process replace those of the others.
        """
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
    """Connect this process, within a ``with`` block, to the other processes that ``torchrun`` started.

    It yields the number of this process and the number of processes as :class:`Ranks`.

    Without ``torchrun`` this yields :data:`SINGLE_PROCESS`.

    Args:
        device: "cpu", or "cuda": each process computes on the GPU of its local rank. Tensors of the CPU are exchanged
            by gloo, those of GPUs by NCCL.

    Raises:
        DeviceNotFound: There is no GPU for the local rank.
        RanksUnfit: Another device was given to several processes.
    """
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
