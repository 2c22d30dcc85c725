"""Invertible 1x1 convolutions: exact, by LU factors, and self-normalizing."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.base import ChannelAffine, check_images
from snf_models.bijections.matrix_inverse import MatrixInverse
from snf_models.bijections.self_normalizing_gradient import by_columns, mix_channels, self_normalizing_product

SMALLEST_VARIANCE = 1e-6
"""Smallest variance of a principal component, as a share of the largest, by which it is divided."""


class ExactConv1x1(ChannelAffine):
    """Invertible 1x1 convolution of the channels, with the exact log-determinant of its Jacobian.

    The layer is z = W x + b (Kingma & Dhariwal 2018, 3.2).

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
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        z = W x + b for images ``x``, ``(N, C, H, W)``. The log-determinant log|det dz/dx| is in nats, ``(N,)``.
        """
        check_images(x, self.channels)
        return mix_channels(self.weight, x) + self.bias.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x = W⁻¹ (z - b) for ``z``, ``(N, C, H, W)``. The log-determinant log|det dx/dz| is in nats, ``(N,)``.
        """
        check_images(z, self.channels)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)
        x: Tensor = torch.linalg.solve(self.weight, centred).view_as(z)
        return x, -self.log_det(z)

    @torch.no_grad()
    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        """Set the layer's weights and offset so that its output channels are uncorrelated over given images.

        Over all pixels of the images ``x``, the channels of W x + b get mean 0 and covariance I. If ``rotate`` is set,
        they keep the variances of the principal components.

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
        """Return the matrix W and the offset b of this layer's map ``W x + b``.

        The matrix W is ``(C, C)`` and the offset b ``(C,)``. They map the channels of each pixel.
        """
        return self.weight, self.bias

    def log_abs_det(self) -> Tensor:
        """Return the logarithm of the absolute determinant of the layer's weight matrix.

        It is log|det W| in nats for the C x C matrix W, a float64 scalar. Cost: O(C³).
        """
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return log_abs_det


class SelfNormalizingConv1x1(ExactConv1x1, MatrixInverse):
    """Invertible 1x1 convolution that learns its own inverse, so that training needs no determinants.

    The layer z = W x + b learns a matrix R ≈ W⁻¹ (Keller et al. 2021, eq. 10-12).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to W uses R^T in place
    of W^-T (:class:`~snf_models.bijections.self_normalizing_gradient.SelfNormalizingProduct`). The reconstruction error
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
        """Return the layer's outputs and each image's log-determinant, exact in evaluation and 0 in training.

        The outputs are z = W x + b, and the log-determinant is log|det dz/dx| of each image. In training the
        log-determinant is 0, with an estimate of its gradient.

        The estimate uses the learned inverse R in place of W⁻¹.
        """
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_product(x, self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y)
        return y + self.bias.view(1, -1, 1, 1), log_det

    def whiten(self, x: Tensor, *, rotate: bool = False) -> None:
        """Set weights that decorrelate the channels of given images, then recompute the learned inverse.

        The matrix W and the offset b are set from the images ``x`` as in :meth:`ExactConv1x1.whiten`, and the learned
        inverse R is set to W⁻¹.
        """
        super().whiten(x, rotate=rotate)
        self.refresh_inverse((self.channels, *x.shape[2:]))

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return the approximate inputs that give the outputs ``z``, computed by the layer's learned inverse.

        x ≈ R (z - b), ``(N, C, H, W)``, with the learned R ≈ W⁻¹ of this layer z = W x + b.
        """
        check_images(z, self.channels)
        return mix_channels(self.inverse_weight, z - self.bias.view(1, -1, 1, 1))

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return the images ``x`` with each pixel's channels multiplied by the weight matrix, without the offset.

        It is W x for the weight matrix W and images ``x``, ``(N, C, H, W)``.
        """
        return mix_channels(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return the images ``z`` with each pixel's channels multiplied by the learned inverse weight matrix.

        It is R z for the learned R ≈ W⁻¹ and images ``z``, ``(N, C, H, W)``.
        """
        return mix_channels(self.inverse_weight, z)

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix and the offset of the affine map that the layer learned as its inverse.

        They are R, ``(C, C)``, and -R b, ``(C,)``, so that x ≈ R (z - b) for this layer z = W x + b.
        """
        return self.inverse_weight, -self.inverse_weight @ self.bias


class LUConv1x1(ChannelAffine):
    """Invertible 1x1 convolution whose weight matrix is learned as triangular LU factors.

    The log-determinant log|det W| of the layer z = W x + b is therefore cheap.

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
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        z = W x + b for images ``x``, ``(N, C, H, W)``. The log-determinant log|det dz/dx| is in nats, ``(N,)``.
        """
        check_images(x, self.channels)
        matrix, offset = self.affine()
        return mix_channels(matrix, x) + offset.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x = W⁻¹ (z - b) by two triangular solves. The log-determinant log|det dx/dz| is in nats, ``(N,)``.
        """
        check_images(z, self.channels)
        lower, upper = self._triangles()
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)[:, self.permutation.argsort()]
        x = torch.linalg.solve_triangular(lower, centred, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(z), -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix W and the offset b of this layer's map ``W x + b``.

        The matrix W, ``(C, C)``, is multiplied out from its factors. The offset b is ``(C,)``.

        Cost: O(C³).
        """
        lower, upper = self._triangles()
        return (lower @ upper)[self.permutation], self.bias

    def log_abs_det(self) -> Tensor:
        """Return the logarithm of the absolute determinant of the layer's weight matrix.

        It is log|det W| in nats, a float64 scalar: the sum of the learned log|s|. Cost: O(C).
        """
        return self.factors.diagonal().double().sum()
