"""Self-normalizing convolution whose learned inverse is a composition of two convolutions."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.autograd_calls import call, first_derivatives
from snf_models.bijections.base import LogDetGradient, SelfNormalizing, Shape, check_images
from snf_models.bijections.convolution import ExactConv, FrozenConvolution
from snf_models.bijections.convolution_matrix import (
    Size,
    compose,
    convolve,
    correlate,
    flip,
    multiplicity,
    same_padding,
)
from snf_models.bijections.nearest_inverse import nearest_inverse
from snf_models.devices import constant


class TwoLayerInverseConv(ExactConv, SelfNormalizing):
    """Invertible k x k convolution whose approximate inverse is learned as two successive convolutions.

    The layer z = w * x + b learns two k x k kernels with r2 * (r1 * (z - b)) ≈ x.

    The inverse of a convolution is not a convolution. R = T(r2) T(r1), with a larger support of 2k - 1, can approximate
    it better than a single kernel (Keller et al. 2021, 5, leave such inverses to future work). Training mode computes
    no determinant: the log-det has value 0, and its gradient with respect to w is that of tr(R T(w)) for fixed R, which
    is exact for R = T(w)^-1 (:class:`TwoLayerInverseConvolution`). Evaluation mode is exact, as in
    :class:`~snf_models.bijections.convolution.ExactConv`.

    An inverse from another class of functions also needs a constraint on its Jacobian, E_v ||J_g J_f v - v||² with
    v ~ N(0, I). Both maps are linear, so this is the reconstruction error of white noise: train with
    ``noise_reconstruction`` above 0. r1 starts as 2·identity - w, the inverse to first order in w - identity, and r2 as
    the identity.

    Cost of a training step: nine convolutions of O(N·C²·kh·kw·H·W), and O(C³·kh²·kw²).

    Args:
        channels: The number of channels C.
        kernel: Height and width of w, r1 and r2, both odd.
    """

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__(channels, kernel)
        identity = nn.init.dirac_(torch.empty_like(self.weight))
        self.first_inverse_weight = nn.Parameter(2 * identity - self.weight.detach())
        self.second_inverse_weight = nn.Parameter(identity)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and each image's log-determinant, exact in evaluation and 0 in training.

        The outputs are z = w * x + b, and the log-determinant is log|det dz/dx| of each image. In training the
        log-determinant is 0, with an estimate of its gradient.

        The estimate uses the learned inverse of two kernels in place of the exact inverse.
        """
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = call(
            TwoLayerInverseConvolution,
            x,
            self.weight,
            self.first_inverse_weight,
            self.second_inverse_weight,
            self.gradient,
        )
        self.keep_reconstruction_error(error, y)
        return y + self._offset(), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return the approximate inputs that give the outputs ``z``, by the two learned inverse kernels.

        x ≈ r2 * (r1 * (z - b)), ``(N, C, H, W)``, for this layer z = w * x + b.
        """
        check_images(z, self.channels)
        return self.apply_inverse_weight(z - self._offset())

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return images convolved with the layer's kernel; the layer's offset is not added.

        It is w * x for the kernel w and images ``x``, ``(N, C, H, W)``.
        """
        return convolve(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return images convolved with the two learned inverse kernels, one after the other.

        It is r2 * (r1 * z) for images ``z``, ``(N, C, H, W)``.
        """
        return convolve(self.second_inverse_weight, convolve(self.first_inverse_weight, z))

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Reset both learned inverse kernels so that together they approximate the layer's exact inverse.

        r1 becomes the kernel closest to the exact inverse on images of ``shape``, and r2 the identity.

        The nearest product of two convolutions has no closed form. This choice makes the gradient of w exact, as in
        :class:`~snf_models.bijections.convolution.SelfNormalizingConv`.
        """
        self.first_inverse_weight.copy_(nearest_inverse(self.weight, shape[1:])[1])
        nn.init.dirac_(self.second_inverse_weight)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return an immutable float64 copy of this layer for scoring, with the two kernels of its learned inverse.

        Together, the two kernels approximate the inverse of the layer.
        """
        first, second = self.first_inverse_weight.double().clone(), self.second_inverse_weight.double().clone()
        return replace(super().freeze(shape), learned_map=(first, second))


class TwoLayerInverseConvolution(torch.autograd.Function):
    """PyTorch autograd function of a convolution, with gradients computed by an inverse learned as two kernels.

    The two kernels are applied one after the other.

    The function is w * x. The gradient of log|det| is computed with the learned inverse.

    They are the gradients of :class:`~snf_models.bijections.self_normalizing_gradient.SelfNormalizingProduct` for W =
    T(w) and R = T(r2) T(r1), by the chain rule. x ⋆ z is the gradient of <w * x, z> with respect to w, and P(a, b) that
    of <T(w), T(a) T(b)> (:func:`place`). With the incoming gradients δ of y, c_n of the log-det and v_n of the
    reconstruction error of sample n, h = r1 * y, e = r2 * h - x, δx = flip(w) * δ and ε_n = 2 v_n e_n, they are

        dw  = x ⋆ (½ δ + flip(r1) * flip(r2) * ε) + ½ Σc P(flip(r1), flip(r2))
        dr1 = y ⋆ flip(r2) * (ε - ½ δx)           - ½ Σc P(flip(r2), flip(w))
        dr2 = h ⋆ (ε - ½ δx)                      - ½ Σc P(flip(w), flip(r1))

    The last column is ½ Σc times the gradient of tr(W R) with respect to each kernel, which for R = W^-1 is that of
    log|det W| with respect to w and that of -log|det R| with respect to r1 and r2. The gradient of x is δx.

    If ``gradient`` is "newton-schulz", the last term of dw is ½ Σc m·flip(r) with the middle taps r of 2 r2 * r1 -
    r2 * r1 * w * r2 * r1 and the multiplicity m of the taps, as in
    :class:`~snf_models.bijections.convolution.SelfNormalizingConvolution`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, first: Tensor, second: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return convolved images, log-determinants (value 0, gradients only) and reconstruction errors, one per image.

        The convolution is y = w * x, and the error is ||r2 * (r1 * y) - x||² for the inverse kernels r1 and r2. Of the
        log-determinant only the gradient is used.
        """
        y = convolve(weight, x)
        hidden = convolve(first, y)
        error = convolve(second, hidden) - x
        ctx.save_for_backward(x, y, hidden, error, weight, first, second)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """Return the loss gradients for the images, the kernel and both learned inverse kernels.

        They are those with respect to x, w, r1 and r2, followed by None.

        No matrix is inverted. None stands for the argument ``gradient`` of :meth:`forward`.
        """
        grad_y, grad_log_det, grad_error = gradients
        x, y, hidden, error, weight, first, second = ctx.saved_tensors
        kernel, image = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
        forth, back_first, back_second = flip(weight), flip(first), flip(second)
        share = 0.5 * grad_log_det.sum()
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        grad_x = convolve(forth, grad_y)
        back = weighted_error - 0.5 * grad_x
        error_at_y = convolve(back_first, convolve(back_second, weighted_error))
        if ctx.gradient == "newton-schulz":
            taps = constant(multiplicity, kernel, image, device=weight.device, dtype=weight.dtype)
            log_det_gradient = taps * flip(newton_schulz_middle(weight, first, second))
        else:
            log_det_gradient = place(back_first, back_second, image)
        grad_weight = correlate(x, 0.5 * grad_y + error_at_y, kernel) + share * log_det_gradient
        grad_first = correlate(y, convolve(back_second, back), kernel) - share * place(back_second, forth, image)
        grad_second = correlate(hidden, back, kernel) - share * place(forth, back_first, image)
        return grad_x, grad_weight, grad_first, grad_second, None


def newton_schulz_middle(weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Merge the two kernels of a learned inverse, refine by a Newton-Schulz step, and crop to the kernel size.

    Returns the middle taps of 2r - r * w * r for the kernel w and its approximate inverse r = r2 * r1.

    Args:
        weight: The kernel w, ``(C, C, kh, kw)``.
        first: The kernel r1 of the learned inverse, in the same shape.
        second: The kernel r2 that follows it.

    Returns:
        As many taps as w has, ``(C, C, kh, kw)``.
    """
    down, right = same_padding(weight)
    learned = compose(second, first)
    middle = learned[:, :, down : down + weight.shape[2], right : right + weight.shape[3]]
    return 2 * middle - compose(learned, compose(weight, learned), crop=True)


def place(outer: Tensor, inner: Tensor, image: Size) -> Tensor:
    """Sum the entries of a product of two convolution matrices, with one sum for each weight of a kernel.

    In the matrix of a convolution each weight of its kernel stands at many entries. The sum is over these entries.

    It is the gradient with respect to w of the Frobenius inner product <T(w), T(outer) T(inner)>, where T(k) is the
    matrix of the convolution by k.

    Element i is P_i = <B_i, T(outer) T(inner)> with B_i = dT(w)/dw_i. At shift d from the middle tap it is

        P[d] = Σ_t n(d, t) outer[t] inner[d - t],

    where n(d, t) is the number of locations u of the image for which u + d and u + t are in the image too. P / m with
    m = n(d, 0) is the projection of the product on convolutions. Cost: O(C³·kh²·kw²).

    Args:
        outer: The kernel that is applied second, ``(C, C, kh, kw)``.
        inner: The kernel that is applied first, ``(C, C, kh, kw)``.
        image: Height and width of the images.

    Returns:
        P, ``(C, C, kh, kw)``.
    """
    down, right = same_padding(outer)
    height, width = outer.shape[2:]
    # Shifts d - t outside the kernel fall on the padding, which is 0.
    padded = F.pad(inner, (right, right, down, down))
    rows, columns = torch.arange(height, device=outer.device), torch.arange(width, device=outer.device)
    down_by, right_by = rows[:, None] - rows + 2 * down, columns[:, None] - columns + 2 * right
    shifted = padded[:, :, down_by[:, None, :, None], right_by[None, :, None, :]]
    counts = constant(triple_multiplicity, (height, width), image, device=outer.device, dtype=outer.dtype)
    return torch.einsum("omtu,mcabtu,abtu->ocab", outer, shifted, counts)


@lru_cache(maxsize=256)
def triple_multiplicity(kernel: Size, image: Size) -> Tensor:
    """Count the image pixels whose neighbours at two kernel offsets are in the image, for each pair of offsets.

    They are the pixels u for which u, u + d and u + t are all inside, for each pair of kernel offsets d and t.

    Args:
        kernel: Height kh and width kw of the kernel, whose taps are the shifts d and t from the middle.
        image: Height and width of the images.

    Returns:
        n, float64 ``(kh, kw, kh, kw)``, with d along the first two axes. It is cached and must not be modified.
    """
    rows, columns = (_overlaps(side, length) for side, length in zip(kernel, image, strict=True))
    return torch.einsum("at,bu->abtu", rows, columns)


def _overlaps(kernel: int, side: int) -> Tensor:
    shift = torch.arange(kernel, dtype=torch.float64, device="cpu") - kernel // 2
    lowest = torch.minimum(shift[:, None], shift[None, :]).clamp(max=0)
    highest = torch.maximum(shift[:, None], shift[None, :]).clamp(min=0)
    return (side - highest + lowest).clamp(min=0)
