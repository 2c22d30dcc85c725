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
    """Base class of invertible maps z = f(x), which return the log-determinant of their Jacobian with the result.

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
        """Map inputs ``x`` to z = f(x) and return z with the log-determinant of the Jacobian, log|det dz/dx|.

        Args:
            x: Inputs, ``(N, C, H, W)``.

        Returns:
            z and log|det dz/dx| in nats, ``(N,)``.
        """

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map outputs ``z`` back to x = f⁻¹(z) and return x with the log-determinant log|det dx/dz|.

        Args:
            z: Outputs of :meth:`forward`.

        Returns:
            x and log|det dx/dz| in nats, ``(N,)``.
        """

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape (C, H, W) of the output images for input images of the given ``shape``."""
        return shape

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-det in nats for images of ``shape`` if it is independent of the data, else 0."""
        if self.constant_log_det:
            raise TypeError(f"{type(self).__name__} must define constant_log_det_at")
        return 0.0

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable float64 copy for scoring. The copy does not compute data-independent log-dets.

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
        """Map ``z`` back to x by the learned approximate inverse, or by the exact inverse if none is learned."""
        return self.inverse(z)[0]


class ChannelAffine(Bijection):
    """Base class of maps z = A x + b of the C channels, with the same A and b at every pixel location.

    The composition of two such maps is another one, so freezing folds neighbours into one.
    """

    constant_log_det: ClassVar[bool] = True

    @abstractmethod
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix A, ``(C, C)``, and the offset b, ``(C,)``, of the map z = A x + b of the channels."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return log|det A|, the log-determinant in nats at a single pixel location, as a scalar."""

    def learned_affine(self) -> tuple[Tensor, Tensor] | None:
        """Return matrix and offset of the learned approximate inverse, or None if the layer learns none."""
        return None

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return H·W·log|det A|, the log-determinant in nats for images of the given ``shape``."""
        return shape[1] * shape[2] * float(self.log_abs_det().detach().double())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return an immutable float64 copy for scoring, with the exact inverse matrix A⁻¹. Cost: O(C³)."""
        matrix, offset = (part.double().clone() for part in self.affine())
        inverse = torch.linalg.inv(matrix)
        learned = self.learned_affine()
        return FrozenAffine(
            (matrix, offset),
            (inverse, -inverse @ offset),
            None if learned is None else (learned[0].double().clone(), learned[1].double().clone()),
        )

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-det H·W·log|det A| in nats, repeated for each image of the batch ``x``, ``(N,)``."""
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
        """Return W x, the product of the weight matrix and the inputs, without the offset b."""

    @abstractmethod
    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z, the product of the learned inverse R ≈ W⁻¹ and ``z``. The offset b is not subtracted."""

    @abstractmethod
    def refresh_inverse(self, shape: Shape) -> None:
        """Set the learned inverse R to W⁻¹, or to its best approximation, for inputs of the given ``shape``."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return R W x, the reconstruction of ``x`` by the learned inverse R. It equals ``x`` if R = W⁻¹."""
        return self.apply_inverse_weight(self.apply_weight(x))

    def keep_reconstruction_error(self, error: Tensor, y: Tensor) -> None:
        """Store the reconstruction errors of a training batch until the training objective reads them.

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
        """Return and clear the reconstruction errors ||R W x - x||² of the last training batch, ``(N,)``.

        Raises:
            RuntimeError: No forward pass in training mode has run since the last call.
        """
        error, self._reconstruction_error = self._reconstruction_error, None
        if error is None:
            raise RuntimeError("expected a forward pass in training mode before the reconstruction error is taken")
        return error


class Elementwise(Bijection):
    """Base class of bijections that map each value by itself. The log-det is Σ log|dz/dx| over the values."""

    @abstractmethod
    def map_with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the elementwise log-derivative log|dz/dx|, both in the shape of ``x``."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log-det of each sample, Σ log|dz/dx| in nats, ``(N,)``, for inputs ``(N, ...)``."""
        z, log_slope = self.map_with_slope(x)
        return z, sum_samples(log_slope)

    def settled(self) -> Elementwise:
        """Return an independent copy for scoring, which later training does not change."""
        return copy.deepcopy(self)

    def freeze(self, shape: Shape) -> FrozenStep:
        """Return an immutable float64 copy for scoring, as a step of a frozen flow."""
        module = copy.deepcopy(self).double().eval()

        def forward(x: Tensor) -> tuple[Tensor, Tensor]:
            z, log_slope = module.map_with_slope(x)
            return z, log_slope.sum(1)

        return FrozenMap(forward, lambda z: module.inverse(z)[0])


def check_images(x: Tensor, channels: int) -> None:
    """Check the shape of a batch of images. Raises ``ValueError`` unless it is ``(N, channels, H, W)``."""
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"expected a tensor of shape (N, {channels}, H, W), got {tuple(x.shape)}")


def sum_samples(x: Tensor) -> Tensor:
    """Return the sum of the values of each sample: over all axes but the first, ``(N, ...) -> (N,)``."""
    return torch.sum(x.flatten(1), dim=1)
