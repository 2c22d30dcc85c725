"""Invertible 1x1 convolutions by their LU factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, check_images
from models.bijections.self_normalizing_product import mix_channels


class LUConv1x1(ChannelAffine):
    """z = W x + b at every location with W = P L (U + diag(s)), log-det H·W·Σ log|s| (Kingma & Dhariwal 2018, 3.2).

    L is lower triangular with ones on its diagonal, U strictly upper triangular. The permutation P and the signs of s
    stay as they are in the factors of the random orthogonal matrix that W starts as; L, U and log|s| are learned.

    Cost: O(C³ + C²·H·W) for a map, O(C²·H·W) for its inverse, O(C) for the log-determinant.
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
        """L below the diagonal, U above it, log|s| on it."""
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("permutation", permutation.argmax(1))
        self.register_buffer("sign", diagonal.sign())

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Return L and U + diag(s)."""
        lower = self.factors.tril(-1) + torch.eye(self.channels).to(self.factors)
        return lower, self.factors.triu(1) + torch.diag(self.sign * self.factors.diagonal().exp())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        matrix, offset = self.affine()
        return mix_channels(matrix, x) + offset.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by two triangular solves."""
        check_images(z, self.channels)
        lower, upper = self._triangles()
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)[:, self.permutation.argsort()]
        x = torch.linalg.solve_triangular(lower, centred, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x.view_as(z), -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return P L (U + diag(s)) and b. Cost: O(C³)."""
        lower, upper = self._triangles()
        return (lower @ upper)[self.permutation], self.bias

    def log_abs_det(self) -> Tensor:
        """Return Σ log|s| in float64. Cost: O(C)."""
        return self.factors.diagonal().double().sum()
