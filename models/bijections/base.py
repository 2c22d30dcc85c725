"""The contract every bijection keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Bijection(nn.Module):
    """An invertible map z = f(x) with the log-determinant of its Jacobian.

    What is promised, and checked for every bijection by one conformance suite:

    - ``forward(x) -> (z, log_det)`` and ``inverse(z) -> (x, log_det)``; the first axis is the sample, ``log_det`` has
      shape ``(N,)``, is in nats and belongs to the direction of the call.
    - Neither direction mutates its input, draws noise, or lets one sample influence another.
    - In evaluation mode both directions are exact. In training mode a bijection may replace the *gradient* of its
      log-determinant by an estimate and leave out its value; it says so in its docstring.
    """

    constant_log_det: ClassVar[bool] = False
    """Whether the log-determinant is the same for every input of one shape."""
    learned_inverse: ClassVar[bool] = False
    """Whether ``approximate_inverse`` exists: an inverse that was learned beside the map."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` to ``(z, log|det dz/dx|)``."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``z`` to ``(x, log|det dx/dz|)``."""

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Map ``z`` to x by the learned inverse where there is one, by the exact inverse elsewhere."""
        return self.inverse(z)[0]


class ChannelAffine(Bijection):
    """A bijection of images that maps every location by one matrix: z[:, :, i, j] = A x[:, :, i, j] + b.

    Two of these in a row are one of these; freezing folds them with :meth:`affine`.
    """

    constant_log_det: ClassVar[bool] = True

    @abstractmethod
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return A, shape ``(C, C)``, and b, shape ``(C,)``."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return log|det A| of one location, a scalar in nats."""

    def log_det(self, x: Tensor) -> Tensor:
        """Return H·W·log|det A| for every sample of ``x``, shape ``(N,)``. Cost: that of :meth:`log_abs_det`."""
        locations = x.shape[2] * x.shape[3]
        return (locations * self.log_abs_det()).to(x.dtype).expand(x.shape[0])


def check_images(x: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless ``x`` has shape ``(N, channels, H, W)``."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"expected a tensor of shape (N, {channels}, H, W), got {tuple(x.shape)}")


def sum_samples(x: Tensor) -> Tensor:
    """Sum every axis but the first: ``(N, ...) -> (N,)``."""
    return torch.sum(x.flatten(1), dim=1)
