"""Base classes of bijections, and the contract that every bijection keeps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.bijections.frozen import FrozenAffine, FrozenMap, FrozenStep

LogDetGradient = Literal["paper", "newton-schulz"]
"""Approximation of W^-1 in the gradient of log|det W|: the learned inverse R ("paper"), or 2R - R W R, a Newton-Schulz
step from R ("newton-schulz")."""

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Bijection(nn.Module):
    """Base class of invertible maps z = f(x) that return the log-determinant of their Jacobian.

    A conformance suite checks these promises for every bijection:

    - ``forward(x)`` returns ``(z, log_det)`` and ``inverse(z)`` returns ``(x, log_det)``. ``log_det`` is the log-det of
      the direction that was called, one value for each sample, shape ``(N,)``, in nats.
    - Neither direction changes its input or draws noise, and samples of a batch do not influence each other.
    - Both directions are exact in evaluation mode. In training mode a bijection may leave out the value of the log-det
      (``omits_log_det``) and estimate its gradient.
    """

    constant_log_det: ClassVar[bool] = False
    """Whether the log-det is the same for all inputs of a given shape."""
    learned_inverse: ClassVar[bool] = False
    """Whether the bijection learns an approximate inverse, :meth:`approximate_inverse`, beside the map."""
    omits_log_det: ClassVar[bool] = False
    """Whether training mode returns log-det 0 with the right gradient, which avoids the cost of a determinant."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` to z and return the log-det.

        Args:
            x: Inputs, ``(N, C, H, W)``.

        Returns:
            z and log|det dz/dx| in nats, ``(N,)``.
        """

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``z`` back to x and return the log-det of the inverse.

        Args:
            z: Outputs of :meth:`forward`.

        Returns:
            x and log|det dx/dz| in nats, ``(N,)``.
        """

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of outputs for inputs of ``shape``, without the batch axis."""
        return shape

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the data-independent log-det for inputs of ``shape``, in nats, or 0 if it depends on the data."""
        if self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must define constant_log_det_at")
        return 0.0

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable float64 copy for scoring, without the data-independent log-det.

        Args:
            shape: Channels, height and width of the inputs.

        Raises:
            TypeError: The log-det depends on the data and the class does not define how it is frozen.
        """
        if not self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must define freeze")
        module = copy.deepcopy(self).double().eval()
        learned = module.approximate_inverse if self.learned_inverse else None
        return FrozenMap(lambda x: (module.forward(x)[0], None), lambda z: module.inverse(z)[0], learned)

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Map ``z`` back to x by the learned inverse, or by the exact inverse where none is learned."""
        return self.inverse(z)[0]


class ChannelAffine(Bijection):
    """Base class of affine maps of the channels, the same at every location: z[:, :, i, j] = A x[:, :, i, j] + b.

    The composition of two such maps is another one, so freezing folds neighbours into one.
    """

    constant_log_det: ClassVar[bool] = True

    @abstractmethod
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix A, ``(C, C)``, and the offset b, ``(C,)``."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return log|det A|, the log-det of a single location, as a scalar in nats."""

    def learned_affine(self) -> tuple[Tensor, Tensor] | None:
        """Return matrix and offset of the learned inverse, or None if the layer learns none."""
        return None

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return H·W·log|det A|, the log-det of images of ``shape``, in nats."""
        return shape[1] * shape[2] * float(self.log_abs_det().detach().double())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return the affine map and its inverse in float64, for scoring and sampling. Cost: O(C³)."""
        matrix, offset = (part.double().clone() for part in self.affine())
        inverse = torch.linalg.inv(matrix)
        learned = self.learned_affine()
        return FrozenAffine(
            (matrix, offset),
            (inverse, -inverse @ offset),
            None if learned is None else (learned[0].double().clone(), learned[1].double().clone()),
        )

    def log_det(self, x: Tensor) -> Tensor:
        """Return H·W·log|det A| for each sample of ``x``, ``(N,)`` in nats. Cost: that of :meth:`log_abs_det`."""
        locations = x.shape[2] * x.shape[3]
        return (locations * self.log_abs_det()).to(x.dtype).expand(x.shape[0])


class SelfNormalizing(Bijection):
    """Base class of linear layers z = W x + b that learn an approximate inverse R of W (Keller et al. 2021).

    The forward pass in training mode stores the reconstruction error ||R W x - x||² of each sample, and the training
    objective collects it with :meth:`pop_reconstruction_error`. If ``symmetric`` is set, the error is
    ½ ||R W x - x||² + ½ ||W R y - y||² at y = W x, without a gradient through y.
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
        """Return the product W x of the weight with inputs ``x``, without the offset b."""

    @abstractmethod
    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return the product R z of the learned inverse with outputs ``z``, without the offset b."""

    @abstractmethod
    def refresh_inverse(self, shape: Shape) -> None:
        """Set the learned inverse R to W^-1, or to its best approximation in the form of R, for inputs of ``shape``."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstruction R W x of ``x``, which is ``x`` itself if R is the exact inverse of W."""
        return self.apply_inverse_weight(self.apply_weight(x))

    def keep_reconstruction_error(self, error: Tensor, y: Tensor) -> None:
        """Store the reconstruction error of a training batch for the objective.

        Args:
            error: ||R W x - x||² of each sample, ``(N,)``.
            y: W x, used if ``symmetric`` is set.
        """
        if self.symmetric:
            data = y.detach()
            back = self.apply_weight(self.apply_inverse_weight(data)) - data
            error = 0.5 * (error + sum_samples(back.square()))
        self._reconstruction_error = error

    def pop_reconstruction_error(self) -> Tensor:
        """Return the reconstruction error of the last forward pass in training mode, ``(N,)``, and forget it.

        Raises:
            RuntimeError: No forward pass in training mode has run since the last call.
        """
        error, self._reconstruction_error = self._reconstruction_error, None
        if error is None:
            raise RuntimeError("expected a forward pass in training mode before the reconstruction error is taken")
        return error


class Elementwise(Bijection):
    """Base class of bijections that map each value by itself; the log-det is the sum of the log slopes log|dz/dx|."""

    @abstractmethod
    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log slope log|dz/dx| of each value, both of the shape of ``x``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, ``(N, ...)``, to z and return the sum of the log slopes of each sample, ``(N,)`` in nats."""
        z, log_slope = self.map_with_slope(x)
        return z, sum_samples(log_slope)

    def settled(self) -> Elementwise:
        """Return an immutable copy for scoring."""
        return copy.deepcopy(self)

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable float64 copy for scoring."""
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
    """Return the sum over all axes but the first, ``(N, ...) -> (N,)``."""
    return torch.sum(x.flatten(1), dim=1)
