"""Convolution exponential: the matrix exponential of a convolution, invertible for every kernel."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.convolution_matrix import Size, check_kernel, convolve, flip
from snf_models.bijections.frozen import FrozenMap
from snf_models.bijections.periodic import transfer
from snf_models.bijections.self_normalizing_gradient import mix_channels

NORM_BOUND = 0.9
"""Bound of the spectral norm of M, so that a few terms of the series suffice (Hoogeboom et al. 2020, 3.1)."""
TRAINING_TERMS = 6
EVALUATION_TERMS = 13
MAX_TERMS = 100
"""Enough for a norm of 30; beyond it the terms of exp(-M) cancel beyond the precision of float64."""


class ExponentialConv(Bijection):
    """Invertible layer that applies the matrix exponential of a convolution to images.

    The layer is exp(M) W (x + b) + c with a k x k convolution M and a 1x1 convolution W (Hoogeboom et al. 2020).

    M x = k * x. exp(M) x = Σ_n M^n x / n! has the inverse exp(-M), and log|det exp(M)| = trace M. The log-det of the
    layer is H·W·(Σ_c k_cc + log|det W|), with k_cc at the middle tap of the kernel. k is the learned kernel divided by
    max(1, σ/0.9), where σ estimates its spectral norm; each forward pass in training mode refines σ by a power
    iteration. b and c have the shape of an image. W mixes the channels and starts as a random orthogonal matrix; the
    kernel starts as normal noise of deviation 1/(C·kh·kw).

    The series has 6 terms in training mode, with a relative error of about 0.9^7/7!; the log-det is that of the full
    series. In evaluation mode and in the inverse it has 13 terms, or more for a kernel of larger norm
    (:func:`terms_needed`).

    Cost: O(terms·N·C²·kh·kw·H·W) in both directions, O(C³) for the log-det.

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
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        z = exp(M) W (x + b) + c for the convolution M and the channel matrix W. The log-determinant log|det dz/dx| is
        ``(N,)``.

        In training mode it also updates the estimate of the spectral norm of the kernel.
        """
        self._check(x)
        if self.training:
            self._iterate()
        kernel = self.bounded_kernel()
        terms = TRAINING_TERMS if self.training else terms_needed(kernel, self.shape[1:])
        mixed = mix_channels(self.mixing, x + self.before)
        z = apply_exponential(kernel, mixed, terms) + self.after
        return z, self._log_det(kernel).to(x.dtype).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        x = W⁻¹ exp(-M) (z - c) - b for the convolution M and the channel matrix W. The log-determinant log|det dx/dz|
        is ``(N,)``.

        It is computed in float64.
        """
        self._check(z)
        kernel = self.bounded_kernel().double()
        mixed = apply_exponential(-kernel, (z - self.after).double(), terms_needed(kernel, self.shape[1:]))
        x = torch.linalg.solve(self.mixing.double(), mixed.flatten(2)).view_as(mixed) - self.before
        return x.to(z.dtype), -self._log_det(kernel).to(z.dtype).expand(len(z))

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian, which is the same for all images.

        It is log|det dz/dx| = trace M + H·W·log|det W| in nats.
        """
        exact = copy.deepcopy(self).double()
        return float(exact._log_det(exact.bounded_kernel()).detach())

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenMap:
        """Return an immutable float64 copy of this layer for scoring and sampling.

        Scoring uses the map of the layer, and sampling its inverse.
        """
        exact = copy.deepcopy(self).double()  # the bound of the kernel is computed in float64, too
        kernel, mixing, before, after = exact.bounded_kernel(), exact.mixing, exact.before, exact.after
        unmixing, terms = torch.linalg.inv(mixing), terms_needed(kernel, self.shape[1:])
        return FrozenMap(
            lambda x: (apply_exponential(kernel, mix_channels(mixing, x + before), terms) + after, None),
            lambda z: mix_channels(unmixing, apply_exponential(-kernel, z - after, terms)) - before,
        )

    def bounded_kernel(self) -> Tensor:
        """Return the layer's convolution kernel, scaled so that its estimated spectral norm is at most 0.9.

        The kernel is ``(C, C, kh, kw)``.
        """
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

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(f"expected a tensor of shape (N, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")


def apply_exponential(kernel: Tensor, x: Tensor, terms: int) -> Tensor:
    """Return images transformed by the matrix exponential of a convolution, computed as a power series.

    Returns exp(M) x ≈ Σ M^n x / n!, n = 0 to ``terms``, where M is the convolution with ``kernel``.
    """
    total = term = x
    for n in range(1, terms + 1):
        term = convolve(kernel, term) / n
        total = total + term
    return total


def terms_needed(kernel: Tensor, image: Size) -> int:
    """Return how many power series terms are needed to compute a convolution's matrix exponential.

    For exp(M) = Σ M^n / n! of a convolution M the norm of the first omitted term is then at most 1e-11, unless that
    takes more than 100 terms. The result is from 13 to 100.

    On a torus that is larger by the padding, the convolution is block-diagonal in frequency and contains M, so
    ||M|| <= max_f ||k̂(f)||. The result does not depend on the samples. Cost: O(C³·H·W).

    Args:
        kernel: The kernel k, ``(C, C, kh, kw)``.
        image: Height and width of the images.
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
