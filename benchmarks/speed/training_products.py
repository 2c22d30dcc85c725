"""The matrix products of a training step alone: the time below which no step with these products can come."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor

from benchmarks.speed.pairing import Turn, timed
from snf_models.bijections.coupling import CouplingNet
from snf_models.pipeline.loop import Trainer


def dense_products(x: Tensor, weight: Tensor, inverse: Tensor, slope: Tensor) -> None:
    """Multiply what forward and backward pass of one self normalizing dense layer multiply: six products.

    Args:
        x: Inputs, ``(N, D)``.
        weight: W, ``(D, D)``.
        inverse: R, ``(D, D)``.
        slope: Gradient of the outputs, ``(N, D)``.
    """
    y = x @ weight.T
    _ = y @ inverse.T, slope @ weight, slope @ inverse
    _ = slope.T @ x, slope.T @ y


def coupling_products(trainer: Trainer, dtype: torch.dtype) -> Turn:
    """Return a turn that does the products of all coupling networks of a training step, and nothing else.

    A convolution of N images of H x W pixels is a product of its kernel, ``(out, in * taps)`` or, where there are fewer
    outputs than inputs, ``(out * taps, in)``, and a matrix with a column a pixel. Forward pass and both gradients are
    one product each. Results go to memory that is there already.

    Args:
        trainer: Training before its first step.
        dtype: Type of the products.
    """
    products = [
        (torch.randn(rows, columns, dtype=dtype), pixels)
        for net, pixels in _networks(trainer)
        for rows, columns in _kernels(net)
    ]
    inputs = torch.randn(max(kernel.shape[1] * pixels for kernel, pixels in products), dtype=dtype)
    slopes = torch.randn(max(kernel.shape[0] * pixels for kernel, pixels in products), dtype=dtype)
    outputs, of_inputs = torch.empty_like(slopes), torch.empty_like(inputs)
    of_kernel = torch.empty(max(kernel.numel() for kernel, _ in products), dtype=dtype)

    def work() -> None:
        for kernel, pixels in products:
            rows, columns = kernel.shape
            x, slope = _first(inputs, columns, pixels), _first(slopes, rows, pixels)
            torch.mm(kernel, x, out=_first(outputs, rows, pixels))
            torch.mm(kernel.T, slope, out=_first(of_inputs, columns, pixels))
            torch.mm(slope, x.T, out=_first(of_kernel, rows, columns))

    return timed(work)


def _networks(trainer: Trainer) -> list[tuple[CouplingNet, int]]:
    """Return the coupling networks of a flow, and the number of pixels that each gets from a batch."""
    found: list[tuple[CouplingNet, int]] = []
    with ExitStack() as stack, torch.no_grad():
        for net in trainer.flow.modules():
            if isinstance(net, CouplingNet):
                hook = net.register_forward_pre_hook(
                    lambda net, inputs: found.append((net, inputs[0].shape[0] * inputs[0][0, 0].numel()))
                )
                stack.callback(hook.remove)
        _ = trainer.loss_of(trainer.batches.batch(0), 0)
    return found


def _kernels(net: CouplingNet) -> list[tuple[int, int]]:
    """Return the shapes of the matrices of the three convolutions."""
    found = []
    for convolution in (net.first, net.middle, net.last):
        outputs, inputs, *sides = convolution.weight.shape
        taps = sides[0] * sides[1]
        found.append((outputs * taps, inputs) if outputs < inputs else (outputs, inputs * taps))
    return found


def _first(memory: Tensor, rows: int, columns: int) -> Tensor:
    return memory[: rows * columns].view(rows, columns)
