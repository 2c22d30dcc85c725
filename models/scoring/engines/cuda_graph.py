"""A function of one shape as a CUDA graph: captured once, replayed without a launch from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

WARM_UPS = 3
"""Calls before the capture: libraries choose their kernels and make their workspaces in the first ones."""


class CudaGraph(Generic[Result]):
    """``function(x)`` for tensors of the shape of ``example``, which lies on a CUDA device.

    What is returned is overwritten by the next call.
    """

    def __init__(self, function: Callable[[Tensor], Result], example: Tensor) -> None:
        self._input = example.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(self._input)

    def __call__(self, x: Tensor) -> Result:
        """Return ``function(x)``."""
        self._input.copy_(x)
        self._graph.replay()
        return self._output
