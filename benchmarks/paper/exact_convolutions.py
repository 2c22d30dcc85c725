"""Three ways to the exact log-det of a convolution and its gradient, for D dimensions and half-bandwidth b.

- ``exact``: the determinant of the dense matrix T(w), as a user would write it: O(D³)
- ``exact, band LU``: the factors of a band matrix and the inverse of all D unit images: O(D²·b)
- ``exact, blocks``: the layer of this project, by the blocks of the inverse that the gradient depends on: O(D·b²)

The gradient is that of log|det T(w)|, <B_i, T(w)^-T> for each element i of the kernel w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.bijections.autograd import call
from models.bijections.conv_functional import FactorisedConvolution, flip, materialise, multiplicity, project
from models.bijections.convolution import ExactConv
from models.flows.flow import Flow


class DenseConv(ExactConv):
    """``ExactConv`` whose training steps compute the determinant of the dense matrix."""

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det dz/dx| in nats, an equal value for each image of the batch ``x``, ``(N,)``."""
        value = torch.linalg.slogdet(materialise(self.weight, (x.shape[2], x.shape[3]))).logabsdet
        return value.to(x.dtype).expand(x.shape[0])


class BandLogDet(torch.autograd.Function):
    """log|det T(w)| of a kernel w for images of a size. Its gradient is flip(r)·m, r the projection of T(w)^-1."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, height: int, width: int) -> Tensor:
        """Return log|det T(w)|, a scalar."""
        factors = FactorisedConvolution(weight, (height, width))
        ctx.factors, ctx.kernel = factors, (weight.shape[2], weight.shape[3])
        return weight.new_tensor(factors.log_abs_det)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient with respect to the kernel."""
        inverse = project(ctx.factors.inverse_images(), ctx.kernel)
        gradient = flip(inverse) * multiplicity(ctx.kernel, ctx.factors.image).to(inverse)
        return (gradients[0].double() * gradient).to(gradients[0]), None, None


class BandConv(ExactConv):
    """``ExactConv`` whose training steps use band LU factors."""

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det dz/dx| in nats, an equal value for each image of the batch ``x``, ``(N,)``."""
        value: Tensor = call(BandLogDet, self.weight, x.shape[2], x.shape[3])
        return value.expand(x.shape[0])


WAYS: dict[str, type[ExactConv]] = {"exact": DenseConv, "exact, band LU": BandConv, "exact, blocks": ExactConv}


def use_way(flow: Flow, way: str) -> None:
    """Make every exact convolution of a flow compute its log-det in one of the ``WAYS``; weights stay."""
    for module in flow.modules():
        if type(module) is ExactConv:
            module.__class__ = WAYS[way]
