"""Linear layers over a whole image: dense matrices, and the identity plus low-rank mixing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.base import (
    ConstantLogDet,
    LinearLayer,
    Shape,
    call,
    check_shape,
    first_derivatives,
    vectors_of,
)
from snf_models.bijections.frozen import FrozenAffine, FrozenMap
from snf_models.bijections.matrices import Matrices, MatrixInverse, by_columns


class ExactDense(LinearLayer):
    """Fully connected layer z = W x + b on D = C·H·W values, with the exact log-det log|det W|.

    W starts as the identity and b from N(0, 1/D) (Keller et al. 2021, published code).

    Cost: O(N·D²) in both directions; O(D³) for the log-det and its gradient, at every training step.

    Args:
        dimensions: The number of values D of an image.
    """

    maps = Matrices(flat=True)

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.weight = nn.Parameter(torch.eye(dimensions))
        self.bias = nn.Parameter(torch.randn(dimensions) * dimensions**-0.5)

    def check(self, x: Tensor) -> None:
        vectors_of(x, self.dimensions)

    def offset(self, x: Tensor) -> Tensor:
        return self.bias.view(x.shape[1:])

    def log_abs_det(self, shape: Shape) -> Tensor:
        # A gradient needs no more than the precision of the layer, and float64 takes several times as long.
        is_learning = self.training and torch.is_grad_enabled()
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight if is_learning else self.weight.double()).logabsdet
        return log_abs_det

    def solve(self, z: Tensor) -> Tensor:
        return self.inverse(z)[0]

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # The factors, which take nearly all of the time, give both.
        factors, pivots = torch.linalg.lu_factor(self.weight.double())
        centred = (vectors_of(z, self.dimensions) - self.bias).double()
        x: Tensor = torch.linalg.lu_solve(factors, pivots, centred.T).T
        log_det = -factors.diagonal().abs().log().sum()
        return x.to(z.dtype).reshape(z.shape), log_det.to(z.dtype).expand(z.shape[0])

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        return FrozenAffine((self.weight.double().clone(), self.bias.double().clone()), flat=True)


class SelfNormalizingDense(MatrixInverse, ExactDense):
    """Fully connected layer z = W x + b that learns a matrix R ≈ W⁻¹ (Keller et al. 2021, 4.1).

    Training mode computes no determinant, as in :class:`~snf_models.bijections.channels.SelfNormalizingConv1x1`.
    Evaluation mode is exact. W and R start as the identity.

    Cost of a training step: six products of O(N·D²), no term in D³.

    Args:
        dimensions: The number of values D of an image.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.inverse_weight = nn.Parameter(by_columns(torch.eye(dimensions)))

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        exact = super().freeze(shape)
        learned = self.inverse_weight.double().clone()
        return replace(exact, learned_map=(learned, -learned @ exact.forward_map[1]))


class RelativeGradientDense(ExactDense):
    """Fully connected layer W x + b trained by relative gradients, which need no W⁻¹ (Gresele et al. 2020).

    Training mode computes no determinant: the log-det has value 0, and the backward pass replaces the gradients of W
    and b by relative gradients (:class:`RelativeProduct`). Evaluation mode is exact. W starts as a random orthogonal
    matrix, b as 0.

    Cost of a training step: four products of O(N·D²), no term in D³.

    Args:
        dimensions: The number of values D of an image.
    """

    omits_log_det: ClassVar[bool] = True

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return super().forward(x)
        outputs: tuple[Tensor, Tensor] = call(RelativeProduct, vectors_of(x, self.dimensions), self.weight, self.bias)
        z, log_det = outputs
        return z.view(x.shape), log_det


class RelativeProduct(torch.autograd.Function):
    """W x + b with relative gradients of W and b (Gresele et al. 2020, sec. 4).

    The relative gradient is the gradient with respect to a change of the output, z -> z + A z + a, which changes W to
    W + A W and b to b + A b + a. With incoming gradients δ of z and c_n of the log-det of sample n, the gradients of A
    and a are δ z^T + Σc I and Σδ: the log-det of (I + A) W needs no inverse. As changes of W and b they are

        dW = δ z^T W + Σc W
        db = δ z^T b + Σδ + Σc b

    The published code omits the term Σc b. The derivation contains it, and without it the step is not a descent
    direction everywhere. The gradient of the input is the ordinary W^T δ.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.addmm(bias, x, weight.T)
        ctx.save_for_backward(z, weight, bias)
        return z, x.new_zeros(x.shape[0])

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_z, grad_log_det = gradients
        z, weight, bias = ctx.saved_tensors
        share = grad_log_det.sum()
        grad_weight = (grad_z.T @ (z @ weight)).addcmul_(share, weight)
        grad_bias = grad_z.T @ (z @ bias) + grad_z.sum(0) + share * bias
        return grad_z @ weight, grad_weight, grad_bias


class WoodburyConv(ConstantLogDet):
    """Linear layer (I + U_c V_c) X (I + U_s V_s) that mixes channels and pixels by low rank (Lu & Huang 2020).

    U_c V_c has rank r_c and mixes the channels of each location; U_s V_s has rank r_s and mixes the locations of each
    channel. By the matrix determinant lemma the log-det is H·W·log|det(I + V_c U_c)| + C·log|det(I + V_s U_s)|. By the
    Woodbury identity the inverse has the same form, (I + U V)^-1 = I - U (I + V U)^-1 V. All factors start as normal
    noise of deviation 0.01.

    Args:
        shape: Channels, height and width of the images.
        channel_rank: The rank r_c.
        spatial_rank: The rank r_s.
    """

    def __init__(self, shape: Shape, channel_rank: int, spatial_rank: int) -> None:
        super().__init__()
        self.shape = shape
        self.channel_rank, self.spatial_rank = channel_rank, spatial_rank
        channels, locations = shape[0], shape[1] * shape[2]
        self.channel_left = nn.Parameter(0.01 * torch.randn(channels, channel_rank))
        self.channel_right = nn.Parameter(0.01 * torch.randn(channel_rank, channels))
        self.spatial_left = nn.Parameter(0.01 * torch.randn(locations, spatial_rank))
        self.spatial_right = nn.Parameter(0.01 * torch.randn(spatial_rank, locations))

    def check(self, x: Tensor) -> None:
        check_shape(x, self.shape)

    def transform(self, x: Tensor) -> Tensor:
        return _mix(self._factors(), x)

    def solve(self, z: Tensor) -> Tensor:
        return _mix(_inverse_factors(self._factors()), z)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        factors = tuple(factor.double().clone() for factor in self._factors())
        inverse = _inverse_factors(factors)
        return FrozenMap(lambda x: (_mix(factors, x), None), lambda z: _mix(inverse, z), flat=True)

    def _factors(self) -> tuple[Tensor, ...]:
        return self.channel_left, self.channel_right, self.spatial_left, self.spatial_right

    def log_abs_det(self, shape: Shape) -> Tensor:
        channel_left, channel_right, spatial_left, spatial_right = (factor.double() for factor in self._factors())
        channels, locations = shape[0], shape[1] * shape[2]
        channel_log_det: Tensor = torch.linalg.slogdet(_core(channel_left, channel_right)).logabsdet
        spatial_log_det: Tensor = torch.linalg.slogdet(_core(spatial_left, spatial_right)).logabsdet
        return locations * channel_log_det + channels * spatial_log_det


def _core(left: Tensor, right: Tensor) -> Tensor:
    """Return I + V U, ``(rank, rank)``."""
    return torch.eye(right.shape[0], dtype=left.dtype, device=left.device) + right @ left


def _mix(factors: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Return (I + U_c V_c) X (I + U_s V_s) for images X, ``(N, C, H, W)``."""
    channel_left, channel_right, spatial_left, spatial_right = factors
    y = x.flatten(2)
    y = y + channel_left @ (channel_right @ y)
    return (y + (y @ spatial_left) @ spatial_right).view(x.shape)


def _inverse_factors(factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return U and -(I + V U)⁻¹ V, for both sides."""
    channel_left, channel_right, spatial_left, spatial_right = factors
    channel_solved = torch.linalg.solve(_core(channel_left, channel_right), channel_right)
    spatial_solved = torch.linalg.solve(_core(spatial_left, spatial_right), spatial_right)
    return channel_left, -channel_solved, spatial_left, -spatial_solved
