"""Emerging convolutions: two autoregressive convolutions of opposite orders (Hoogeboom et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, Shape, check_images
from snf_models.bijections.conv1x1 import ExactConv1x1
from snf_models.bijections.frozen import FrozenMap


class AutoregressiveConv(Bijection):
    """Invertible convolution of each pixel with its upper and left neighbours.

    It is inverted by substitution (Hoogeboom et al. 2019).

    z_ij = L x_ij + A x_{i-1,j-1} + B x_{i-1,j} + C x_{i,j-1}, with zeros outside the image and L lower triangular. In
    the order (row, column, channel) the matrix of the map is lower triangular, so the log-det is H·W·Σ_c log|L_cc|.

    The kernel starts as the identity plus normal noise of deviation 0.05/√C for C channels. The norms of the four noise
    matrices then sum to about 0.4, and the norm of the inverse is at most 1/(1 - 0.4). The published deviation, 1/(2C),
    is 0.5 for a single channel, and the inverse overflows.

    Cost: O(N·C²·H·W) in both directions. The inverse takes H + W - 1 steps, one for each anti-diagonal.

    Args:
        channels: The number of channels C.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        identity = torch.zeros(channels, channels, 2, 2)
        identity[:, :, 1, 1] = torch.eye(channels)
        self.weight = nn.Parameter(identity + 0.05 / channels**0.5 * torch.randn(identity.shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        Each pixel of ``x`` is mixed with its upper and left neighbours. The log-determinant log|det dz/dx| is in nats,
        ``(N,)``.
        """
        check_images(x, self.channels)
        return convolve_causally(self.masked_weight(), x), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x is solved by substitution, starting at the top left pixel. The log-determinant log|det dx/dz| is in nats,
        ``(N,)``.
        """
        check_images(z, self.channels)
        return substitute_back(self.masked_weight().double(), z.double()).to(z.dtype), -self.log_det(z)

    def log_abs_det(self) -> Tensor:
        """Return the log-determinant of the matrix that the layer applies to a single pixel's own channels.

        Each pixel adds this number to the log-determinant of the layer's Jacobian.

        It is log|det L| in nats, a float64 scalar. L is the triangular matrix that maps a pixel's own channels.
        """
        return self.weight[:, :, 1, 1].diagonal().double().abs().log().sum()

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-determinant of the layer's Jacobian for each image of a batch.

        It is log|det dz/dx| in nats, the same value for each image of ``x``, ``(N,)``.

        It is H·W·Σ_c log|L_cc|, with the triangular matrix L that maps a pixel's own channels.
        """
        return (x.shape[2] * x.shape[3] * self.log_abs_det()).to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian for any image of ``shape`` (C, H, W).

        It is log|det dz/dx| in nats, the same for all images.

        It is H·W·Σ_c log|L_cc|, with the triangular matrix L that maps a pixel's own channels.
        """
        return shape[1] * shape[2] * float(self.log_abs_det().detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable float64 copy of this layer for scoring and sampling.

        Scoring uses the map of the layer, and sampling its inverse.
        """
        weight = self.masked_weight().double()
        return FrozenMap(lambda x: (convolve_causally(weight, x), None), lambda z: substitute_back(weight, z))

    def masked_weight(self) -> Tensor:
        """Return the layer's 2x2 kernel, with the matrix for a pixel's own channels made lower triangular.

        The kernel is ``(C, C, 2, 2)``. The weights of the pixel itself are set to 0 above the diagonal.
        """
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1] = mask[:, :, 1, 1].tril()
        return self.weight * mask


class EmergingConv(Bijection):
    """Invertible layer made of a 1x1 convolution followed by two autoregressive convolutions.

    The autoregressive convolutions are over the upper left and the lower right neighbours (Hoogeboom et al. 2019).

    Each of the three is invertible. Together they have a receptive field of 3x3 pixels. The log-det is the sum over
    them, H·W·(log|det W| + Σ_c log|L_cc| + Σ_c log|L'_cc|). Costs and initial weights are those of the layers
    (:class:`~snf_models.bijections.conv1x1.ExactConv1x1`, :class:`AutoregressiveConv`).

    Args:
        channels: The number of channels C.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mixing = ExactConv1x1(channels)
        self.first = AutoregressiveConv(channels)
        self.second = AutoregressiveConv(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images after the layer's three convolutions, and each image's Jacobian log-determinant.

        The outputs are ``(N, C, H, W)``. The log-determinant log|det dz/dx| is in nats, ``(N,)``.
        """
        check_images(x, self.channels)
        z, mixing_log_det = self.mixing(x)
        z, first_log_det = self.first(z)
        z, second_log_det = self.second(_turn(z))
        return _turn(z), mixing_log_det + first_log_det + second_log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x is computed by the exact inverses of the three convolutions. The log-determinant log|det dx/dz| is in nats,
        ``(N,)``.
        """
        check_images(z, self.channels)
        x, second_log_det = self.second.inverse(_turn(z))
        x, first_log_det = self.first.inverse(_turn(x))
        x, mixing_log_det = self.mixing.inverse(x)
        return x, mixing_log_det + first_log_det + second_log_det

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian for any image of ``shape`` (C, H, W).

        It is log|det dz/dx| in nats, the sum over the three convolutions.
        """
        return sum(part.constant_log_det_at(shape) for part in (self.mixing, self.first, self.second))

    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable float64 copy of this layer for scoring and sampling.

        The copy combines the three convolutions of the layer.
        """
        mixing, first, second = (part.freeze(shape) for part in (self.mixing, self.first, self.second))

        def forward(x: Tensor) -> tuple[Tensor, None]:
            return _turn(second.forward(_turn(first.forward(mixing.forward(x)[0])[0]))[0]), None

        def inverse(z: Tensor) -> Tensor:
            return mixing.inverse(first.inverse(_turn(second.inverse(_turn(z), "exact")), "exact"), "exact")

        return FrozenMap(forward, inverse)


def convolve_causally(weight: Tensor, x: Tensor) -> Tensor:
    """Return images convolved so that each pixel depends only on itself and its upper and left neighbours.

    The images are ``(N, C, H, W)``, and the kernel covers 2x2 pixels.

    Neighbours outside the image are 0.
    """
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight)


def substitute_back(weight: Tensor, z: Tensor) -> Tensor:
    """Invert by substitution the convolution of each pixel with its upper and left neighbours.

    This function is the inverse of ``convolve_causally``.

    Returns the images whose 2x2 convolution is ``z``, solved along anti-diagonals.

    x_ij = L^-1 (z_ij - [A B C] [x_{i-1,j-1} x_{i-1,j} x_{i,j-1}]), so the anti-diagonal i + j = d depends on the two
    anti-diagonals before it.
    """
    here = weight[:, :, 1, 1]
    neighbours = torch.cat([weight[:, :, 0, 0], weight[:, :, 0, 1], weight[:, :, 1, 0]], dim=1)
    neighbours = torch.linalg.solve_triangular(here, neighbours, upper=False)
    own = torch.linalg.solve_triangular(here, z.flatten(2), upper=False).view_as(z)
    # Row i of a diagonal is the location (i, d - i). Values beyond the right edge are not used again.
    last = before = torch.zeros_like(z[..., 0])
    diagonals = []
    for diagonal in skew(own).unbind(-1):
        previous = torch.cat([_next_row(before), _next_row(last), last], dim=1)
        before, last = last, diagonal - neighbours @ previous
        diagonals.append(last)
    return unskew(torch.stack(diagonals, dim=-1), z.shape[3])


def skew(x: Tensor) -> Tensor:
    """Shift row i of each image to the right by i pixels, and widen the images accordingly.

    The gaps are 0, ``(N, C, H, W) -> (N, C, H, H + W - 1)``.

    Anti-diagonals of the image become columns.

    >>> skew(torch.tensor([[[[1, 2], [3, 4]]]])).tolist()
    [[[[1, 2, 0], [0, 3, 4]]]]
    """
    height, width = x.shape[2:]
    # Rows of length H + W, read as rows of length H + W - 1: each starts one place later than the row before.
    return F.pad(x, (0, height)).flatten(2)[..., :-height].reshape(*x.shape[:3], height + width - 1)


def unskew(x: Tensor, width: int) -> Tensor:
    """Undo ``skew``: shift row i of each image to the left by i pixels.

    ``(N, C, H, H + W - 1) -> (N, C, H, W)``.
    """
    height = x.shape[2]
    return F.pad(x.flatten(2), (0, height)).reshape(*x.shape[:3], height + width)[..., :width]


def _next_row(diagonal: Tensor) -> Tensor:
    return F.pad(diagonal, (1, 0))[..., :-1]


def _turn(x: Tensor) -> Tensor:
    return x.flip(2, 3)
