"""Invertible 1x1 convolutions: exact, by LU factors, and self-normalizing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, SelfNormalizing, Shape, check_images
from models.bijections.self_normalizing_product import mix_channels, self_normalizing_product


class ExactConv1x1(ChannelAffine):
    """z = W x + b at every location, log-det H·W·log|det W| with its exact gradient (Kingma & Dhariwal 2018, 3.2).

    Cost: O(C²·H·W) both ways and O(C³) for the log-determinant, at every training step too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        self.weight = nn.Parameter(orthogonal)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        return mix_channels(self.weight, x) + self.bias.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by one LU solve, O(C³ + C²·H·W)."""
        check_images(z, self.channels)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)
        x: Tensor = torch.linalg.solve(self.weight, centred).view_as(z)
        return x, -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return W and b."""
        return self.weight, self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| in float64. Cost: O(C³)."""
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return log_abs_det


class SelfNormalizingConv1x1(ExactConv1x1, SelfNormalizing):
    """A 1x1 convolution that learns its inverse R beside its weights W (Keller et al. 2021, eq. 10-12).

    Evaluation mode is exact, as in :class:`ExactConv1x1`. In training mode no determinant is computed: the returned
    log-det is 0 and its gradient with respect to W is H·W·R^T (:func:`self_normalizing_product`). The reconstruction
    error of each sample waits for the objective, which takes it with :meth:`pop_reconstruction_error`.

    Cost of a training step: six products of O(N·C²·H·W), nothing cubic in C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.inverse_weight = nn.Parameter(self.weight.detach().T.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the learned gradient."""
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_product(x, self.weight, self.inverse_weight)
        self.keep_reconstruction_error(error, y)
        return y + self.bias.view(1, -1, 1, 1), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return R (z - b)."""
        check_images(z, self.channels)
        return mix_channels(self.inverse_weight, z - self.bias.view(1, -1, 1, 1))

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x."""
        return mix_channels(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z."""
        return mix_channels(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set R = W^-1. Cost: O(C³)."""
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        """Return R and -R b."""
        return self.inverse_weight, -self.inverse_weight @ self.bias


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
