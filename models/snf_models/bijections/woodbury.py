"""Woodbury transformation: the identity plus low-rank mixing of channels and of locations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.frozen import FrozenMap


class WoodburyConv(Bijection):
    """Invertible linear layer that mixes the channels and the pixels of images by low-rank matrices.

    It is (I + U_c V_c) X (I + U_s V_s) on images X (Lu & Huang 2020).

    U_c V_c has rank r_c and mixes the channels of each location; U_s V_s has rank r_s and mixes the locations of each
    channel. By the matrix determinant lemma the log-det is H·W·log|det(I + V_c U_c)| + C·log|det(I + V_s U_s)|. By the
    Woodbury identity the inverse has the same form, (I + U V)^-1 = I - U (I + V U)^-1 V. All factors start as normal
    noise of deviation 0.01, so the map starts close to the identity. The memory-efficient variant of the paper, which
    separates rows and columns, is not used.

    Cost: O(N·C·H·W·(r_c + r_s)) in both directions, O(C·r_c² + H·W·r_s² + r_c³ + r_s³) for the log-det and for the
    factors of the inverse.

    Args:
        shape: Channels, height and width of the images.
        channel_rank: The rank r_c.
        spatial_rank: The rank r_s.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, shape: Shape, channel_rank: int, spatial_rank: int) -> None:
        super().__init__()
        self.shape = shape
        channels, locations = shape[0], shape[1] * shape[2]
        self.channel_left = nn.Parameter(0.01 * torch.randn(channels, channel_rank))
        self.channel_right = nn.Parameter(0.01 * torch.randn(channel_rank, channels))
        self.spatial_left = nn.Parameter(0.01 * torch.randn(locations, spatial_rank))
        self.spatial_right = nn.Parameter(0.01 * torch.randn(spatial_rank, locations))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        The channels and the pixels of ``x``, ``(N, C, H, W)``, are mixed. The log-determinant log|det dz/dx| is in
        nats, ``(N,)``.

        Raises:
            ValueError: ``x`` has another shape than the layer.
        """
        self._check(x)
        return _mix(self._factors(), x), self._log_det().to(x.dtype).expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        The exact x is computed by the Woodbury identity. The log-determinant log|det dx/dz| is in nats, ``(N,)``.
        """
        self._check(z)
        return _mix(_inverse_factors(self._factors()), z), -self._log_det().to(z.dtype).expand(z.shape[0])

    @torch.no_grad()
    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian, which is the same for all images.

        It is log|det dz/dx| in nats, computed from two small determinants.

        It is H·W·log|det(I + V_c U_c)| + C·log|det(I + V_s U_s)|.
        """
        return float(self._log_det())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable float64 copy of this layer for scoring.

        The low-rank factors of its inverse are computed once, for the copy.
        """
        factors = tuple(factor.double().clone() for factor in self._factors())
        inverse = _inverse_factors(factors)
        return FrozenMap(lambda x: (_mix(factors, x), None), lambda z: _mix(inverse, z), flat=True)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(f"expected images (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")

    def _factors(self) -> tuple[Tensor, ...]:
        return self.channel_left, self.channel_right, self.spatial_left, self.spatial_right

    def _log_det(self) -> Tensor:
        channel_left, channel_right, spatial_left, spatial_right = (factor.double() for factor in self._factors())
        channels, locations = self.shape[0], self.shape[1] * self.shape[2]
        channel_log_det: Tensor = torch.linalg.slogdet(_core(channel_left, channel_right)).logabsdet
        spatial_log_det: Tensor = torch.linalg.slogdet(_core(spatial_left, spatial_right)).logabsdet
        return locations * channel_log_det + channels * spatial_log_det


def _core(left: Tensor, right: Tensor) -> Tensor:
    """Return the small matrix I + V U of a low-rank transformation, ``(rank, rank)``."""
    return torch.eye(right.shape[0], dtype=left.dtype, device=left.device) + right @ left


def _mix(factors: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """Return the Woodbury transformation (I + U_c V_c) X (I + U_s V_s) of images ``x``, ``(N, C, H, W)``."""
    channel_left, channel_right, spatial_left, spatial_right = factors
    y = x.flatten(2)
    y = y + channel_left @ (channel_right @ y)
    return (y + (y @ spatial_left) @ spatial_right).view(x.shape)


def _inverse_factors(factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the low-rank factors of the inverse transformation: U and -(I + V U)⁻¹ V, for both sides."""
    channel_left, channel_right, spatial_left, spatial_right = factors
    channel_solved = torch.linalg.solve(_core(channel_left, channel_right), channel_right)
    spatial_solved = torch.linalg.solve(_core(spatial_left, spatial_right), spatial_right)
    return channel_left, -channel_solved, spatial_left, -spatial_solved
