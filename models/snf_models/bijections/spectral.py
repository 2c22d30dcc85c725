"""Convolutions that are computed or bounded by Fourier transforms: periodic ones, and convolution exponentials."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, LinearLayer, Shape, check_images, check_shape
from snf_models.bijections.convolution_matrix import Size, check_kernel, convolve, flip, same_padding
from snf_models.bijections.frozen import FrozenMap
from snf_models.bijections.matrices import inverses, log_abs_dets, mix_channels, solutions


class PeriodicConv(LinearLayer):
    """Invertible convolution w * x + b that wraps around the image border (Hoogeboom et al. 2019).

    It is inverted by Fourier transform: ŵ(f) is the C x C matrix of w at frequency f. w starts as the identity plus
    Xavier-normal noise of gain 0.01. Images must be at least as large as the kernel.

    Cost: O(N·C²·kh·kw·H·W) forward, O(C³·H·W) for the log-det and its gradient,
    O(C³·H·W + N·C·H·W·(C + log H·W)) for the inverse.

    Args:
        channels: The number of channels C.
        kernel: Height and width of w, both odd.
    """

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__()
        check_kernel(kernel)
        self.channels = channels
        noise = nn.init.xavier_normal_(torch.empty(channels, channels, *kernel), gain=0.01)
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty_like(noise)) + noise)
        self.bias = nn.Parameter(torch.zeros(channels))

    def apply_weight(self, x: Tensor) -> Tensor:
        return convolve_periodically(self.weight, x)

    def solve(self, z: Tensor) -> Tensor:
        matrices = transfer(self.weight.double(), (z.shape[2], z.shape[3]))
        centred = (z - self.offset(z)).double()
        return in_frequency(lambda spectrum: solutions(matrices, spectrum), centred).to(z.dtype)

    def log_abs_det(self, shape: Shape) -> Tensor:
        """Return Σ_f log|det ŵ(f)| in nats. Cost: O(C³·H·W)."""
        log_dets = log_abs_dets(transfer(self.weight.double(), shape[1:]))
        # ŵ(-f) is the conjugate of ŵ(f), and only one of the two is stored, except in columns that contain both.
        columns = torch.arange(log_dets.shape[1], device=log_dets.device)
        return torch.sum(log_dets * torch.where(2 * columns % shape[2] == 0, 1, 2))

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        weight, offset = self.weight.double().clone(), self.bias.view(1, -1, 1, 1).double().clone()
        unmixing = inverses(transfer(weight, shape[1:]))
        return FrozenMap(
            lambda x: (convolve_periodically(weight, x) + offset, None),
            lambda z: in_frequency(lambda spectrum: unmixing @ spectrum, z - offset),
        )

    def check(self, x: Tensor) -> None:
        check_images(x, self.channels)
        height, width = self.weight.shape[2:]
        if x.shape[2] < height or x.shape[3] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {x.shape[2]}x{x.shape[3]}")


def convolve_periodically(weight: Tensor, x: Tensor) -> Tensor:
    down, right = same_padding(weight)
    return F.conv2d(F.pad(x, (right, right, down, down), mode="circular"), weight)


def transfer(weight: Tensor, image: Size) -> Tensor:
    """Return the C x C matrix ŵ(f) for each frequency of real H x W images, ``(H, W//2 + 1, C, C)``."""
    down, right = same_padding(weight)
    height, width = weight.shape[2:]
    # torch computes a correlation: its impulse response is the mirrored kernel around the origin.
    response = F.pad(weight.flip(2, 3), (0, image[1] - width, 0, image[0] - height)).roll((-down, -right), (2, 3))
    spectrum: Tensor = torch.fft.rfft2(response)
    return spectrum.permute(2, 3, 0, 1)


def in_frequency(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``function`` to spectra of images, complex ``(H, W // 2 + 1, C, N)``, and transform back."""
    if not len(x):
        return x  # which the library of Fourier transforms refuses
    spectrum = function(torch.fft.rfft2(x).permute(2, 3, 1, 0))
    image: Tensor = torch.fft.irfft2(spectrum.permute(3, 2, 0, 1), s=x.shape[2:])
    return image


NORM_BOUND = 0.9
"""Bound of the spectral norm of M, so that a few terms of the series suffice (Hoogeboom et al. 2020, 3.1)."""
TRAINING_TERMS = 6
EVALUATION_TERMS = 13
MAX_TERMS = 100  # enough for a norm of 30; beyond it the terms of exp(-M) cancel beyond the precision of float64


class ExponentialConv(Bijection):
    """Invertible layer exp(M) W (x + b) + c with a k x k convolution M and a 1x1 convolution W (Hoogeboom et al. 2020).

    exp(M) x = Σ_n M^n x / n! has the inverse exp(-M), and log|det exp(M)| = trace M. The log-det of the layer is
    H·W·(Σ_c k_cc + log|det W|), with k_cc at the middle tap of the kernel. k is the learned kernel divided by
    max(1, σ/0.9), where σ estimates its spectral norm; each forward pass in training mode refines σ by a power
    iteration. b and c have the shape of an image. W starts as a random orthogonal matrix, the kernel as normal noise of
    deviation 1/(C·kh·kw).

    The series has 6 terms in training mode, with a relative error of about 0.9^7/7!; the log-det is that of the full
    series. In evaluation mode and in the inverse it has 13 terms, or more for a kernel of larger norm.

    Args:
        shape: Channels, height and width of the images.
        kernel: Height and width of k, both odd.
    """

    constant_log_det: ClassVar[bool] = True
    left: Tensor
    right: Tensor

    def __init__(self, shape: Shape, kernel: Size = (3, 3)) -> None:
        super().__init__()
        check_kernel(kernel)
        self.shape = shape
        channels = shape[0]
        self.before = nn.Parameter(torch.zeros(shape))
        self.mixing = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.weight = nn.Parameter(torch.randn(channels, channels, *kernel) / (channels * kernel[0] * kernel[1]))
        self.after = nn.Parameter(torch.zeros(shape))
        self.register_buffer("left", _unit(torch.randn(1, *shape)))
        self.register_buffer("right", _unit(torch.randn(1, *shape)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and its log-det; in training mode update the estimate of the spectral norm, too."""
        check_shape(x, self.shape)
        if self.training:
            self._iterate()
        kernel = self.bounded_kernel()
        terms = TRAINING_TERMS if self.training else terms_needed(kernel, self.shape[1:])
        mixed = mix_channels(self.mixing, x + self.before)
        z = apply_exponential(kernel, mixed, terms) + self.after
        return z, self._log_det(kernel).to(x.dtype).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_shape(z, self.shape)
        kernel = self.bounded_kernel().double()
        mixed = apply_exponential(-kernel, (z - self.after).double(), terms_needed(kernel, self.shape[1:]))
        x = torch.linalg.solve(self.mixing.double(), mixed.flatten(2)).view_as(mixed) - self.before
        return x.to(z.dtype), -self._log_det(kernel).to(z.dtype).expand(len(z))

    def constant_log_det_at(self, shape: Shape) -> float:
        exact = copy.deepcopy(self).double()
        return float(exact._log_det(exact.bounded_kernel()).detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        exact = copy.deepcopy(self).double()  # the bound of the kernel is computed in float64, too
        kernel, mixing, before, after = exact.bounded_kernel(), exact.mixing, exact.before, exact.after
        unmixing, terms = torch.linalg.inv(mixing), terms_needed(kernel, self.shape[1:])
        return FrozenMap(
            lambda x: (apply_exponential(kernel, mix_channels(mixing, x + before), terms) + after, None),
            lambda z: mix_channels(unmixing, apply_exponential(-kernel, z - after, terms)) - before,
        )

    def bounded_kernel(self) -> Tensor:
        """Return the kernel, ``(C, C, kh, kw)``, with an estimated spectral norm of at most 0.9."""
        # Copies: the next forward pass may change the buffers before the backward pass of this one.
        norm = torch.sum(self.left.clone() * convolve(self.weight, self.right.clone()))
        return self.weight / torch.clamp(norm / NORM_BOUND, min=1)

    def _log_det(self, kernel: Tensor) -> Tensor:
        middle = kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2].double()
        of_mixing: Tensor = torch.linalg.slogdet(self.mixing.double()).logabsdet
        return self.shape[1] * self.shape[2] * (middle.diagonal().sum() + of_mixing)

    @torch.no_grad()
    def _iterate(self) -> None:
        self.left.copy_(_unit(convolve(self.weight, self.right)))
        self.right.copy_(_unit(convolve(flip(self.weight), self.left)))


def apply_exponential(kernel: Tensor, x: Tensor, terms: int) -> Tensor:
    """Return exp(M) x ≈ Σ M^n x / n!, n = 0 to ``terms``, for the convolution M with ``kernel``."""
    total = term = x
    for n in range(1, terms + 1):
        term = convolve(kernel, term) / n
        total = total + term
    return total


def terms_needed(kernel: Tensor, image: Size) -> int:
    """Return how many terms of exp(M), 13 to 100, leave an omitted one of norm 1e-11 at most.

    On a torus that is larger by the padding, the convolution is block-diagonal in frequency and contains M, so
    ||M|| <= max_f ||k̂(f)||. The result does not depend on the samples. Cost: O(C³·H·W).
    """
    torus = image[0] + kernel.shape[2] - 1, image[1] + kernel.shape[3] - 1
    # A kernel that has diverged gives nan anyway; the norm must not fail on it.
    finite = torch.nan_to_num(kernel.detach().double(), nan=0.0, posinf=0.0, neginf=0.0)
    norm = float(torch.linalg.matrix_norm(transfer(finite, torus), ord=2).max())
    terms = EVALUATION_TERMS
    # In logarithms: powers of the norm of a diverged kernel overflow.
    while (terms + 1) * math.log(norm + 1e-30) - math.lgamma(terms + 2) > math.log(1e-11) and terms < MAX_TERMS:
        terms += 1
    return terms


def _unit(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return x / norm.clamp(min=1e-12)
