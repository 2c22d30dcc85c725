"""Says why training diverged, in words a person can act on."""

from __future__ import annotations

import torch
from torch import Tensor

from models.flows.flow import Flow


@torch.no_grad()
def name_the_cause(flow: Flow, y: Tensor) -> str:
    """Return the first thing that is not finite: a weight, or the output of a bijection on the batch ``y``."""
    for name, parameter in flow.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name} are not finite"
    if not y.isfinite().all():
        return "the pixel transform gave values that are not finite"
    for level_number, level in enumerate(flow.level_list(), start=1):
        for index, bijection in enumerate(level.bijections()):
            y, log_det = bijection(y)
            if not (y.isfinite().all() and log_det.isfinite().all()):
                where = f"level {level_number}, bijection {index} ({type(bijection).__name__})"
                return f"{where} gave values that are not finite"
        if level.prior is not None:
            whitened, log_det = level.prior(y)
            if not (whitened.isfinite().all() and log_det.isfinite().all()):
                return f"level {level_number}, the prior of its split gave values that are not finite"
            y = whitened[:, : level.prior.kept]
    if not y.square().sum().isfinite():
        return "the squared latents overflow"
    return "the gradients are not finite, while weights and activations are"
