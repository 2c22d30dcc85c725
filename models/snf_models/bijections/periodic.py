"""Periodic convolutions: k x k convolutions with circular padding, inverted by Fourier transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, Shape, check_images
from snf_models.bijections.convolution_matrix import Size, check_kernel, same_padding
from snf_models.bijections.each_matrix import inverses, log_abs_dets, solutions
from snf_models.bijections.frozen import FrozenMap


class PeriodicConv(Bijection):
    """Invertible convolution that wraps around the image border.

    The layer is w * x + b. It is inverted by Fourier transform (Hoogeboom et al. 2019).

    ŵ(f) is the C x C matrix of the Fourier transform of w at frequency f. w starts as the identity plus Xavier-normal
    noise of gain 0.01, as in :class:`~snf_models.bijections.convolution.ExactConv`. Images must be at least as large as
    the kernel.

    Cost: O(N·C²·kh·kw·H·W) forward, O(C³·H·W) for the log-det and its gradient,
    O(C³·H·W + N·C·H·W·(C + log H·W)) for the inverse.

    Args:
        channels: The number of channels C.
        kernel: Height and width of w, both odd.
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
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        z = w * x + b, where w wraps around the image border. The log-determinant log|det dz/dx| is in nats, ``(N,)``.

        The log-det is Σ_f log|det ŵ(f)| over the frequencies f.
        """
        self._check(x)
        return convolve_periodically(self.weight, x) + self._offset(), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        A linear system is solved at each Fourier frequency. The log-determinant log|det dx/dz| is in nats, ``(N,)``.
        """
        self._check(z)
        matrices = transfer(self.weight.double(), (z.shape[2], z.shape[3]))
        centred = (z - self._offset()).double()
        x = in_frequency(lambda spectrum: solutions(matrices, spectrum), centred)
        return x.to(z.dtype), -self.log_det(z)

    def log_abs_det(self, image: Size) -> Tensor:
        """Return the log-determinant of the layer's Jacobian for an image of a given height and width.

        It is log|det dz/dx| in nats for the size (height, width), a float64 scalar.

        It is Σ_f log|det ŵ(f)| over the frequencies f. Cost: O(C³·H·W).
        """
        log_dets = log_abs_dets(transfer(self.weight.double(), image))
        # ŵ(-f) is the conjugate of ŵ(f), and only one of the two is stored, except in columns that contain both.
        columns = torch.arange(log_dets.shape[1], device=log_dets.device)
        return torch.sum(log_dets * torch.where(2 * columns % image[1] == 0, 1, 2))

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-determinant of the layer's Jacobian for each image of a batch.

        It is log|det dz/dx| in nats, the same value for each image of ``x``, ``(N,)``.
        """
        return self.log_abs_det((x.shape[2], x.shape[3])).to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian for any image of ``shape`` (C, H, W).

        It is log|det dz/dx| in nats, the same for all images.
        """
        return float(self.log_abs_det(shape[1:]).detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable float64 copy of this layer for scoring and sampling images of ``shape``.

        The copy has the inverse at each Fourier frequency precomputed.
        """
        weight, offset = self.weight.double().clone(), self._offset().double().clone()
        unmixing = inverses(transfer(weight, shape[1:]))
        return FrozenMap(
            lambda x: (convolve_periodically(weight, x) + offset, None),
            lambda z: in_frequency(lambda spectrum: unmixing @ spectrum, z - offset),
        )

    def _check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        height, width = self.weight.shape[2:]
        if x.shape[2] < height or x.shape[3] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {x.shape[2]}x{x.shape[3]}")

    def _offset(self) -> Tensor:
        return self.bias.view(1, -1, 1, 1)


def convolve_periodically(weight: Tensor, x: Tensor) -> Tensor:
    """Return images convolved with a kernel that wraps around the image border.

    The images are ``(N, C, H, W)``, and the kernel is ``(C, C, kh, kw)``.
    """
    down, right = same_padding(weight)
    return F.conv2d(F.pad(x, (right, right, down, down), mode="circular"), weight)


def transfer(weight: Tensor, image: Size) -> Tensor:
    """Return the transfer function of a convolution, the Fourier transform of its kernel.

    For H x W images it has a C x C matrix for each frequency, ``(H, W//2 + 1, C, C)``.

    They are the frequencies of real images of the size H x W. Cost: O(C²·H·W·log H·W).

    Args:
        weight: The kernel w, ``(C, C, kh, kw)``.
        image: Height H and width W of the images.
    """
    down, right = same_padding(weight)
    height, width = weight.shape[2:]
    # torch computes a correlation: its impulse response is the mirrored kernel around the origin.
    response = F.pad(weight.flip(2, 3), (0, image[1] - width, 0, image[0] - height)).roll((-down, -right), (2, 3))
    spectrum: Tensor = torch.fft.rfft2(response)
    return spectrum.permute(2, 3, 0, 1)


def in_frequency(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to the Fourier transforms of images and transform the result back.

    It is a 2-D FFT, then ``function``, then the inverse FFT. The result is ``(N, C, H, W)``.

    Args:
        function: A function of spectra, complex ``(H, W // 2 + 1, C, N)``.
        x: Images, ``(N, C, H, W)``.
    """
    if not len(x):
        return x  # which the library of Fourier transforms refuses
    spectrum = function(torch.fft.rfft2(x).permute(2, 3, 1, 0))
    image: Tensor = torch.fft.irfft2(spectrum.permute(3, 2, 0, 1), s=x.shape[2:])
    return image
