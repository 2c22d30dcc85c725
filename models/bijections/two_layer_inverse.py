"""A self-normalizing convolution whose learned inverse is not of its own class: two convolutions in a row."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bijections.base import SelfNormalizing, Shape, check_images
from models.bijections.conv_functional import (
    FactorisedConvolution,
    Size,
    convolve,
    correlate,
    flip,
    project,
    same_padding,
)
from models.bijections.convolution import ExactConv, FrozenConvolution


class TwoLayerInverseConv(ExactConv, SelfNormalizing):
    """A k x k convolution w that learns two k x k kernels of its inverse, R z = r2 * (r1 * z), of support 2k - 1.

    The inverse of a convolution is no convolution; R comes nearer to it than one kernel can (Keller et al. 2021, 5,
    leave such inverses to future work). Evaluation mode is exact, as in :class:`ExactConv`. In training mode
    no determinant is computed: the returned log-det is 0 and its gradient with respect to w is that of tr(R T(w)), R
    fixed, which is exact where R = T(w)^-1 (:class:`TwoLayerInverseConvolution`).

    An inverse of another class wants a constraint on its Jacobian beside the one on data, E_v ||J_g J_f v - v||²,
    v ~ N(0, I). Both maps are linear, J_f = T(w) and J_g = R, so that this is the reconstruction error of white noise:
    train with ``noise_reconstruction`` above 0.

    r1 starts as 2·identity - w, the inverse to first order in w - identity, and r2 as the identity.

    Cost of a training step: nine convolutions of O(N·C²·kh·kw·H·W) and O(C³·kh²·kw²), nothing that grows faster in
    D = C·H·W.
    """

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__(channels, kernel)
        identity = nn.init.dirac_(torch.empty_like(self.weight))
        self.first_inverse_weight = nn.Parameter(2 * identity - self.weight.detach())
        self.second_inverse_weight = nn.Parameter(identity)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the learned gradient."""
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = TwoLayerInverseConvolution.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.first_inverse_weight, self.second_inverse_weight
        )
        self.keep_reconstruction_error(error, y)
        return y + self._offset(), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return r2 * (r1 * (z - b))."""
        check_images(z, self.channels)
        return self.apply_inverse_weight(z - self._offset())

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return w * x."""
        return convolve(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return r2 * (r1 * z)."""
        return convolve(self.second_inverse_weight, convolve(self.first_inverse_weight, z))

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set r1 to the projection of T(w)^-1 on convolutions of its size and r2 to the identity. Cost: D solves.

        The nearest product of two convolutions has no closed form. This one makes the gradient of w exact, as in
        :class:`~models.bijections.convolution.SelfNormalizingConv`.
        """
        kernel = (self.weight.shape[2], self.weight.shape[3])
        inverse_images = FactorisedConvolution(self.weight, shape[1:]).inverse_images()
        self.first_inverse_weight.copy_(project(inverse_images, kernel))
        nn.init.dirac_(self.second_inverse_weight)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return the map with both kernels of its learned inverse."""
        first, second = self.first_inverse_weight.double().clone(), self.second_inverse_weight.double().clone()
        return replace(super().freeze(shape), learned_map=(first, second))


class TwoLayerInverseConvolution(torch.autograd.Function):
    """(w * x, log-det of value 0, ||r2 * r1 * w * x - x||² per sample) with the self normalizing gradients.

    Those of :class:`~models.bijections.self_normalizing_product.SelfNormalizingProduct` for the matrices W = T(w) and
    R = T(r2) T(r1), by the chain rule. x ⋆ z is the gradient of <w * x, z> with respect to w, P(a, b) that of
    <T(w), T(a) T(b)> (:func:`place`); δ, c_n and v_n are the incoming gradients of y, of the log-det and of the
    reconstruction error, h = r1 * y, e = r2 * h - x, δx = flip(w) * δ and ε_n = 2 v_n e_n:

        dw  = x ⋆ (½ δ + flip(r1) * flip(r2) * ε) + ½ Σc P(flip(r1), flip(r2))
        dr1 = y ⋆ flip(r2) * (ε - ½ δx)           - ½ Σc P(flip(r2), flip(w))
        dr2 = h ⋆ (ε - ½ δx)                      - ½ Σc P(flip(w), flip(r1))

    The last column is ½ Σc times the gradient of tr(W R), one factor at a time: of log|det W| where R = W^-1, and of
    -log|det R|, the inverse's share, by r1 and r2. What flows on to earlier layers is δx alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = convolve(weight, x)
        hidden = convolve(first, y)
        error = convolve(second, hidden) - x
        ctx.save_for_backward(x, y, hidden, error, weight, first, second)
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, hidden, error, weight, first, second = ctx.saved_tensors
        kernel, image = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
        forth, back_first, back_second = flip(weight), flip(first), flip(second)
        share = 0.5 * grad_log_det.sum()
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        grad_x = convolve(forth, grad_y)
        back = weighted_error - 0.5 * grad_x
        error_at_y = convolve(back_first, convolve(back_second, weighted_error))
        grad_weight = correlate(x, 0.5 * grad_y + error_at_y, kernel) + share * place(back_first, back_second, image)
        grad_first = correlate(y, convolve(back_second, back), kernel) - share * place(back_second, forth, image)
        grad_second = correlate(hidden, back, kernel) - share * place(forth, back_first, image)
        return grad_x, grad_weight, grad_first, grad_second


def place(outer: Tensor, inner: Tensor, image: Size) -> Tensor:
    """Return P_i = <B_i, T(outer) T(inner)> for every element i of a kernel, B_i = dT(w)/dw_i: borders and all.

    ``outer``, ``inner`` and the result are kernels of one size. At a tap of shift d from the middle,

        P[d] = Σ_t n(d, t) outer[t] inner[d - t],

    n(d, t) the number of locations u of the image for which u + d and u + t lie on it too. P / m is the projection of
    the product on convolutions, m = n(d, 0); far from the border it is the middle of the composed kernel. Cost:
    O(C³·kh²·kw²), whatever the batch and the image.
    """
    down, right = same_padding(outer)
    height, width = outer.shape[2:]
    # Where d - t leaves the kernel the padding is met, which is 0.
    padded = F.pad(inner, (right, right, down, down))
    rows = torch.arange(height)[:, None] - torch.arange(height) + 2 * down
    columns = torch.arange(width)[:, None] - torch.arange(width) + 2 * right
    shifted = padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    counts = triple_multiplicity((height, width), image).to(outer)
    return torch.einsum("omtu,mcabtu,abtu->ocab", outer, shifted, counts)


@lru_cache(maxsize=256)
def triple_multiplicity(kernel: Size, image: Size) -> Tensor:
    """Return n, float64 ``(kh, kw, kh, kw)``: for how many locations u are u, u + d and u + t on the image.

    d by the first two axes, t by the last two, counted from the middle tap. The result is shared: never write to it.
    """
    rows, columns = (_overlaps(side, length) for side, length in zip(kernel, image, strict=True))
    return torch.einsum("at,bu->abtu", rows, columns)


def _overlaps(kernel: int, side: int) -> Tensor:
    shift = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    lowest = torch.minimum(shift[:, None], shift[None, :]).clamp(max=0)
    highest = torch.maximum(shift[:, None], shift[None, :]).clamp(min=0)
    return (side - highest + lowest).clamp(min=0)
