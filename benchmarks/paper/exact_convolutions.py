"""Two ways to the exact log-det of a convolution and its gradient, for D dimensions and half-bandwidth b.

- ``exact``: the determinant of the dense matrix T(w), as a user would write it: O(D³)
- ``exact, blocks``: the layer of this project, by the blocks of the inverse that the gradient depends on: O(D·b²)

The gradient is that of log|det T(w)|, <B_i, T(w)^-T> for each element i of the kernel w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snf_models.bijections.convolution import ExactConv
from snf_models.bijections.convolution_matrix import materialise
from snf_models.flows.flow import Flow


class DenseConv(ExactConv):
    """``ExactConv`` whose training steps compute the determinant of the dense matrix."""

    def log_det(self, x: Tensor) -> Tensor:
        value = torch.linalg.slogdet(materialise(self.weight, (x.shape[2], x.shape[3]))).logabsdet
        return value.to(x.dtype).expand(x.shape[0])


WAYS: dict[str, type[ExactConv]] = {"exact": DenseConv, "exact, blocks": ExactConv}


def use_way(flow: Flow, way: str) -> None:
    """Make every exact convolution of a flow compute its log-det in one of the ``WAYS``; weights stay."""
    for module in flow.modules():
        if type(module) is ExactConv:
            module.__class__ = WAYS[way]
