"""Coupling network computed by matrix products instead of convolutions, for faster training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snf_models.bijections.autograd_calls import first_derivatives

SIDE = 3
TAPS = SIDE * SIDE

Size = tuple[int, int, int]
"""Height and width of images, and their number."""


class CouplingProducts(torch.autograd.Function):
    """PyTorch autograd function of a coupling network's convolutions, computed as matrix products.

    They are 3x3, 1x1 and 3x3 convolutions with ReLUs between them.

    Each convolution is a product of a matrix and all P = H·W·N pixels. The first one multiplies the 3x3 surroundings of
    the pixels, ``(9K, P)``; the last one gives the share of each pixel in its 3x3 surroundings, ``(9·out, P)``, and the
    shares are summed. A row of ones takes the biases into the products. A library of convolutions wastes most of its
    vector registers where there are few channels on one side. The images are the last dimension, so that pixels which
    are moved or added together are neighbours in memory whatever the channels.

    Products are in ``dtype``, sums of shares in float32. Cost: that of the convolutions; each direction reads and
    writes the surroundings once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dtype: torch.dtype,
        first: Tensor,
        first_bias: Tensor,
        place: Tensor | None,
        middle: Tensor,
        middle_bias: Tensor,
        last: Tensor,
        last_bias: Tensor,
    ) -> Tensor:
        """Return the outputs of a coupling layer's convolutional network for the inputs ``x``.

        ``(N, K, H, W) -> (N, out, H, W)``, in the type of ``x``.

        Args:
            ctx: What is kept for the backward pass.
            x: Inputs.
            dtype: Type of the products.
            first: Weight of the first convolution, ``(width, K, 3, 3)``.
            first_bias: Its bias.
            place: Map that is added to its outputs, ``(width, H, W)``, or None.
            middle: Weight of the 1x1 convolution, ``(width, width, 1, 1)``.
            middle_bias: Its bias.
            last: Weight of the last convolution, ``(out, width, 3, 3)``.
            last_bias: Its bias.
        """
        images, _, height, width = x.shape
        size = height, width, images
        weights = (
            _with_bias(first.permute(0, 2, 3, 1).flatten(1), first_bias).to(dtype),
            _with_bias(middle.flatten(1), middle_bias).to(dtype),
            _by_shares(last).to(dtype),
        )
        surroundings = _surroundings(x.to(dtype), ones=True)
        # The row of ones below the outputs takes the bias of the next product.
        hidden = torch.ones(len(first) + 1, surroundings.shape[1], dtype=dtype)
        outputs = torch.mm(weights[0], surroundings, out=hidden[:-1])
        if place is not None:
            outputs.view(-1, *size).add_(place.to(dtype).unsqueeze(-1))
        F.relu_(outputs)
        second = F.relu_(weights[1] @ hidden)
        ctx.save_for_backward(surroundings, hidden, second, *weights)
        ctx.size, ctx.has_place, ctx.dtypes = size, place is not None, (x.dtype, first.dtype)
        return _sum_of_shares(weights[2] @ second, size).to(x.dtype).add_(last_bias.to(x.dtype).view(-1, 1, 1))

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the loss for the inputs and parameters of a coupling layer's network.

        The parameters are the weights, the biases and the map ``place``. The type of the products, an argument of
        :meth:`forward`, gets None. So does ``x`` if it needs no gradient, and ``place`` if it is None.
        """
        (grad,) = gradients
        surroundings, hidden, second, first, middle, last = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shares = _surroundings(grad.to(first.dtype))
        grad_second = _masked(last.T @ shares, second)
        grad_hidden = _masked(middle[:, :-1].T @ grad_second, hidden[:-1])
        grad_last = (shares @ second.T).to(of_weights)
        grad_middle = (grad_second @ hidden.T).to(of_weights)
        grad_first = (grad_hidden @ surroundings.T).to(of_weights)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _sum_of_shares(first[:, :-1].T @ grad_hidden, ctx.size).to(of_input)
        grad_place = grad_hidden.view(-1, *ctx.size).sum(-1).to(of_weights) if ctx.has_place else None
        width = len(middle)
        return (
            grad_x,
            None,
            grad_first[:, :-1].view(width, SIDE, SIDE, -1).permute(0, 3, 1, 2),
            grad_first[:, -1],
            grad_place,
            grad_middle[:, :-1].view(width, width, 1, 1),
            grad_middle[:, -1],
            grad_last.view(SIDE, SIDE, -1, width).permute(2, 3, 0, 1).flip(2, 3),
            grad.sum((0, 2, 3)).to(of_weights),
        )


def _with_bias(matrix: Tensor, bias: Tensor) -> Tensor:
    """Return a matrix with the bias of its outputs as last column, ``(O, I + 1)``."""
    return torch.cat([matrix, bias.unsqueeze(1)], 1)


def _by_shares(weight: Tensor) -> Tensor:
    """Return a kernel ``(O, I, 3, 3)`` as a matrix that gives the share of a pixel in its surroundings, ``(9 O, I)``.

    Taps are mirrored: a pixel that lies to the left of an output adds to it by the left tap, and the output lies to the
    right of the pixel.
    """
    return weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)


def _surroundings(x: Tensor, *, ones: bool = False) -> Tensor:
    """Return the 3x3 pixels around each pixel, with zeros beyond the border, ``(N, C, H, W) -> (9 C, H·W·N)``.

    Args:
        x: Images.
        ones: Whether a row of ones is added at the end.
    """
    images, channels, height, width = x.shape
    padded = x.new_zeros(channels, height + 2, width + 2, images)
    padded[:, 1:-1, 1:-1] = x.permute(1, 2, 3, 0)
    of_channel, of_row, of_pixel, _ = padded.stride()
    windows = padded.as_strided(
        (SIDE, SIDE, channels, height, width, images), (of_row, of_pixel, of_channel, of_row, of_pixel, 1)
    )
    rows = x.new_ones(TAPS * channels + ones, height * width * images)
    rows[: TAPS * channels].view(windows.shape).copy_(windows)
    return rows


def _sum_of_shares(shares: Tensor, size: Size) -> Tensor:
    """Return the sum of all shares in each pixel, ``(9 C, H·W·N) -> (N, C, H, W)``: the transpose of surroundings.

    Args:
        shares: Share of each pixel in the 3x3 pixels around it.
        size: Height and width of the images, and their number.
    """
    height, width, images = size
    taps = shares.view(SIDE, SIDE, -1, *size)
    # Sums are in float32 at least.
    dtype = torch.promote_types(shares.dtype, torch.float32)
    padded = torch.zeros(taps.shape[2], height + 2, width + 2, images, dtype=dtype)
    for row in range(SIDE):
        for column in range(SIDE):
            padded[:, row : row + height, column : column + width] += taps[row, column]
    return padded[:, 1:-1, 1:-1].permute(3, 0, 1, 2).contiguous()


def _masked(grad: Tensor, output: Tensor) -> Tensor:
    """Return the gradient of the inputs of a ReLU with the given outputs; ``grad`` is overwritten."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=grad)
    return masked
