"""Angles between the gradients of self normalizing layers and the exact ones (Keller et al. 2021, Figure 3).

Both are gradients of the log-likelihood alone, of the same weights and the same batch, in float64, so that an angle
shows the learned inverse against the exact one and no rounding.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from snf_models.bijections.coupling import CouplingNet
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_models.training.objective import self_normalizing_layers


def exact_twin(architecture: Any) -> Flow:
    """Return a flow with exact layers of the same architecture, in float64, whose weights ``angles`` overwrites."""
    return build_flow(architecture.model_copy(update={"linear": "exact"})).double().train()


def angles(flow: Flow, twin: Flow, x: Tensor) -> list[float]:
    """Return the angle, in degrees, of each self normalizing layer of ``flow`` on dequantised images ``x``."""
    learned = copy.deepcopy(flow).cpu().double().train()
    for module in learned.modules():
        if isinstance(module, CouplingNet):
            module.autocast = None
    wanted = twin.state_dict().keys()
    twin.load_state_dict({name: value for name, value in learned.state_dict().items() if name in wanted})
    names = {id(module): name for name, module in learned.named_modules()}
    weights = [f"{names[id(layer)]}.weight" for layer in self_normalizing_layers(learned)]
    return [angle(*pair) for pair in zip(_gradients(learned, weights, x), _gradients(twin, weights, x), strict=True)]


def _gradients(flow: Flow, weights: list[str], x: Tensor) -> tuple[Tensor, ...]:
    y, log_det = (part.detach() for part in flow.pixels(x))
    parameters = [flow.get_parameter(name) for name in weights]
    return torch.autograd.grad(flow.forward_pixels(y, log_det).log_likelihood.mean(), parameters)


def angle(left: Tensor, right: Tensor) -> float:
    """Return the angle between two gradients in degrees.

    The half-angle form keeps its digits where the arc cosine would lose them.
    """
    left, right = left.flatten() / left.norm(), right.flatten() / right.norm()
    return float(torch.rad2deg(2 * torch.atan2((left - right).norm(), (left + right).norm())))
