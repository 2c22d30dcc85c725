"""Several processes that train one flow as one: each takes a slice of every batch, and the gradients are averaged.

One sum over all processes a step carries the gradients and whatever else they must agree on, so that all of them do
the same at the same step. ``DistributedDataParallel`` has no place here: the penalties on the learned inverses reach
the loss beside the forward that it would wrap, and the numbers to agree on travel with the gradients for free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from models.errors import RanksUnfit

PATIENCE = timedelta(hours=2)
"""Longest wait for another process. The first one validates alone; a process that dies is noticed at once on CPUs."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together; the first one alone reports and writes files."""

    rank: int = 0
    size: int = 1

    @classmethod
    def single(cls) -> Ranks:
        """Return the place of a process that trains alone."""
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, batch: Tensor) -> tuple[Tensor, float]:
        """Return this process's slice of a batch and its share of the images; slices differ by one image at most."""
        part = batch.tensor_split(self.size)[self.rank]
        return part, len(part) / len(batch)

    def mean(self, value: Tensor, share: float) -> Tensor:
        """Return the mean over the batch of what is ``value`` in the mean over this process's slice."""
        total = value * share
        dist.all_reduce(total)
        return total

    def gather(self, values: Tensor, share: float) -> Tensor:
        """Return the values of all images of the batch, in its order, from the ``values`` ``(N,)`` of this slice."""
        total = values.new_zeros(round(len(values) / share))
        total.tensor_split(self.size)[self.rank].copy_(values)
        dist.all_reduce(total)
        return total

    def average(
        self, gradients: Sequence[Tensor], means: Tensor, counts: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Replace gradients by those of the whole batch; return the means over it, and the sums of ``counts``.

        ``gradients`` and ``means`` are those of this process's slice. One sum over the processes, in float32.
        """
        parts = [gradient.flatten() for gradient in gradients]
        total = torch.cat([*(part * share for part in (*parts, means)), counts])
        dist.all_reduce(total)
        *parts, means, counts = torch.split(total, [*(part.numel() for part in parts), len(means), len(counts)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return means, counts

    def require_alike(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Raise ``RanksUnfit`` unless all processes are about to take the same step from the same weights."""
        if self.alone:
            return
        weights = torch.stack([parameter.detach().double().abs().sum() for parameter in parameters]).sum()
        mine = torch.stack([weights.new_tensor(step), weights])
        others = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(others, mine)
        # Not bit by bit: processors of different kinds round the initialisation differently.
        if not all(torch.allclose(other, others[0], rtol=1e-6, atol=0) for other in others):
            found = ", ".join(f"step {int(other[0])} with weights of sum {float(other[1]):g}" for other in others)
            raise RanksUnfit(f"the processes of a training must start alike, in one folder; they start at {found}")


@contextmanager
def joined(rank: int, size: int, rendezvous: str, device: str = "cpu") -> Iterator[Ranks]:
    """Join ``size`` processes that meet at ``rendezvous``, a URL of ``init_process_group``; leave them at the end."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


@contextmanager
def ranks_of_torchrun(device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started beside this one; alone where it did not start this one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks.single()
        return
    with joined(int(os.environ["RANK"]), size, "env://", device) as ranks:
        yield ranks
