"""A training step of the nine-layer convolutional flow as its authors structured it, rebuilt plainly (own code).

Forward and backward pass take the gradients of log-determinants from the learned kernels, with the multiplicity of the
taps computed anew in each layer. Then each layer convolves its input again, and a backward pass of its own adds the
gradient of the reconstruction error. Adam has its default implementation. Keller et al. 2021, published code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from benchmarks.speed.authors import PlainConvolution, PlainFlow
from snf_models.bijections.base import call
from snf_models.bijections.convolution import SelfNormalizingConv
from snf_models.bijections.convolution_matrix import flip, same_padding
from snf_models.flows.flow import Flow


class LearnedConvolution(PlainConvolution):
    """w * x + b that learns the kernel r of an approximate inverse."""

    def __init__(self, layer: SelfNormalizingConv) -> None:
        super().__init__(layer)
        self.inverse_weight = nn.Parameter(layer.inverse_weight.detach().float().clone())
        self.seen = torch.empty(0)
        """The inputs of the last forward pass."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map ``x``."""
        self.seen = x.detach()
        z: Tensor = call(_Product, x, self.weight, self.bias, self.inverse_weight)
        return z, None

    def reconstruction_error(self) -> Tensor:
        """Return ||r * w * x - x||² of each of the last inputs, ``(N,)``."""
        padding = same_padding(self.weight)
        z = F.conv2d(self.seen, self.weight, padding=padding)
        return (self.seen - F.conv2d(z, self.inverse_weight, padding=padding)).square().flatten(1).sum(1)


class _Product(torch.autograd.Function):
    """w * x + b with the gradients of the mean of two log-likelihoods, by w and by r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, inverse_weight: Tensor) -> Tensor:
        z = F.conv2d(x, weight, bias, padding=same_padding(weight))
        ctx.save_for_backward(x, z, weight, bias, inverse_weight)
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (grad_z,) = gradients
        x, z, weight, bias, inverse_weight = ctx.saved_tensors
        size, padding = weight.shape, same_padding(weight)
        taps = conv2d_weight(torch.ones_like(x), size, torch.ones_like(z), padding=padding) / len(x)
        grad_x = conv2d_input(x.shape, weight, grad_z, padding=padding)
        grad_weight = 0.5 * (conv2d_weight(x, size, grad_z, padding=padding) - flip(inverse_weight) * taps)
        y = z - bias.view(1, -1, 1, 1)
        grad_inverse = 0.5 * (flip(weight) * flip(taps) - conv2d_weight(y, size, grad_x, padding=padding))
        return grad_x, grad_weight, grad_z.sum((0, 2, 3)), grad_inverse


class AuthorsStep:
    """Training steps of the authors' structure with the weights of one of our flows.

    Args:
        flow: A flow of self-normalizing convolutions, splines and squeezes.
        learning_rate: Adam's step size.
        weight: The multiplier lambda of the reconstruction errors.
    """

    def __init__(self, flow: Flow, learning_rate: float, weight: float) -> None:
        self.flow = PlainFlow(flow, {}).train()
        layers = [layer for level in flow.level_list() for layer in level.bijections()]
        for number, layer in enumerate(layers):
            if isinstance(layer, SelfNormalizingConv):
                self.flow.parts[number] = LearnedConvolution(layer)
        self.weight = weight
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=learning_rate)

    def gradients(self, x: Tensor) -> None:
        """Take the gradients of the objective in nats for images plus noise ``(N, C, H, W)`` in [0, 256)."""
        self.optimizer.zero_grad()
        torch.autograd.backward(-self.flow.log_likelihood(x).mean())
        for part in self.flow.parts:
            if isinstance(part, LearnedConvolution):
                torch.autograd.backward(self.weight * part.reconstruction_error().mean())

    def __call__(self, x: Tensor) -> None:
        """Take a step."""
        self.gradients(x)
        self.optimizer.step()


def gradient_difference(ours: Flow, authors: PlainFlow, dimensions: int) -> float:
    """Return the largest relative difference of the gradients of a weight, ||g - h|| / ||h|| over all weights.

    Args:
        ours: Our flow, with gradients in nats a dimension.
        authors: The authors' structure of it, with gradients in nats.
        dimensions: Values of an image.
    """
    layers = [layer for level in ours.level_list() for layer in level.bijections()]
    found = []
    for layer, part in zip(layers, authors.parts, strict=True):
        theirs = dict(part.named_parameters())
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            expected = theirs[name].grad
            assert expected is not None
            found.append(float((dimensions * parameter.grad - expected).norm() / expected.norm()))
    return max(found)
