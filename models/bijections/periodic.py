"""Invertible k x k convolutions with periodic borders: block-diagonal in frequency."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bijections.base import Bijection, Shape, check_images
from models.bijections.conv_functional import Size, check_kernel, same_padding
from models.bijections.frozen import FrozenMap


class PeriodicConv(Bijection):
    """z = w * x + b on a torus; log-det Σ_f log|det ŵ(f)| with a C x C matrix ŵ(f) a frequency (Hoogeboom et al. 2019).

    w starts as the identity plus Xavier-normal noise of gain 0.01, as in :class:`.convolution.ExactConv`.

    Cost: O(N·C²·kh·kw·H·W) forwards; O(C³·H·W) for the log-det with its exact gradient; the same for the inverse, and
    O(N·C·H·W·(C + log H·W)) on top. Images must not be smaller than the kernel.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__()
        check_kernel(kernel)
        self.channels = channels
        noise = nn.init.xavier_normal_(torch.empty(channels, channels, *kernel), gain=0.01)
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty_like(noise)) + noise)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        self._check(x)
        return convolve_periodically(self.weight, x) + self._offset(), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by one C x C solve a frequency, in float64."""
        self._check(z)
        matrices = transfer(self.weight.double(), (z.shape[2], z.shape[3]))
        centred = (z - self._offset()).double()
        x = in_frequency(lambda spectrum: torch.linalg.solve(matrices, spectrum), centred)
        return x.to(z.dtype), -self.log_det(z)

    def log_abs_det(self, image: Size) -> Tensor:
        """Return Σ_f log|det ŵ(f)| over all frequencies of ``image``, float64. Cost: O(C³·H·W)."""
        log_dets = torch.linalg.slogdet(transfer(self.weight.double(), image)).logabsdet
        # Frequencies f and -f are conjugates, of which only one is kept, but for columns that are their own mirror.
        own_mirror = [2 * column % image[1] == 0 for column in range(log_dets.shape[1])]
        return torch.sum(log_dets * (2 - log_dets.new_tensor(own_mirror)))

    def log_det(self, x: Tensor) -> Tensor:
        """Return Σ_f log|det ŵ(f)| for every sample of ``x``, shape ``(N,)``."""
        return self.log_abs_det((x.shape[2], x.shape[3])).to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return Σ_f log|det ŵ(f)|."""
        return float(self.log_abs_det(shape[1:]).detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return the map in float64 with the inverse matrices of all frequencies."""
        weight, offset = self.weight.double().clone(), self._offset().double().clone()
        inverses = torch.linalg.inv(transfer(weight, shape[1:]))
        return FrozenMap(
            lambda x: (convolve_periodically(weight, x) + offset, None),
            lambda z: in_frequency(lambda spectrum: inverses @ spectrum, z - offset),
        )

    def _check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        height, width = self.weight.shape[2:]
        if x.shape[2] < height or x.shape[3] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {x.shape[2]}x{x.shape[3]}")

    def _offset(self) -> Tensor:
        return self.bias.view(1, -1, 1, 1)


def convolve_periodically(weight: Tensor, x: Tensor) -> Tensor:
    """Return w * x with ``x``, shape ``(N, C, H, W)``, continued periodically."""
    down, right = same_padding(weight)
    return F.conv2d(F.pad(x, (right, right, down, down), mode="circular"), weight)


def transfer(weight: Tensor, image: Size) -> Tensor:
    """Return ŵ(f), complex ``(H, W // 2 + 1, C, C)``, at the frequencies of real images. Cost: O(C²·H·W·log H·W)."""
    down, right = same_padding(weight)
    height, width = weight.shape[2:]
    # A convolution here is a correlation: its impulse response is the mirrored kernel around the origin.
    response = F.pad(weight.flip(2, 3), (0, image[1] - width, 0, image[0] - height)).roll((-down, -right), (2, 3))
    spectrum: Tensor = torch.fft.rfft2(response)
    return spectrum.permute(2, 3, 0, 1)


def in_frequency(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``function`` to the spectrum of ``x``, given as ``(H, W // 2 + 1, C, N)``, and return the image of it."""
    spectrum = function(torch.fft.rfft2(x).permute(2, 3, 1, 0))
    image: Tensor = torch.fft.irfft2(spectrum.permute(3, 2, 0, 1), s=x.shape[2:])
    return image
