"""Invertible k x k convolutions with zero padding: with the exact gradient, and self-normalizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

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


class ExactConv(Bijection):
    """z = w * x + b with zero padding that keeps the size; log-det log|det T(w)| of the whole operator, exactly.

    w starts as the identity plus Xavier-normal noise of gain 0.01 (Keller et al. 2021, published settings).

    Cost: O(N·C²·kh·kw·H·W) for the map; for the log-det O(D³), D = C·H·W, where it is to be differentiated, as at every
    training step, and O(D·b²) where it is not, b = C·(ph·W + pw) + C - 1 (:class:`FactorisedConvolution`).
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
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        return convolve(self.weight, x) + self._offset(), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` in float64: one factorisation, O(D·b²), and a solve, O(D·b), a sample.

        Raises ``torch.linalg.LinAlgError`` where T(w) is singular.
        """
        check_images(z, self.channels)
        x: Tensor = _Solve.apply(self.weight, z - self._offset())  # type: ignore[no-untyped-call]
        return x, -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        """Return log|det T(w)| for every sample of ``x``, shape ``(N,)``, computed in float64."""
        image = (x.shape[2], x.shape[3])
        if torch.is_grad_enabled() and self.weight.requires_grad:
            log_abs_det: Tensor = torch.linalg.slogdet(materialise(self.weight, image)).logabsdet
        else:
            log_abs_det = x.new_tensor(FactorisedConvolution(self.weight, image).log_abs_det)
        return log_abs_det.to(x.dtype).expand(x.shape[0])

    def constant_log_det_at(self, shape: Shape) -> float:
        """Return log|det T(w)|."""
        return FactorisedConvolution(self.weight, shape[1:]).log_abs_det

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return the map in float64 with factors made at the first inverse, which then costs O(D·b) a sample."""
        return FrozenConvolution(self.weight.double().clone(), self._offset().double().clone(), shape[1:])

    def _offset(self) -> Tensor:
        return self.bias.view(1, -1, 1, 1)


class _Solve(torch.autograd.Function):
    """x = T(w)^-1 z. With q = T(w)^-T δ, δ the incoming gradient: dz = q and dw_i = -<B_i x, q>."""

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
    """A k x k convolution that learns a kernel r of its inverse beside its own, w (Keller et al. 2021, eq. 13-16).

    Evaluation mode is exact, as in :class:`ExactConv`. In training mode no determinant is computed: the returned
    log-det is 0 and its gradient with respect to w is flip(r)·m (:class:`SelfNormalizingConvolution`). The inverse of a
    convolution is no convolution, so this gradient is an estimate; right after :meth:`refresh_inverse` it is exact.

    ``gradient`` "newton-schulz" puts the middle taps of 2r - r * w * r, one Newton-Schulz step from r towards the
    inverse, in place of r in the gradient of the log-det with respect to w; ours, O(C³·k⁴) a step.

    Cost of a training step: six convolutions of O(N·C²·kh·kw·H·W), nothing that grows faster in D = C·H·W.
    """

    def __init__(self, channels: int, kernel: Size = (3, 3)) -> None:
        super().__init__(channels, kernel)
        self.inverse_weight = nn.Parameter(flip(self.weight.detach()).clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the learned gradient."""
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, error = self_normalizing_convolution(x, self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y)
        return y + self._offset(), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return r * (z - b)."""
        check_images(z, self.channels)
        return convolve(self.inverse_weight, z - self._offset())

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return w * x."""
        return convolve(self.weight, x)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return r * z."""
        return convolve(self.inverse_weight, z)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set r to the projection of T(w)^-1 on convolutions of its size. Cost: D solves, O(D²·b)."""
        kernel = (self.weight.shape[2], self.weight.shape[3])
        self.inverse_weight.copy_(project(FactorisedConvolution(self.weight, shape[1:]).inverse_images(), kernel))

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenConvolution:
        """Return the map with the kernel of its learned inverse."""
        return replace(super().freeze(shape), learned_map=(self.inverse_weight.double().clone(),))


@dataclass(frozen=True)
class FrozenConvolution:
    """z = w * x + b in float64 on images of one size.

    ``offset``: b, ``(1, C, 1, 1)``. ``learned_map``: the kernels of the learned inverse, one after the other.
    """

    weight: Tensor
    offset: Tensor
    image: Size
    learned_map: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Return w * x + b."""
        return convolve(self.weight, x) + self.offset, None

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Undo :meth:`forward` by the factors of T(w), or by the learned kernels."""
        x = z - self.offset
        if inverse == "learned" and self.learned_map is not None:
            for kernel in self.learned_map:
                x = convolve(kernel, x)
            return x
        return self._factors.solve(x)

    @cached_property
    def _factors(self) -> FactorisedConvolution:
        # Only samples need the factors: a model that scores never pays for them.
        return FactorisedConvolution(self.weight, self.image)


class SelfNormalizingConvolution(torch.autograd.Function):
    """y = w * x with the gradients of the self normalizing objective.

    As :class:`~models.bijections.self_normalizing_product.SelfNormalizingProduct`, with the transposes of
    convolutions. With the multiplicity m of the taps, x ⋆ z the gradient of <w * x, z> with respect to w, incoming
    gradients δ of y, c_n of the log-det and v_n of the reconstruction error, e = r * y - x and δx = flip(w) * δ,

        dw = ½ x ⋆ δ + ½ Σc m·flip(r) + 2 Σ v_n x ⋆ (flip(r) * e)
        dr = -½ y ⋆ δx - ½ Σc m·flip(w) + 2 Σ v_n y ⋆ e

    (Keller et al. 2021, eq. 15 and 16 up to sign). m counts the locations of one sample: the c_n sum over the batch.
    What flows on to earlier layers is δx alone, not halved, and nothing of the reconstruction error: its input counts
    as data.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = convolve(weight, x)
        error = convolve(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        ctx.gradient = gradient
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        kernel = (weight.shape[2], weight.shape[3])
        grad_x = convolve(flip(weight), grad_y)
        # Size-keeping padding: m is its own mirror image, and serves both kernels.
        log_det_share = 0.5 * grad_log_det.sum() * multiplicity(kernel, (x.shape[2], x.shape[3])).to(weight)
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        better = newton_schulz(weight, inverse_weight) if ctx.gradient == "newton-schulz" else inverse_weight
        grad_weight = correlate(x, 0.5 * grad_y + convolve(flip(inverse_weight), weighted_error), kernel)
        grad_weight += log_det_share * flip(better)
        grad_inverse = correlate(y, weighted_error - 0.5 * grad_x, kernel) - log_det_share * flip(weight)
        return grad_x, grad_weight, grad_inverse, None


def self_normalizing_convolution(
    x: Tensor, weight: Tensor, inverse_weight: Tensor, gradient: LogDetGradient
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (w * x, log-det of value 0, ||r * w * x - x||² per sample), see :class:`SelfNormalizingConvolution`."""
    outputs: tuple[Tensor, Tensor, Tensor] = SelfNormalizingConvolution.apply(x, weight, inverse_weight, gradient)  # type: ignore[no-untyped-call]
    return outputs


def newton_schulz(weight: Tensor, inverse_weight: Tensor) -> Tensor:
    """Return the middle taps of 2r - r * w * r: away from the border, an error E of r becomes one of order E²."""
    there_and_back = compose(weight, inverse_weight)
    return 2 * inverse_weight - compose(inverse_weight, there_and_back, crop=True)
