"""Invertible k x k convolutions with zero padding: exact, and self-normalizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.bijections.autograd import call
from models.bijections.base import Bijection, LogDetGradient, SelfNormalizing, Shape, check_images
from models.bijections.conv_functional import (
    FactorisedConvolution,
    Size,
    check_kernel,
    compose,
    convolve,
    correlate,
    flip,
    materialise,
    multiplicity,
    project,
)
from models.bijections.frozen import Inverse
from models.devices import constant


class ExactConv(Bijection):
    """Invertible k x k convolution z = w * x + b with zero padding and with an exactly computed log|det dz/dx|.

    Zero padding keeps the image size. T(w) is the D x D matrix of the convolution for images of D = C·H·W values. The
    log-det is log|det T(w)|. w starts as the identity plus Xavier-normal noise of gain 0.01 (Keller et al. 2021,
    published settings).

    Cost: O(N·C²·kh·kw·H·W) for the map. O(D³) for a log-det with gradient, at every training step; O(D·b²) without
    gradient, with the half-bandwidth b of T(w) (:class:`~models.bijections.conv_functional.FactorisedConvolution`).

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
        self.bias = nn.Parameter(torch.randn(channels) * 0.01 / (channels * kernel[0] * kernel[1]) ** 0.5)
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty_like(noise)) + noise)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = w * x + b for images ``x``, ``(N, C, H, W)``, and the exact log|det dz/dx| in nats, ``(N,)``."""
        check_images(x, self.channels)
        return convolve(self.weight, x) + self._offset(), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exact x with w * x + b = z, solved by LU in float64, and log|det dx/dz| in nats, ``(N,)``.

        Raises:
            torch.linalg.LinAlgError: T(w) is singular.
        """
        check_images(z, self.channels)
        x: Tensor = call(_Solve, self.weight, z - self._offset())
        return x, -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det dz/dx| of this layer in nats, an equal value for each image of the batch ``x``, ``(N,)``."""
        image = (x.shape[2], x.shape[3])
        if torch.is_grad_enabled() and self.weight.requires_grad:
            log_abs_det: Tensor = torch.linalg.slogdet(materialise(self.weight, image)).logabsdet
        else:
            log_abs_det = x.new_tensor(FactorisedConvolution(self.weight, image).log_abs_det)
        return log_abs_det.to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return log|det dz/dx| of this layer in nats for images of ``shape`` (C, H, W), in float64."""
        return FactorisedConvolution(self.weight, shape[1:]).log_abs_det

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return an immutable float64 copy of this layer, to score and sample images of ``shape`` (C, H, W).

        The LU factors for the inverse are computed at its first use.
        """
        return FrozenConvolution(self.weight.double().clone(), self._offset().double().clone(), shape[1:])

    def _offset(self) -> Tensor:
        return self.bias.view(1, -1, 1, 1)


class _Solve(torch.autograd.Function):
    """Solution x = T(w)^-1 z. With incoming gradient δ and q = T(w)^-T δ: dz = q and dw_i = -<B_i x, q>."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, z: Tensor) -> Tensor:
        ctx.factors = FactorisedConvolution(weight, (z.shape[2], z.shape[3]))
        x: Tensor = ctx.factors.solve(z)
        ctx.save_for_backward(x)
        ctx.kernel = (weight.shape[2], weight.shape[3])
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        grad_z = ctx.factors.solve(gradients[0], "transpose")
        return -correlate(x, grad_z, ctx.kernel), grad_z


class SelfNormalizingConv(ExactConv, SelfNormalizing):
    """k x k convolution z = w * x + b that learns a kernel r with r * (z - b) ≈ x (Keller et al. 2021, eq. 13-16).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to w is flip(r)·m with
    the multiplicity m of the taps (:class:`SelfNormalizingConvolution`). The inverse of a convolution is not a
    convolution, so this gradient is an estimate; it is exact right after :meth:`refresh_inverse`. The reconstruction
    error ||r * w * x - x||² of each sample is stored for the training objective. Evaluation mode is exact, as in
    :class:`ExactConv`.

    If ``gradient`` is "newton-schulz", the gradient of w uses the middle taps of 2r - r * w * r, a Newton-Schulz step
    towards the inverse, in place of r. This is not in the paper and costs O(C³·k⁴) a step.

    Cost of a training step: six convolutions of O(N·C²·kh·kw·H·W).

    Args:
        channels: The number of channels C.
        kernel: Height and width of w and r, both odd.
    """

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__(channels, kernel)
        self.inverse_weight = nn.Parameter(flip(self.weight.detach()).clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = w * x + b and each image's log|det dz/dx|, or, in training, 0 with an estimate of its gradient.

        The estimate uses the learned inverse kernel r in place of the exact inverse.
        """
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_convolution(x, self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y)
        return y + self._offset(), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return x ≈ r * (z - b), ``(N, C, H, W)``, with the kernel r that learns to undo this layer, w * x + b."""
        check_images(z, self.channels)
        return convolve(self.inverse_weight, z - self._offset())

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return w * x, the images ``x``, ``(N, C, H, W)``, convolved with the layer's kernel w, without offset b."""
        return convolve(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return r * z, the images ``z``, ``(N, C, H, W)``, convolved with the kernel r that learns to undo w."""
        return convolve(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Overwrite the learned inverse kernel with the one closest to the exact inverse on images of ``shape``.

        Cost: O(D²·b) for D values of an image and half-bandwidth b.
        """
        kernel = (self.weight.shape[2], self.weight.shape[3])
        self.inverse_weight.copy_(project(FactorisedConvolution(self.weight, shape[1:]).inverse_images(), kernel))

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return an immutable float64 copy for scoring, with the kernel that was learned as approximate inverse."""
        return replace(super().freeze(shape), learned_map=(self.inverse_weight.double().clone(),))


@dataclass(frozen=True)
class FrozenConvolution:
    """Immutable float64 convolution z = w * x + b of images of a fixed size, for scoring and sampling.

    Attributes:
        weight: The kernel w, ``(C, C, kh, kw)``.
        offset: The offset b, ``(1, C, 1, 1)``.
        image: Height and width of the images.
        learned_map: The kernels of the learned inverse, applied in this order, or None.
    """

    weight: Tensor
    offset: Tensor
    image: Size
    learned_map: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return w * x + b, ``(N, C, H, W)``, and None, because log|det dz/dx| is equal for all images."""
        return convolve(self.weight, x) + self.offset, None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return x with w * x + b = z: exactly, or by learned kernels if ``inverse`` is "learned" and there are any."""
        x = z - self.offset
        if inverse == "learned" and self.learned_map is not None:
            for kernel in self.learned_map:
                x = convolve(kernel, x)
            return x
        return self._factors.solve(x)

    @cached_property
    def _factors(self) -> FactorisedConvolution:
        # Only sampling needs the factors; scoring does not.
        return FactorisedConvolution(self.weight, self.image)


class SelfNormalizingConvolution(torch.autograd.Function):
    """Autograd function w * x that takes the gradient of log|det| from a learned inverse kernel (Keller et al. 2021).

    It is :class:`~models.bijections.self_normalizing_product.SelfNormalizingProduct` for the matrices of convolutions.
    m is the multiplicity of the taps, and x ⋆ z the gradient of <w * x, z> with respect to w. With incoming gradients δ
    of y, c_n of the log-det and v_n of the reconstruction error of sample n, e = r * y - x and δx = flip(w) * δ, the
    gradients are, up to sign,

        dw = ½ x ⋆ δ + ½ Σc m·flip(r) + 2 Σ v_n x ⋆ (flip(r) * e)
        dr = -½ y ⋆ δx - ½ Σc m·flip(w) + 2 Σ v_n y ⋆ e

    The gradient of x is δx: it is not halved, and the reconstruction error has no gradient with respect to x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the convolution y = w * x, a zero log-det, and ||r * y - x||², the error of the learned inverse r."""
        y = convolve(weight, x)
        error = convolve(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients with respect to images x, kernel w and learned inverse kernel r, and a None.

        No matrix is inverted. None stands for the argument ``gradient`` of :meth:`forward`.
        """
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        kernel = (weight.shape[2], weight.shape[3])
        grad_x = convolve(flip(weight), grad_y)
        # With padding that keeps the size m is symmetric, so the same m holds for both kernels.
        taps = constant(multiplicity, kernel, (x.shape[2], x.shape[3]), device=weight.device, dtype=weight.dtype)
        log_det_share = 0.5 * grad_log_det.sum() * taps
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        better = newton_schulz(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        grad_weight = correlate(x, 0.5 * grad_y + convolve(flip(inverse_weight), weighted_error), kernel)
        grad_weight += log_det_share * flip(better)
        grad_inverse = correlate(y, weighted_error - 0.5 * grad_x, kernel) - log_det_share * flip(weight)
        return grad_x, grad_weight, grad_inverse, None


def self_normalizing_convolution(
    x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y = w * x, 0 as log-det (only its gradient is used), and ||r * y - x||² for the learned inverse kernel r.

    Args:
        x: Images, ``(N, C, H, W)``.
        weight: The kernel w, ``(C, C, kh, kw)``.
        inverse_weight: The kernel r of the learned inverse, ``(C, C, kh, kw)``.
        gradient: The approximation of the inverse in the gradient of the log-det.

    Returns:
        w * x, a log-det of value 0, ``(N,)``, and the reconstruction error ||r * w * x - x||², ``(N,)``.
    """
    outputs: tuple[Tensor, Tensor, Tensor] = call(SelfNormalizingConvolution, x, weight, inverse_weight, gradient)
    return outputs


def newton_schulz(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """Return kernel r improved as an inverse of kernel w, by a Newton-Schulz step: the middle of 2r - r * w * r.

    Away from the border it turns an error E of r into an error of order E².
    """
    there_and_back = compose(weight, inverse_weight)
    return 2 * inverse_weight - compose(inverse_weight, there_and_back, crop=True)
