"""Invertible 1x1 convolutions: exact, by LU factors, and self-normalizing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, SelfNormalizing, Shape, check_images
from models.bijections.self_normalizing_product import by_columns, mix_channels, self_normalizing_product

SMALLEST_VARIANCE = 1e-6
"""Smallest variance of a principal component, as a share of the largest, by which it is divided."""


class ExactConv1x1(ChannelAffine):
    """Invertible 1x1 convolution z = W x + b of the channels, with exact log|det W| (Kingma & Dhariwal 2018, 3.2).

    W is a C x C matrix that mixes the channels of each pixel, so the log-det of an image is H·W·log|det W|. It starts
    as a random orthogonal matrix, b as 0.

    Cost: O(N·C²·H·W) in both directions; O(C³) for the log-det and its gradient, at every training step.

    Args:
        channels: The number of channels C.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        self.weight = nn.Parameter(orthogonal)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = W x + b for images ``x``, ``(N, C, H, W)``, and log|det dz/dx| of each image in nats, ``(N,)``."""
        check_images(x, self.channels)
        return mix_channels(self.weight, x) + self.bias.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = W⁻¹ (z - b) for ``z``, ``(N, C, H, W)``, and log|det dx/dz| of each image in nats, ``(N,)``."""
        check_images(z, self.channels)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)
        x: Tensor = torch.linalg.solve(self.weight, centred).view_as(z)
        return x, -self.log_det(z)

    @torch.no_grad()
    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        """Set W and b so that the channels of W x + b have mean 0 and covariance I over all pixels of images ``x``.

        The outputs are the principal components of the channels, the one of greatest variance first. A component that
        hardly varies in these images keeps its scale. Computed in float64. Cost: O(C³ + N·C²·H·W).

        Args:
            x: Images, ``(N, C, H, W)``.
            rotate: Whether to leave the components their variances, so that W is orthogonal.
        """
        check_images(x, self.channels)
        pixels = x.double().transpose(0, 1).flatten(1)
        variances, components = torch.linalg.eigh(torch.cov(pixels, correction=0).view(self.channels, -1))
        scaled = (variances > SMALLEST_VARIANCE * variances[-1]) & (not rotate)
        matrix = (components / torch.where(scaled, variances, 1.0).sqrt()).T.flip(0)
        self.weight.copy_(matrix)
        self.bias.copy_(-matrix @ pixels.mean(1))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix W, ``(C, C)``, and offset b, ``(C,)``, that map the channels of each pixel: z = W x + b."""
        return self.weight, self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| in nats, a float64 scalar, for the C x C matrix W of the layer. Cost: O(C³)."""
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return log_abs_det


class SelfNormalizingConv1x1(ExactConv1x1, SelfNormalizing):
    """1x1 convolution z = W x + b that learns R ≈ W⁻¹, to train without determinants (Keller et al. 2021, eq. 10-12).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to W uses R^T in place
    of W^-T (:class:`~models.bijections.self_normalizing_product.SelfNormalizingProduct`). The reconstruction error
    ||R W x - x||² of each sample is stored for the training objective. Evaluation mode is exact, as in
    :class:`ExactConv1x1`. R starts as the exact inverse.

    Cost of a training step: six products of O(N·C²·H·W), no term in C³.

    Args:
        channels: The number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.inverse_weight = nn.Parameter(by_columns(self.weight.detach().T))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = W x + b and each image's log|det dz/dx|, or, in training, 0 with an estimate of its gradient.

        The estimate uses the learned inverse R in place of W⁻¹.
        """
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_product(x, self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y)
        return y + self.bias.view(1, -1, 1, 1), log_det

    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        """Set W and b to give the principal components of the channels of images ``x``, and R to W⁻¹."""
        super().whiten(x, rotate=rotate)
        self.refresh_inverse((self.channels, *x.shape[2:]))

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return x ≈ R (z - b), ``(N, C, H, W)``, with the learned R ≈ W⁻¹ of this layer z = W x + b."""
        check_images(z, self.channels)
        return mix_channels(self.inverse_weight, z - self.bias.view(1, -1, 1, 1))

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x, the matrix W times the channels of each pixel of ``x``, ``(N, C, H, W)``, without offset b."""
        return mix_channels(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z, the learned R ≈ W⁻¹ times the channels of each pixel of ``z``, ``(N, C, H, W)``."""
        return mix_channels(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Overwrite the learned matrix R ≈ W⁻¹ with the exact inverse of the weight matrix W. Cost: O(C³)."""
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        """Return R, ``(C, C)``, and -R b, ``(C,)``: the learned inverse x ≈ R (z - b) of this layer z = W x + b."""
        return self.inverse_weight, -self.inverse_weight @ self.bias


class LUConv1x1(ChannelAffine):
    """1x1 convolution z = W x + b whose matrix W is learned as triangular factors, so that log|det W| is cheap.

    W = P L (U + diag(s)), and the log-det of an image is H·W·Σ log|s|. L is lower triangular with ones on its diagonal,
    U strictly upper triangular (Kingma & Dhariwal 2018, 3.2). L, U and log|s| are learned. The permutation P and the
    signs of s are fixed; they come from the random orthogonal matrix that W starts as.

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
        """Return the triangular factors L and U + diag(s) of W, each ``(C, C)``."""
        identity = torch.eye(self.channels, dtype=self.factors.dtype, device=self.factors.device)
        lower = self.factors.tril(-1) + identity
        return lower, self.factors.triu(1) + torch.diag(self.sign * self.factors.diagonal().exp())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = W x + b for images ``x``, ``(N, C, H, W)``, and log|det dz/dx| of each image in nats, ``(N,)``."""
        check_images(x, self.channels)
        matrix, offset = self.affine()
        return mix_channels(matrix, x) + offset.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = W⁻¹ (z - b) by two triangular solves, and log|det dx/dz| of each image in nats, ``(N,)``."""
        check_images(z, self.channels)
        lower, upper = self._triangles()
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)[:, self.permutation.argsort()]
        x = torch.linalg.solve_triangular(lower, centred, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(z), -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix W, ``(C, C)``, multiplied out from its factors, and the offset b, ``(C,)``, of z = W x + b.

        Cost: O(C³).
        """
        lower, upper = self._triangles()
        return (lower @ upper)[self.permutation], self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| in nats, a float64 scalar, as the sum of the learned log-diagonal of W. Cost: O(C)."""
        return self.factors.diagonal().double().sum()
