from __future__ import annotations

import torch
from torch import Tensor

from snf_models.flows.flow import Flow


@torch.no_grad()
def average(averaged: Flow, flow: Flow, decay: float, step: int, applied: Tensor | None = None) -> None:
    """Move the averaged weights towards those of ``flow`` and copy the buffers, unless ``applied`` is false."""
    # The first weights, which are noise, soon lose their influence.
    decay = min(decay, (1 + step) / (10 + step))
    averages: list[Tensor] = [*averaged.parameters()]
    weights: list[Tensor] = [*flow.parameters()]
    if not decay:
        torch._foreach_copy_(averages, weights)  # which are equal after a step that changed none
    elif applied is None:
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:
        # A factor on the device, which the program need not wait for.
        changes = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(changes, (1 - decay) * applied)
        torch._foreach_add_(averages, changes)
    # Buffers, such as the estimate of a spectral norm, belong to the current weights.
    for kept, current in zip(averaged.buffers(), flow.buffers(), strict=True):
        kept.copy_(current if applied is None else torch.where(applied, current, kept))
