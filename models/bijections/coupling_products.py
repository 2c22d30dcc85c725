"""The network of a coupling as matrix products over pixels, which a CPU trains faster than convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 3
TAPS = SIDE * SIDE


class CouplingProducts(torch.autograd.Function):
    """Autograd function of the 3x3, 1x1 and 3x3 convolutions of a coupling network, with ReLUs between them.

    With P = N·H·W pixels the first convolution is a product of the 3x3 surroundings of each pixel, ``(P, 9K)``. The
    last one gives the share of each pixel in its 3x3 surroundings, ``(P, 9·out)``, and the shares are summed. A library
    of convolutions wastes most of its vector registers where there are only a few channels on one side; a product of
    all taps fills them. Products are in ``dtype``, sums of shares in that of the input.

    Cost: that of the convolutions; each direction reads and writes the surroundings once.
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
        """Return the outputs of the network for ``x``, ``(N, K, H, W) -> (N, out, H, W)``, in the type of ``x``.

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
        images, _, *size = x.shape
        surroundings = _surroundings(x.to(dtype))
        weights = _by_taps(first.to(dtype)), middle.to(dtype).flatten(1), _by_shares(last.to(dtype))
        hidden = F.linear(surroundings, weights[0], first_bias.to(dtype))
        if place is not None:
            hidden.view(images, -1, len(place)).add_(place.to(dtype).flatten(1).T)
        hidden = F.relu_(hidden)
        second = F.relu_(F.linear(hidden, weights[1], middle_bias.to(dtype)))
        ctx.save_for_backward(surroundings, hidden, second, *weights)
        ctx.sizes, ctx.has_place, ctx.dtypes = (images, *size), place is not None, (x.dtype, first.dtype)
        return _sum_of_shares(F.linear(second, weights[2]), ctx.sizes, x.dtype).add_(
            last_bias.to(x.dtype).view(-1, 1, 1)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs and of all weights, and None for the type of the products."""
        (grad,) = gradients
        surroundings, hidden, second, first, middle, last = ctx.saved_tensors
        of_input, of_weights = ctx.dtypes
        shares = _surroundings(grad.to(first.dtype))
        grad_last = shares.T @ second
        grad_second = _masked(shares @ last, second)
        grad_middle = grad_second.T @ hidden
        grad_hidden = _masked(grad_second @ middle, hidden)
        grad_first = grad_hidden.T @ surroundings
        grad_x = _sum_of_shares(grad_hidden @ first, ctx.sizes, of_input) if ctx.needs_input_grad[0] else None
        images, *size = ctx.sizes
        grad_place = None
        if ctx.has_place:
            grad_place = grad_hidden.view(images, -1, len(middle)).sum(0).T.reshape(-1, *size).to(of_weights)
        width = len(middle)
        return (
            grad_x,
            None,
            grad_first.view(width, SIDE, SIDE, -1).permute(0, 3, 1, 2).to(of_weights),
            grad_hidden.sum(0).to(of_weights),
            grad_place,
            grad_middle.view(width, width, 1, 1).to(of_weights),
            grad_second.sum(0).to(of_weights),
            grad_last.view(SIDE, SIDE, -1, width).permute(2, 3, 0, 1).flip(2, 3).to(of_weights),
            grad.sum((0, 2, 3)).to(of_weights),
        )


def _by_taps(weight: Tensor) -> Tensor:
    """Return a kernel ``(O, I, 3, 3)`` as a matrix that multiplies surroundings, ``(O, 9 I)``."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _by_shares(weight: Tensor) -> Tensor:
    """Return a kernel ``(O, I, 3, 3)`` as a matrix that gives the share of a pixel in its surroundings, ``(9 O, I)``.

    Taps are mirrored: a pixel that lies to the left of an output adds to it by the left tap, and the output lies to the
    right of the pixel.
    """
    return weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)


def _surroundings(x: Tensor) -> Tensor:
    """Return the 3x3 pixels around each pixel, with zeros beyond the border, ``(N, C, H, W) -> (N·H·W, 9 C)``."""
    images, channels, height, width = x.shape
    padded = x.new_zeros(images, height + 2, width + 2, channels)
    padded[:, 1:-1, 1:-1] = x.permute(0, 2, 3, 1)
    of_image, of_row, of_pixel, _ = padded.stride()
    # The three pixels of a row are neighbours in memory.
    windows = padded.as_strided((images, height, width, SIDE, SIDE * channels), (of_image, of_row, of_pixel, of_row, 1))
    return windows.reshape(-1, TAPS * channels)


def _sum_of_shares(shares: Tensor, sizes: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Return the sum of all shares in each pixel, ``(N·H·W, 9 C) -> (N, C, H, W)``: the transpose of surroundings.

    Args:
        shares: Share of each pixel in the 3x3 pixels around it.
        sizes: Number of images, height and width.
        dtype: Type of the sums.
    """
    images, height, width = sizes
    # Converted once: additions of two types would convert each time.
    taps = shares.to(dtype).view(images, height, width, SIDE, SIDE, -1)
    padded = taps.new_zeros(images, height + 2, width + 2, taps.shape[-1])
    for row in range(SIDE):
        for column in range(SIDE):
            padded[:, row : row + height, column : column + width] += taps[:, :, :, row, column]
    return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2).contiguous()


def _masked(grad: Tensor, output: Tensor) -> Tensor:
    """Return the gradient of the inputs of a ReLU with the given outputs; ``grad`` is overwritten."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, output, 0, grad_input=grad)
    return masked
