"""Three ways to the exact log-det of a convolution and its gradient, for D dimensions and half-bandwidth b.

- ``exact``: the determinant of the dense matrix T(w), as a user would write it: O(D³)
- ``exact, band LU``: the factors of a band matrix and the inverse of all D unit images: O(D²·b)
- ``exact, blocks``: the layer of this project, by the blocks of the inverse that the gradient depends on: O(D·b²)

The gradient is that of log|det T(w)|, <B_i, T(w)^-T> for each element i of the kernel w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snf_models.bijections.base import call
from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.convolution_matrix import LogDet, materialise, nearest_to_whole_inverse
from snf_models.flows.flow import Flow


class DenseConv(ExactConv):
    """``ExactConv`` whose training steps compute the determinant of the dense matrix."""

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det dz/dx| in nats, an equal value for each image of the batch ``x``, ``(N,)``."""
        value = torch.linalg.slogdet(materialise(self.weight, (x.shape[2], x.shape[3]))).logabsdet
        return value.to(x.dtype).expand(x.shape[0])


class BandConv(ExactConv):
    """``ExactConv`` whose training steps use band LU factors."""

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det dz/dx| in nats, an equal value for each image of the batch ``x``, ``(N,)``."""
        image = (x.shape[2], x.shape[3])
        value: Tensor = call(LogDet, self.weight, image, nearest_to_whole_inverse)[0]
        return value.to(x.dtype).expand(x.shape[0])


WAYS: dict[str, type[ExactConv]] = {"exact": DenseConv, "exact, band LU": BandConv, "exact, blocks": ExactConv}


def use_way(flow: Flow, way: str) -> None:
    """Make every exact convolution of a flow compute its log-det in one of the ``WAYS``; weights stay."""
    for module in flow.modules():
        if type(module) is ExactConv:
            module.__class__ = WAYS[way]
