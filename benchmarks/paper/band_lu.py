"""Exact convolution whose log-det and gradient come from band LU factors, for D dimensions and half-bandwidth b.

The log-det costs O(D b²) in place of O(D³). The gradient needs the inverse on all D unit images: O(D² b).

A baseline for the self normalizing convolution that is fairer than the determinant of the dense matrix T(w). The
gradient is that of log|det T(w)|, <B_i, T(w)^-T> for each element i of the kernel w, from D solves by the factors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.bijections.autograd import call
from models.bijections.conv_functional import FactorisedConvolution, flip, multiplicity, project
from models.bijections.convolution import ExactConv
from models.flows.flow import Flow


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


def use_band_lu(flow: Flow) -> None:
    """Make every exact convolution of a flow use band LU factors; weights stay."""
    for module in flow.modules():
        if type(module) is ExactConv:
            module.__class__ = BandConv
