"""Emerging convolutions: two autoregressive convolutions of opposite orders that see all around them together."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bijections.base import Bijection, Shape, check_images
from models.bijections.conv1x1 import ExactConv1x1
from models.bijections.frozen import FrozenMap


class AutoregressiveConv(Bijection):
    """A 2x2 convolution that looks up and left only; log-det H·W·Σ log|L_cc| (Hoogeboom et al. 2019, 3.1).

    z_ij = L x_ij + A x_{i-1,j-1} + B x_{i-1,j} + C x_{i,j-1}, zero outside the image, L lower triangular: in the order
    (row, column, channel) the whole matrix is. It starts as the identity plus normal noise of deviation 0.05/√C: the
    norms of the four noisy matrices sum to about 0.4 at every number of channels C, so the inverse is bounded by
    1/(1 - 0.4). (The published deviation, 1/(2C), gives a single channel noise of 0.5, whose inverse overflows.)

    Cost: O(N·C²·H·W) both ways; the inverse in H + W - 1 steps, one an anti-diagonal.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        identity = torch.zeros(channels, channels, 2, 2)
        identity[:, :, 1, 1] = torch.eye(channels)
        self.weight = nn.Parameter(identity + 0.05 / channels**0.5 * torch.randn(identity.shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        return look_up_left(self.masked_weight(), x), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by back-substitution in float64."""
        check_images(z, self.channels)
        return substitute_back(self.masked_weight().double(), z.double()).to(z.dtype), -self.log_det(z)

    def log_abs_det(self) -> Tensor:
        """Return Σ log|L_cc|, float64, the log-det of one location. Cost: O(C)."""
        return self.weight[:, :, 1, 1].diagonal().double().abs().log().sum()

    def log_det(self, x: Tensor) -> Tensor:
        """Return H·W·Σ log|L_cc| for every sample of ``x``, shape ``(N,)``."""
        return (x.shape[2] * x.shape[3] * self.log_abs_det()).to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return H·W·Σ log|L_cc|."""
        return shape[1] * shape[2] * float(self.log_abs_det().detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return the map in float64."""
        weight = self.masked_weight().double()
        return FrozenMap(lambda x: (look_up_left(weight, x), None), lambda z: substitute_back(weight, z))

    def masked_weight(self) -> Tensor:
        """Return the kernel, its last tap made lower triangular."""
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1] = mask[:, :, 1, 1].tril()
        return self.weight * mask


class EmergingConv(Bijection):
    """A 1x1 convolution, an autoregressive one, and another in the opposite order (Hoogeboom et al. 2019, 3.1).

    Together they see a 3x3 neighbourhood. log-det H·W·(log|det W| + Σ log|L_cc| + Σ log|L'_cc|), the sum of the parts;
    costs and start are theirs too (:class:`AutoregressiveConv`, :class:`~models.bijections.conv1x1.ExactConv1x1`).
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mixing = ExactConv1x1(channels)
        self.first = AutoregressiveConv(channels)
        self.second = AutoregressiveConv(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        z, mixing_log_det = self.mixing(x)
        z, first_log_det = self.first(z)
        z, second_log_det = self.second(_turn(z))
        return _turn(z), mixing_log_det + first_log_det + second_log_det

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`, the parts in reverse."""
        check_images(z, self.channels)
        x, second_log_det = self.second.inverse(_turn(z))
        x, first_log_det = self.first.inverse(_turn(x))
        x, mixing_log_det = self.mixing.inverse(x)
        return x, mixing_log_det + first_log_det + second_log_det

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the sum of the parts."""
        return sum(part.constant_log_det_at(shape) for part in (self.mixing, self.first, self.second))

    def freeze(self, shape: Shape) -> FrozenMap:
        """Return the map in float64, made of the frozen parts."""
        mixing, first, second = (part.freeze(shape) for part in (self.mixing, self.first, self.second))

        def forward(x: Tensor) -> tuple[Tensor, None]:
            return _turn(second.forward(_turn(first.forward(mixing.forward(x)[0])[0]))[0]), None

        def inverse(z: Tensor) -> Tensor:
            return mixing.inverse(first.inverse(_turn(second.inverse(_turn(z), "exact")), "exact"), "exact")

        return FrozenMap(forward, inverse)


def look_up_left(weight: Tensor, x: Tensor) -> Tensor:
    """Convolve ``x``, shape ``(N, C, H, W)``, so that tap (1, 1) of the 2x2 kernel lies on the location itself."""
    return F.conv2d(F.pad(x, (1, 0, 1, 0)), weight)


def substitute_back(weight: Tensor, z: Tensor) -> Tensor:
    """Solve :func:`look_up_left` for x, all samples and a whole anti-diagonal at a time.

    x_ij = L^-1 (z_ij - [A B C] [x_{i-1,j-1} x_{i-1,j} x_{i,j-1}]): a diagonal i + j = d needs the two before it.
    """
    here = weight[:, :, 1, 1]
    neighbours = torch.cat([weight[:, :, 0, 0], weight[:, :, 0, 1], weight[:, :, 1, 0]], dim=1)
    neighbours = torch.linalg.solve_triangular(here, neighbours, upper=False)
    own = torch.linalg.solve_triangular(here, z.flatten(2), upper=False).view_as(z)
    # Row i of a diagonal is the location (i, d - i). What runs over the right edge never comes back, and is dropped.
    last = before = torch.zeros_like(z[..., 0])
    diagonals = []
    for diagonal in skew(own).unbind(-1):
        seen = torch.cat([_next_row(before), _next_row(last), last], dim=1)
        before, last = last, diagonal - neighbours @ seen
        diagonals.append(last)
    return unskew(torch.stack(diagonals, dim=-1), z.shape[3])


def skew(x: Tensor) -> Tensor:
    """Shift row i by i to the right: anti-diagonals become columns, ``(N, C, H, W) -> (N, C, H, H + W - 1)``.

    >>> skew(torch.tensor([[[[1, 2], [3, 4]]]])).tolist()
    [[[[1, 2, 0], [0, 3, 4]]]]
    """
    height, width = x.shape[2:]
    # Rows of H + W read again as rows of H + W - 1: each starts one later than the row before.
    return F.pad(x, (0, height)).flatten(2)[..., :-height].reshape(*x.shape[:3], height + width - 1)


def unskew(x: Tensor, width: int) -> Tensor:
    """Undo :func:`skew` for images of ``width``."""
    height = x.shape[2]
    return F.pad(x.flatten(2), (0, height)).reshape(*x.shape[:3], height + width)[..., :width]


def _next_row(diagonal: Tensor) -> Tensor:
    return F.pad(diagonal, (1, 0))[..., :-1]


def _turn(x: Tensor) -> Tensor:
    return x.flip(2, 3)
