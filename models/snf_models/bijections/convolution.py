"""Invertible k x k convolutions with zero padding: exact, and self-normalizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.autograd_calls import call, first_derivatives
from snf_models.bijections.base import Bijection, LogDetGradient, SelfNormalizing, Shape, check_images
from snf_models.bijections.convolution_matrix import (
    ON_CPU,
    FactorisedConvolution,
    Size,
    check_kernel,
    compose,
    convolve,
    correlate,
    flip,
    materialise,
    multiplicity,
)
from snf_models.bijections.frozen import Inverse
from snf_models.bijections.nearest_inverse import LogDet, nearest_inverse
from snf_models.devices import constant


class ExactConv(Bijection):
    """Invertible k x k convolution with zero padding and the exact log-determinant of its Jacobian.

    The layer is z = w * x + b, and log|det dz/dx| is computed exactly.

    Zero padding keeps the image size. T(w) is the D x D matrix of the convolution for images of D = C·H·W values. The
    log-det is log|det T(w)|. w starts as the identity plus Xavier-normal noise of gain 0.01 (Keller et al. 2021,
    published settings).

    Cost: O(N·C²·kh·kw·H·W) for the map and O(D·b²) for the log-det, with the half-bandwidth b of T(w)
    (:class:`~snf_models.bijections.convolution_matrix.FactorisedConvolution`). Its gradient costs as much, or O(D²·b)
    where it takes the whole inverse (:func:`~snf_models.bijections.nearest_inverse.nearest_inverse`). On an accelerator
    the log-det costs O(D³).

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
        """Return the layer's outputs and the exact log-determinant of the layer's Jacobian for each image.

        z = w * x + b for images ``x``, ``(N, C, H, W)``. The log-determinant log|det dz/dx| is in nats, ``(N,)``.
        """
        check_images(x, self.channels)
        return convolve(self.weight, x) + self._offset(), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs that the layer maps to ``z``, and each image's log-determinant of the inverse.

        The exact x with w * x + b = z is solved by LU in float64. The log-determinant log|det dx/dz| is in nats,
        ``(N,)``.

        Raises:
            torch.linalg.LinAlgError: T(w) is singular.
        """
        check_images(z, self.channels)
        centred = z - self._offset()
        if torch.is_grad_enabled():
            x: Tensor = call(_Solve, self.weight, centred)
            return x, -self.log_det(z)
        # Sampling: the factors, which take nearly all of the time, give both.
        factors = FactorisedConvolution(self.weight, (z.shape[2], z.shape[3]))
        return factors.solve(centred), -z.new_tensor(factors.log_abs_det).expand(len(z))

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-determinant of the layer's Jacobian for each image of a batch.

        It is log|det dz/dx| in nats, the same value for each image of ``x``, ``(N,)``.
        """
        image = (x.shape[2], x.shape[3])
        if torch.is_grad_enabled() and self.weight.requires_grad:
            if self.weight.device.type in ON_CPU:
                log_abs_det: Tensor = call(LogDet, self.weight, image, nearest_inverse)[0]
            else:  # one large factorisation, and no value that the CPU waits for
                log_abs_det = torch.linalg.slogdet(materialise(self.weight, image)).logabsdet
        else:
            log_abs_det = x.new_tensor(FactorisedConvolution(self.weight, image).log_abs_det)
        return log_abs_det.to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian for any image of ``shape`` (C, H, W).

        It is log|det dz/dx| in nats, in float64.
        """
        return FactorisedConvolution(self.weight, shape[1:]).log_abs_det

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return an immutable float64 copy of this layer for scoring and sampling.

        The copy is for images of ``shape`` (C, H, W).

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
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        grad_z = ctx.factors.solve(gradients[0], "transpose")
        return -correlate(x, grad_z, ctx.kernel), grad_z


class SelfNormalizingConv(ExactConv, SelfNormalizing):
    """Invertible k x k convolution that learns its own inverse, so that training needs no determinants.

    The layer z = w * x + b learns a kernel r with r * (z - b) ≈ x (Keller et al. 2021, eq. 13-16).

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
        """Return the layer's outputs and each image's log-determinant, exact in evaluation and 0 in training.

        The outputs are z = w * x + b, and the log-determinant is log|det dz/dx| of each image. In training the
        log-determinant is 0, with an estimate of its gradient.

        The estimate uses the learned inverse kernel r in place of the exact inverse.
        """
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_convolution(x, self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y)
        return y + self._offset(), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return the approximate inputs that give the outputs ``z``, computed by the learned inverse kernel.

        x ≈ r * (z - b), ``(N, C, H, W)``, with the learned kernel r of this layer z = w * x + b.
        """
        check_images(z, self.channels)
        return convolve(self.inverse_weight, z - self._offset())

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return images convolved with the layer's kernel, without the layer's offset.

        It is w * x for the kernel w and images ``x``, ``(N, C, H, W)``.
        """
        return convolve(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return images convolved with the kernel that the layer learns as its approximate inverse.

        It is r * z for images ``z``, ``(N, C, H, W)``, and the kernel r that learns to undo w.
        """
        return convolve(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set the learned inverse kernel to the kernel whose convolution is closest to the exact inverse.

        The distance is the Frobenius norm between the matrices of both maps on images of ``shape``.

        Cost: O(D·b²) for D values of an image and half-bandwidth b, or O(D²·b) where it takes the whole inverse
        (:func:`~snf_models.bijections.nearest_inverse.nearest_inverse`).
        """
        self.inverse_weight.copy_(nearest_inverse(self.weight, shape[1:])[1])

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return an immutable float64 copy of this layer for scoring, with its learned inverse kernel."""
        return replace(super().freeze(shape), learned_map=(self.inverse_weight.double().clone(),))


@dataclass(frozen=True)
class FrozenConvolution:
    """Immutable float64 form of a trained convolution layer, for scoring and sampling.

    It is z = w * x + b for images of a fixed size.

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
        """Return the layer's outputs, and None in place of the log-determinant, which is constant.

        The outputs are w * x + b, ``(N, C, H, W)``. The log-determinant log|det dz/dx| is equal for all images and not
        computed here.
        """
        return convolve(self.weight, x) + self.offset, None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the inputs that the layer maps to ``z``; ``inverse`` chooses the exact or the learned inverse.

        x solves w * x + b = z exactly. If ``inverse`` is "learned" and there are learned kernels, they give an
        approximate x.
        """
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
    """PyTorch autograd function of a convolution whose gradients use a learned inverse kernel.

    The gradient of log|det| is computed with the learned kernel (Keller et al. 2021).

    It is :class:`~snf_models.bijections.self_normalizing_gradient.SelfNormalizingProduct` for the matrices of
    convolutions. m is the multiplicity of the taps, and x ⋆ z the gradient of <w * x, z> with respect to w. With
    incoming gradients δ of y, c_n of the log-det and v_n of the reconstruction error of sample n, e = r * y - x and δx
    = flip(w) * δ, the gradients are, up to sign,

        dw = ½ x ⋆ δ + ½ Σc m·flip(r) + 2 Σ v_n x ⋆ (flip(r) * e)
        dr = -½ y ⋆ δx - ½ Σc m·flip(w) + 2 Σ v_n y ⋆ e

    The gradient of x is δx: it is not halved, and the reconstruction error has no gradient with respect to x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return convolved images, zeros in place of log-determinants, and reconstruction errors.

        Training needs only the gradients of the log-determinants, which the backward pass computes.

        The convolution is y = w * x, and the error of the learned inverse kernel r is ||r * y - x||².
        """
        y = convolve(weight, x)
        error = convolve(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the loss gradients with respect to the images, the kernel and the learned inverse kernel.

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
    """Return convolved images, zeros in place of log-determinants, and reconstruction errors.

    Training needs only the gradients of the log-determinants, which the backward pass computes.

    A reconstruction error tells how far the learned inverse is from restoring an image.

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
    """Return an approximate inverse of a convolution kernel, improved by one Newton-Schulz iteration.

    Returns 2r - r * w * r for the kernel w and its approximate inverse r, where * is convolution, cropped to the size
    of r.

    Away from the border it turns an error E of r into an error of order E².
    """
    there_and_back = compose(weight, inverse_weight)
    return 2 * inverse_weight - compose(inverse_weight, there_and_back, crop=True)
