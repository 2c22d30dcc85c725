"""Layers that scale or mix the channels of each pixel: ActNorm, 1x1 convolutions, and the squeeze."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, ChannelAffine, LinearLayer, Shape, check_images
from snf_models.bijections.frozen import FrozenAffine, Inverse
from snf_models.bijections.matrices import Matrices, MatrixInverse, by_columns, mix_channels
from snf_models.errors import UninitializedModel


class ActNorm(ChannelAffine):
    """Activation normalisation z = (x - t)·exp(-l), with a learned shift t and log-scale l of each channel.

    The log-det is -H·W·Σ_c l_c (Kingma & Dhariwal 2018, 3.1). :meth:`initialize` sets t and l from a batch before the
    first use. The flag ``initialized`` is a buffer and saved with the weights, so a loaded layer is not initialised
    again.

    Args:
        channels: The number of channels C.
    """

    cheap_inverse: ClassVar[bool] = True

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set shift and scale so that each channel of a batch ``(N, C, H, W)`` gets mean 0 and deviation 1.

        A channel that is constant in the batch (deviation of at most 1e-6) keeps the scale 1.
        """
        check_images(x, self.channels)
        std, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
        # The scale of a channel that is constant in this batch is unknown: leave it at 1.
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        self.shift.copy_(mean)
        self.log_scale.copy_(std.log())
        self.initialized.fill_(True)

    def check(self, x: Tensor) -> None:
        """Raise ``ValueError`` for another shape, and ``UninitializedModel`` before :meth:`initialize`."""
        check_images(x, self.channels)
        # The flag is read until it is set: every further read would make the program wait for a GPU.
        self._ready = self._ready or bool(self.initialized)
        if not self._ready:
            raise UninitializedModel(
                "ActNorm is not initialised: call initialize with a batch, or load trained weights"
            )

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*arguments)

    def transform(self, x: Tensor) -> Tensor:
        return (x - self.shift.view(1, -1, 1, 1)) * torch.exp(-self.log_scale).view(1, -1, 1, 1)

    def solve(self, z: Tensor) -> Tensor:
        return z * torch.exp(self.log_scale).view(1, -1, 1, 1) + self.shift.view(1, -1, 1, 1)

    def freeze(self, shape: Shape) -> FrozenAffine:
        if not self.initialized:
            raise UninitializedModel("ActNorm is not initialised: initialise or load the flow before it is frozen")
        return super().freeze(shape)

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = torch.exp(-self.log_scale)
        return torch.diag(scale), -self.shift * scale

    def log_abs_det(self, shape: Shape) -> Tensor:
        return shape[1] * shape[2] * -self.log_scale.double().sum()


SMALLEST_VARIANCE = 1e-6
"""Smallest variance of a principal component, as a share of the largest, by which it is divided."""


class ExactConv1x1(LinearLayer, ChannelAffine):
    """Invertible 1x1 convolution z = W x + b with the exact log-det H·W·log|det W| (Kingma & Dhariwal 2018, 3.2).

    W starts as a random orthogonal matrix, b as 0.

    Cost: O(N·C²·H·W) in both directions; O(C³) for the log-det and its gradient, at every training step.

    Args:
        channels: The number of channels C.
    """

    cheap_inverse: ClassVar[bool] = True
    maps = Matrices()

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        self.weight = nn.Parameter(orthogonal)
        self.bias = nn.Parameter(torch.zeros(channels))

    def solve(self, z: Tensor) -> Tensor:
        x: Tensor = torch.linalg.solve(self.weight, (z - self.offset(z)).flatten(2))
        return x.view_as(z)

    @torch.no_grad()
    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        """Set W and b so that the channels of W x + b get mean 0 and covariance I over images ``(N, C, H, W)``.

        The outputs are the principal components of the channels, the one of greatest variance first. A component that
        hardly varies in these images keeps its scale. If ``rotate`` is set, all keep their variances, so that W is
        orthogonal.
        """
        check_images(x, self.channels)
        pixels = x.double().transpose(0, 1).flatten(1)
        variances, components = torch.linalg.eigh(torch.cov(pixels, correction=0).view(self.channels, -1))
        scaled = (variances > SMALLEST_VARIANCE * variances[-1]) & (not rotate)
        matrix = (components / torch.where(scaled, variances, 1.0).sqrt()).T.flip(0)
        self.weight.copy_(matrix)
        self.bias.copy_(-matrix @ pixels.mean(1))

    def affine(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def log_abs_det(self, shape: Shape) -> Tensor:
        of_pixel: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return shape[1] * shape[2] * of_pixel


class SelfNormalizingConv1x1(MatrixInverse, ExactConv1x1):
    """Invertible 1x1 convolution z = W x + b that learns a matrix R ≈ W⁻¹ (Keller et al. 2021, eq. 10-12).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to W uses R^T in place
    of W^-T (:class:`~snf_models.bijections.base.SelfNormalizingProduct`). The reconstruction error ||R W x - x||²
    of each sample is stored for the training objective. Evaluation mode is exact. R starts as the exact inverse.

    Cost of a training step: six products of O(N·C²·H·W), no term in C³.

    Args:
        channels: The number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.inverse_weight = nn.Parameter(by_columns(self.weight.detach().T))

    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        super().whiten(x, rotate=rotate)
        self.refresh_inverse((self.channels, *x.shape[2:]))

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        return self.inverse_weight, -self.inverse_weight @ self.bias


class LUConv1x1(LinearLayer, ChannelAffine):
    """Invertible 1x1 convolution z = W x + b with W = P L (U + diag(s)) (Kingma & Dhariwal 2018, 3.2).

    The log-det of an image is H·W·Σ log|s|. L is lower triangular with ones on its diagonal, U strictly upper
    triangular. L, U and log|s| are learned. The permutation P and the signs of s are fixed; they come from the random
    orthogonal matrix that W starts as.

    Cost: O(C³ + N·C²·H·W) forward, O(N·C²·H·W) for the inverse, O(C) for the log-det.

    Args:
        channels: The number of channels C.
    """

    cheap_inverse: ClassVar[bool] = True

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        permutation, lower, upper = torch.linalg.lu(orthogonal)
        diagonal = upper.diagonal()
        self.factors = nn.Parameter(lower.tril(-1) + upper.triu(1) + torch.diag(diagonal.abs().log()))
        """L below the diagonal, U above it, log|s| on the diagonal."""
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("permutation", permutation.argmax(1))
        self.register_buffer("sign", diagonal.sign())

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Return L and U + diag(s), each ``(C, C)``."""
        identity = torch.eye(self.channels, dtype=self.factors.dtype, device=self.factors.device)
        lower = self.factors.tril(-1) + identity
        return lower, self.factors.triu(1) + torch.diag(self.sign * self.factors.diagonal().exp())

    def apply_weight(self, x: Tensor) -> Tensor:
        return mix_channels(self.affine()[0], x)

    def solve(self, z: Tensor) -> Tensor:
        lower, upper = self._triangles()
        centred = (z - self.offset(z)).flatten(2)[:, self.permutation.argsort()]
        x: Tensor = torch.linalg.solve_triangular(lower, centred, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        lower, upper = self._triangles()
        return (lower @ upper)[self.permutation], self.bias

    def log_abs_det(self, shape: Shape) -> Tensor:
        return shape[1] * shape[2] * self.factors.diagonal().double().sum()


class Squeeze(Bijection):
    """Moves each block of 2x2 pixels into channels, ``(N, C, H, W) -> (N, 4C, H/2, W/2)`` (Dinh et al. 2017, 3.6).

    Channel c of a pixel becomes channel 4·c + 2·(row mod 2) + (column mod 2). The log-det is 0.
    """

    constant_log_det: ClassVar[bool] = True
    cheap_inverse: ClassVar[bool] = True

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = shape
        return 4 * channels, height // 2, width // 2

    def constant_log_det_at(self, shape: Shape) -> float:
        return 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"expected images (N, C, H, W) with even sides, got {tuple(x.shape)}")
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.dim() != 4 or z.shape[1] % 4:
            raise ValueError(f"expected images (N, 4C, H, W), got {tuple(z.shape)}")
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])

    def freeze(self, shape: Shape) -> FrozenSqueeze:
        return FrozenSqueeze()


@dataclass(frozen=True)
class FrozenSqueeze:
    """Frozen form of :class:`Squeeze`."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return F.pixel_unshuffle(x, 2), None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        return F.pixel_shuffle(z, 2)
