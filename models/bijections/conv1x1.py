"""Invertible 1x1 convolutions: exact, by LU factors, and self-normalizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, SelfNormalizing, Shape, check_images
from models.bijections.self_normalizing_product import mix_channels, self_normalizing_product


class ExactConv1x1(ChannelAffine):
    """Invertible 1x1 convolution z = W x + b with the exact log-det H·W·log|det W| (Kingma & Dhariwal 2018, 3.2).

    W is a C x C matrix that mixes the channels of each location. It starts as a random orthogonal matrix, b as 0.

    Cost: O(N·C²·H·W) in both directions; O(C³) for the log-det and its gradient, at every training step.

    Args:
        channels: The number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        self.weight = nn.Parameter(orthogonal)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W x + b for images ``x``, ``(N, C, H, W)``, and the log-det H·W·log|det W| in nats, ``(N,)``."""
        check_images(x, self.channels)
        return mix_channels(self.weight, x) + self.bias.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return W⁻¹ (z - b) by an LU factorisation, and the log-det -H·W·log|det W| in nats, ``(N,)``."""
        check_images(z, self.channels)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)
        x: Tensor = torch.linalg.solve(self.weight, centred).view_as(z)
        return x, -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix W, ``(C, C)``, and the offset b, ``(C,)``, of the convolution z = W x + b."""
        return self.weight, self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| in nats, the log-determinant at a single pixel, in float64. Cost: O(C³)."""
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return log_abs_det


class SelfNormalizingConv1x1(ExactConv1x1, SelfNormalizing):
    """1x1 convolution z = W x + b that learns an approximate inverse R of W (Keller et al. 2021, eq. 10-12).

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
        self.inverse_weight = nn.Parameter(self.weight.detach().T.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W x + b and the log-det. In training the log-det is 0, with a gradient estimated by R."""
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_product(x, self.weight, self.inverse_weight)
        self.keep_reconstruction_error(error, y)
        return y + self.bias.view(1, -1, 1, 1), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return R (z - b), the result of the learned approximate inverse, ``(N, C, H, W)``."""
        check_images(z, self.channels)
        return mix_channels(self.inverse_weight, z - self.bias.view(1, -1, 1, 1))

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x at each pixel of images ``x``, ``(N, C, H, W)``, without the offset b."""
        return mix_channels(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z, the learned inverse matrix times the channels at each pixel, ``(N, C, H, W)``."""
        return mix_channels(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Replace the learned inverse R by the exact inverse W⁻¹. Cost: O(C³)."""
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        """Return the learned inverse z -> R (z - b) as the matrix R, ``(C, C)``, and the offset -R b, ``(C,)``."""
        return self.inverse_weight, -self.inverse_weight @ self.bias


class LUConv1x1(ChannelAffine):
    """1x1 convolution z = W x + b whose W = P L (U + diag(s)) is learned in LU factors. Log-det: H·W·Σ log|s|.

    L is lower triangular with ones on its diagonal, U strictly upper triangular (Kingma & Dhariwal 2018, 3.2). L, U and
    log|s| are learned. The permutation P and the signs of s are fixed; they come from the random orthogonal matrix that
    W starts as.

    Cost: O(C³ + N·C²·H·W) forward, O(N·C²·H·W) for the inverse, O(C) for the log-det.

    Args:
        channels: The number of channels C.
    """

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
        lower = self.factors.tril(-1) + torch.eye(self.channels).to(self.factors)
        return lower, self.factors.triu(1) + torch.diag(self.sign * self.factors.diagonal().exp())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return W x + b for images ``x``, ``(N, C, H, W)``, and the log-det H·W·Σ log|s| in nats, ``(N,)``."""
        check_images(x, self.channels)
        matrix, offset = self.affine()
        return mix_channels(matrix, x) + offset.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return W⁻¹ (z - b) by two triangular solves, and the log-det -H·W·Σ log|s| in nats, ``(N,)``."""
        check_images(z, self.channels)
        lower, upper = self._triangles()
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)[:, self.permutation.argsort()]
        x = torch.linalg.solve_triangular(lower, centred, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(z), -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the matrix W = P L (U + diag(s)), ``(C, C)``, and the offset b, ``(C,)``. Cost: O(C³)."""
        lower, upper = self._triangles()
        return (lower @ upper)[self.permutation], self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| = Σ log|s| in nats, the log-determinant at a single pixel. Cost: O(C)."""
        return self.factors.diagonal().double().sum()
