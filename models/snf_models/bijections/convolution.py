"""Invertible k x k convolutions with zero padding: exact, and self-normalizing with one or two learned kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import (
    LinearLayer,
    LogDetGradient,
    SelfNormalizing,
    Shape,
    call,
    first_derivatives,
)
from snf_models.bijections.convolution_matrix import (
    ON_CPU,
    FactorisedConvolution,
    LogDet,
    Size,
    check_kernel,
    compose,
    convolve,
    correlate,
    flip,
    materialise,
    multiplicity,
    nearest_inverse,
    same_padding,
)
from snf_models.bijections.devices import constant
from snf_models.bijections.frozen import Inverse


@dataclass(frozen=True)
class Convolutions:
    """The linear maps x -> w * x. In gradients the multiplicity m of a tap stands for the number of places."""

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        return convolve(weight, x)

    def transposed(self, weight: Tensor) -> Tensor:
        return flip(weight)

    def outer(self, z: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return correlate(x, z, (weight.shape[2], weight.shape[3]))

    def counts(self, x: Tensor, weight: Tensor) -> Tensor:
        # With padding that keeps the size m is symmetric, so the same m holds for both kernels.
        kernel, image = (weight.shape[2], weight.shape[3]), (x.shape[2], x.shape[3])
        return constant(multiplicity, kernel, image, device=weight.device, dtype=weight.dtype)

    def improved(self, weight: Tensor, inverse_weight: Tensor) -> Tensor:
        return newton_schulz(weight, inverse_weight)


def newton_schulz(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """Return 2r - r * w * r, cropped to the size of r: away from the border an error E of r becomes one of order E²."""
    there_and_back = compose(weight, inverse_weight)
    return 2 * inverse_weight - compose(inverse_weight, there_and_back, crop=True)


class ExactConv(LinearLayer):
    """Invertible k x k convolution z = w * x + b with zero padding and the exact log-det log|det T(w)|.

    w starts as the identity plus Xavier-normal noise of gain 0.01 (Keller et al. 2021, published settings).

    Cost: O(N·C²·kh·kw·H·W) for the map and O(D·b²) for the log-det, with the half-bandwidth b of T(w)
    (:class:`~snf_models.bijections.convolution_matrix.FactorisedConvolution`). Its gradient costs as much, or O(D²·b)
    where it takes the whole inverse. On an accelerator the log-det costs O(D³).

    Args:
        channels: The number of channels C.
        kernel: Height and width of w, both odd.
    """

    maps = Convolutions()

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__()
        check_kernel(kernel)
        self.channels = channels
        noise = nn.init.xavier_normal_(torch.empty(channels, channels, *kernel), gain=0.01)
        self.bias = nn.Parameter(torch.randn(channels) * 0.01 / (channels * kernel[0] * kernel[1]) ** 0.5)
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty_like(noise)) + noise)

    def solve(self, z: Tensor) -> Tensor:
        return self.inverse(z)[0]

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the exact x with w * x + b = z by LU in float64; raise ``LinAlgError`` if T(w) is singular."""
        self.check(z)
        centred = z - self.offset(z)
        if torch.is_grad_enabled():
            x: Tensor = call(_Solve, self.weight, centred)
            return x, -self.log_det(z)
        # Sampling: the factors, which take nearly all of the time, give both.
        factors = FactorisedConvolution(self.weight, (z.shape[2], z.shape[3]))
        return factors.solve(centred), -z.new_tensor(factors.log_abs_det).expand(len(z))

    def log_abs_det(self, shape: Shape) -> Tensor:
        image = shape[1:]
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            exact = FactorisedConvolution(self.weight, image).log_abs_det
            return torch.tensor(exact, dtype=torch.float64, device=self.weight.device)
        if self.weight.device.type in ON_CPU:
            log_abs_det: Tensor = call(LogDet, self.weight, image, nearest_inverse)[0]
        else:  # one large factorisation, and no value that the CPU waits for
            log_abs_det = torch.linalg.slogdet(materialise(self.weight, image)).logabsdet
        return log_abs_det

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        return FrozenConvolution(self.weight.double().clone(), self.bias.view(1, -1, 1, 1).double().clone(), shape[1:])


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


class SelfNormalizingConv(SelfNormalizing, ExactConv):
    """Invertible k x k convolution z = w * x + b that learns a kernel r ≈ w⁻¹ (Keller et al. 2021, eq. 13-16).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to w is flip(r)·m with
    the multiplicity m of the taps. The inverse of a convolution is not a convolution, so this gradient is an estimate;
    it is exact right after :meth:`refresh_inverse`. The reconstruction error ||r * w * x - x||² of each sample is
    stored for the training objective. Evaluation mode is exact.

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

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set r to the kernel whose matrix on images of ``shape`` is nearest to the exact inverse (Frobenius norm)."""
        self.inverse_weight.copy_(nearest_inverse(self.weight, shape[1:])[1])

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        return replace(super().freeze(shape), learned_map=(self.inverse_weight.double().clone(),))


@dataclass(frozen=True)
class FrozenConvolution:
    """Frozen form of a convolution z = w * x + b for images of a fixed size."""

    weight: Tensor
    offset: Tensor
    image: Size
    learned_map: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return convolve(self.weight, x) + self.offset, None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
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


class TwoLayerInverseConv(SelfNormalizing, ExactConv):
    """Invertible k x k convolution z = w * x + b that learns two kernels with r2 * (r1 * (z - b)) ≈ x.

    R = T(r2) T(r1), with a support of 2k - 1, can approximate the inverse better than a single kernel (Keller et al.
    2021, 5, leave such inverses to future work). Training mode computes no determinant: the log-det has value 0, and
    its gradient with respect to w is that of tr(R T(w)) for fixed R, which is exact for R = T(w)^-1.

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

    def learning_product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det, error = call(
            TwoLayerInverseConvolution,
            x,
            self.weight,
            self.first_inverse_weight,
            self.second_inverse_weight,
            self.gradient,
        )
        self.keep_reconstruction_error(error, y)
        return y, log_det

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        return convolve(self.second_inverse_weight, convolve(self.first_inverse_weight, z))

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set r1 to the kernel nearest to the exact inverse, r2 to the identity: the gradient of w becomes exact."""
        self.first_inverse_weight.copy_(nearest_inverse(self.weight, shape[1:])[1])
        nn.init.dirac_(self.second_inverse_weight)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        first, second = self.first_inverse_weight.double().clone(), self.second_inverse_weight.double().clone()
        return replace(super().freeze(shape), learned_map=(first, second))


class TwoLayerInverseConvolution(torch.autograd.Function):
    """w * x with the gradient of log|det| by an inverse learned as two kernels.

    They are the gradients of :class:`~snf_models.bijections.base.SelfNormalizingProduct` for W = T(w) and
    R = T(r2) T(r1), by the chain rule. x ⋆ z is the gradient of <w * x, z> with respect to w, and P(a, b) that of
    <T(w), T(a) T(b)> (:func:`place`). With the incoming gradients δ of y, c_n of the log-det and v_n of the
    reconstruction error of sample n, h = r1 * y, e = r2 * h - x, δx = flip(w) * δ and ε_n = 2 v_n e_n, they are

        dw  = x ⋆ (½ δ + flip(r1) * flip(r2) * ε) + ½ Σc P(flip(r1), flip(r2))
        dr1 = y ⋆ flip(r2) * (ε - ½ δx)           - ½ Σc P(flip(r2), flip(w))
        dr2 = h ⋆ (ε - ½ δx)                      - ½ Σc P(flip(w), flip(r1))

    The last column is ½ Σc times the gradient of tr(W R) with respect to each kernel. The gradient of x is δx. If
    ``gradient`` is "newton-schulz", the last term of dw is ½ Σc m·flip(r) with r of :func:`newton_schulz_middle`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, first: Tensor, second: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = convolve(weight, x)
        hidden = convolve(first, y)
        error = convolve(second, hidden) - x
        ctx.save_for_backward(x, y, hidden, error, weight, first, second)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
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
    """Return the middle taps of 2r - r * w * r for r = r2 * r1, as many as w has."""
    down, right = same_padding(weight)
    learned = compose(second, first)
    middle = learned[:, :, down : down + weight.shape[2], right : right + weight.shape[3]]
    return 2 * middle - compose(learned, compose(weight, learned), crop=True)


def place(outer: Tensor, inner: Tensor, image: Size) -> Tensor:
    """Return P_i = <B_i, T(outer) T(inner)> with B_i = dT(w)/dw_i, in the shape of w, ``(C, C, kh, kw)``.

    At shift d from the middle tap it is P[d] = Σ_t n(d, t) outer[t] inner[d - t], where n(d, t) is the number of
    locations u of the image for which u + d and u + t are in the image too. Cost: O(C³·kh²·kw²).
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
    """Return, float64 ``(kh, kw, kh, kw)``, how many pixels u have u + d and u + t in the image, for taps d, then t.

    The tensor is cached and must not be modified.
    """
    rows, columns = (_overlaps(side, length) for side, length in zip(kernel, image, strict=True))
    return torch.einsum("at,bu->abtu", rows, columns)


def _overlaps(kernel: int, side: int) -> Tensor:
    shift = torch.arange(kernel, dtype=torch.float64, device="cpu") - kernel // 2
    lowest = torch.minimum(shift[:, None], shift[None, :]).clamp(max=0)
    highest = torch.maximum(shift[:, None], shift[None, :]).clamp(min=0)
    return (side - highest + lowest).clamp(min=0)
