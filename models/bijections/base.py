"""The contract every bijection keeps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.bijections.frozen import FrozenAffine, FrozenMap, FrozenStep

LogDetGradient = Literal["paper", "newton-schulz"]
"""Stand-in for W^-1 in the gradient of log|det W|: R, or one Newton-Schulz step from R, 2R - R W R."""

Shape = tuple[int, int, int]
"""Channels, height, width."""


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
    omits_log_det: ClassVar[bool] = False
    """Whether training mode leaves out the value of the log-det, which then has a gradient but costs no determinant."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` to ``(z, log|det dz/dx|)``."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``z`` to ``(x, log|det dx/dz|)``."""

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of z for inputs of ``shape``."""
        return shape

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-det for inputs of ``shape``, nats, computed in float64; 0 where it depends on the data."""
        if self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must say what its log-det is")
        return 0.0

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable copy for inputs of ``shape`` in float64, without the data-independent log-det.

        Raises ``TypeError`` where the log-det depends on the data and the bijection does not say where in the image.
        """
        if not self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must say how it is frozen")
        module = copy.deepcopy(self).double().eval()
        learned = module.approximate_inverse if self.learned_inverse else None
        return FrozenMap(lambda x: (module.forward(x)[0], None), lambda z: module.inverse(z)[0], learned)

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

    def learned_affine(self) -> tuple[Tensor, Tensor] | None:
        """Return the learned inverse as matrix and offset, None where there is none."""
        return None

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return H·W·log|det A|."""
        return shape[1] * shape[2] * float(self.log_abs_det().detach().double())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return the map with its inverse, O(C³) once."""
        matrix, offset = (part.double().clone() for part in self.affine())
        inverse = torch.linalg.inv(matrix)
        learned = self.learned_affine()
        return FrozenAffine(
            (matrix, offset),
            (inverse, -inverse @ offset),
            None if learned is None else (learned[0].double().clone(), learned[1].double().clone()),
        )

    def log_det(self, x: Tensor) -> Tensor:
        """Return H·W·log|det A| for every sample of ``x``, shape ``(N,)``. Cost: that of :meth:`log_abs_det`."""
        locations = x.shape[2] * x.shape[3]
        return (locations * self.log_abs_det()).to(x.dtype).expand(x.shape[0])


class SelfNormalizing(Bijection):
    """A bijection z = W x + b that learns an inverse R beside W.

    Its training forward leaves the reconstruction error of each sample for the objective, which takes it once. With
    ``symmetric`` the error is ½ ||R W x - x||² + ½ ||W R y - y||² at y = W x, which counts as data.
    """

    learned_inverse: ClassVar[bool] = True
    omits_log_det: ClassVar[bool] = True
    symmetric: bool = False
    gradient: LogDetGradient = "paper"

    def __init__(self) -> None:
        super().__init__()
        self._reconstruction_error: Tensor | None = None

    @abstractmethod
    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x."""

    @abstractmethod
    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z."""

    @abstractmethod
    def refresh_inverse(self, shape: Shape) -> None:
        """Set R to W^-1 for inputs of ``shape``, or to its projection on what R can be."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return R W x."""
        return self.apply_inverse_weight(self.apply_weight(x))

    def keep_reconstruction_error(self, error: Tensor, y: Tensor) -> None:
        """Keep ||R W x - x||², ``(N,)``, for the objective; ``y`` = W x is used where both sides are penalised."""
        if self.symmetric:
            data = y.detach()
            back = self.apply_weight(self.apply_inverse_weight(data)) - data
            error = 0.5 * (error + sum_samples(back.square()))
        self._reconstruction_error = error

    def pop_reconstruction_error(self) -> Tensor:
        """Hand over the reconstruction error of the last training forward, shape ``(N,)``, once.

        Raises ``RuntimeError`` when no training forward has run since the last call.
        """
        error, self._reconstruction_error = self._reconstruction_error, None
        if error is None:
            raise RuntimeError("no training forward has run since the reconstruction error was last taken")
        return error


class Elementwise(Bijection):
    """A bijection that maps every value on its own: log|det| is the sum of log slopes, and has a place in the image."""

    @abstractmethod
    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log|dz/dx| of every value, each of the shape of ``x``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, ...)``."""
        z, log_slope = self.map_with_slope(x)
        return z, sum_samples(log_slope)

    def settled(self) -> Elementwise:
        """Return a copy for scoring, which never changes."""
        return copy.deepcopy(self)

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable copy in float64."""
        module = copy.deepcopy(self).double().eval()

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_slope = module.map_with_slope(x)
            return z, log_slope.sum(1)

        return FrozenMap(forward, lambda z: module.inverse(z)[0])


def check_images(x: Tensor, channels: int) -> None:
    """Raise ``ValueError`` unless ``x`` has shape ``(N, channels, H, W)``."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"expected a tensor of shape (N, {channels}, H, W), got {tuple(x.shape)}")


def sum_samples(x: Tensor) -> Tensor:
    """Sum every axis but the first: ``(N, ...) -> (N,)``."""
    return torch.sum(x.flatten(1), dim=1)
