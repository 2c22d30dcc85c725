"""Optimisers of a training, the arithmetic of its coupling networks, and averages of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.coupling import CouplingNet
from snf_models.flows.flow import Flow

BFLOAT16_CAPABILITY = (8, 0)  # compute capability from which NVIDIA GPUs multiply in bfloat16


def training_precision(config: TrainingConfig, device: str = "cpu") -> str:
    """Return "float32" or "bfloat16". Rounding would amplify errors where inputs are recomputed."""
    if config.precision != "auto":
        return config.precision
    if config.recompute:
        return "float32"
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    else:
        fast = not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    return "bfloat16" if fast else "float32"


def compute_coupling_nets_in(flow: Flow, dtype: torch.dtype | None) -> None:
    """Compute in ``dtype``, or in the type of the weights if None. The weights keep their type."""
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.autocast = dtype


def lay_out_coupling_nets(flow: Flow, precision: str, device: str = "cpu") -> None:
    """Lay out weights for fast convolutions: channels last on CPUs, and on GPUs in bfloat16."""
    last = device == "cpu" or precision == "bfloat16"
    layout = torch.channels_last if last else torch.contiguous_format
    for module in flow.modules():
        if isinstance(module, CouplingNet):
            module.to(memory_format=layout)  # type: ignore[call-overload]


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


MOMENTUM = 0.95
STEP = 5.0  # singular values of a step of a matrix, in units of the learning rate, which is that of Adam
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # those of the polynomial of :func:`orthogonalize` (Jordan et al. 2024)
ITERATIONS = 5


class FusedAdam(torch.optim.Adam):
    """PyTorch's fused Adam, which skips a step if the flag ``found_inf`` is 1."""

    found_inf: Tensor | None = None  # on the device of the parameters; 0 or None to take the step

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        super().__init__(parameters, lr=learning_rate, fused=True)

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        """Order axes as in memory: a CPU step copies gradients in another order, which takes longer than the step."""
        fill: Callable[..., bool] = super()._init_group
        complex_numbers = fill(group, *lists)
        for index, parameter in enumerate(lists[0]):
            if parameter.is_cpu and not parameter.is_contiguous():
                order = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
                for tensors in lists[:4]:
                    tensors[index] = tensors[index].permute(order)
        return complex_numbers


def make_optimizer(flow: Flow, config: TrainingConfig, precision: str) -> FusedAdam | Muon:
    """Make the configured optimiser; Muon multiplies in the ``precision`` of coupling networks, too."""
    if config.optimizer == "adam":
        return FusedAdam(flow.parameters(), config.learning_rate)
    kernels = coupling_kernels(flow)
    chosen = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in flow.parameters() if id(parameter) not in chosen]
    return Muon(kernels, others, config.learning_rate, getattr(torch, precision))


def coupling_kernels(flow: nn.Module) -> list[Tensor]:
    """Return each kernel once, nearly all parameters of a Glow."""
    networks = (module for module in flow.modules() if isinstance(module, CouplingNet))
    found = {id(layer.weight) for net in networks for layer in (net.first, net.middle, net.last)}
    return [parameter for parameter in flow.parameters() if id(parameter) in found]


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, and kernels ``(O, I k²)``; Adam at ``learning_rate`` for all others."""

    def __init__(
        self, matrices: Iterable[Tensor], others: Iterable[Tensor], learning_rate: float, dtype: torch.dtype
    ) -> None:
        groups: list[dict[str, Any]] = [{"params": [*others], "fused": True}, {"params": [*matrices]}]
        super().__init__(groups, {"lr": learning_rate})
        self.dtype = dtype
        self.adam = FusedAdam(self.param_groups[0]["params"], learning_rate)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None
        others, matrices = self.param_groups
        # ServedModel checkpoints replace the state.
        self.adam.state = self.state
        self.adam.param_groups[0]["lr"] = others["lr"]
        self.adam.found_inf = self.found_inf
        self.adam.step()
        # Where gradients are not finite, all stays as it is, by a factor on the device: no wait for it.
        applied = None if self.found_inf is None else self.found_inf == 0
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                gradient = parameter.grad if applied is None else torch.where(applied, parameter.grad, 0)
                by_shape.setdefault(parameter.shape, []).append((parameter, gradient))
        for alike in by_shape.values():
            self._step_alike(alike, STEP * matrices["lr"], applied)

    def _step_alike(self, alike: list[tuple[Tensor, Tensor]], length: float, applied: Tensor | None) -> None:
        """Take a step with parameters of one shape, given with their gradients, by products of all together."""
        parameters, gradients = [one for one, _ in alike], [gradient for _, gradient in alike]
        momenta = [self._momentum(parameter) for parameter in parameters]
        changes = torch._foreach_sub(gradients, momenta)
        torch._foreach_mul_(changes, 1 - MOMENTUM if applied is None else (1 - MOMENTUM) * applied)
        torch._foreach_add_(momenta, changes)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        steps = orthogonalize(torch.stack([matrix.flatten(1) for matrix in ahead]).to(self.dtype))
        rows, columns = steps.shape[-2:]
        length *= math.sqrt(max(1.0, rows / columns))
        steps = steps.to(gradients[0].dtype) * (-length if applied is None else -length * applied)
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step.view(parameter.shape))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return about U V^T of each U S V^T, ``(M, r, c)``, by five Newton-Schulz iterations; zeros stay."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def learning_rate_at(config: TrainingConfig, step: int, progress: float) -> float:
    """Return the learning rate of a step: that of the settings times a linear warm-up times a cosine decay.

    Args:
        config: Settings of the training.
        step: Number of the step, from 0, for the warm-up.
        progress: Used share of the budget, 0 to 1, for the cosine.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * warmup * (config.final_learning_rate + (1 - config.final_learning_rate) * cosine)
