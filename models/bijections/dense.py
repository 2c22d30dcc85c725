"""Dense linear layers over a whole image: exact, self-normalizing, and trained by the relative gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.bijections.base import Bijection, SelfNormalizing, Shape
from models.bijections.frozen import FrozenAffine
from models.bijections.self_normalizing_product import mix_channels, self_normalizing_product


class ExactDense(Bijection):
    """z = W x + b on the image as one vector of D = C·H·W, log-det log|det W| with its exact gradient.

    W starts as the identity, b ~ N(0, 1/D), the variance of a Xavier-normal D x D matrix (Keller et al. 2021, code).

    Cost: O(N·D²) both ways and O(D³) for the log-determinant, at every training step too.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.weight = nn.Parameter(torch.eye(dimensions))
        self.bias = nn.Parameter(torch.randn(dimensions) * dimensions**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``. Raises ``ValueError`` unless C·H·W is D."""
        z = (mix_channels(self.weight, self._vectors(x)) + self.bias).view(x.shape)
        # In training the arithmetic is that of the layer: a gradient needs no more, and float64 costs several times it.
        log_abs_det = torch.linalg.slogdet(self.weight if self.training else self.weight.double()).logabsdet
        return z, log_abs_det.to(x.dtype).expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`. Cost: one LU factorisation in float64, O(D³ + N·D²)."""
        factors, pivots = torch.linalg.lu_factor(self.weight.double())
        centred = (self._vectors(z) - self.bias).double()
        x: Tensor = torch.linalg.lu_solve(factors, pivots, centred.T).T
        log_det = -factors.diagonal().abs().log().sum()
        return x.to(z.dtype).reshape(z.shape), log_det.to(z.dtype).expand(z.shape[0])

    @torch.no_grad()
    def constant_log_det_at(self, shape: Shape) -> float:
        """Return log|det W|, O(D³)."""
        return float(torch.linalg.slogdet(self.weight.double()).logabsdet)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return the map with its inverse, O(D³) once; neighbours fold into one."""
        matrix, offset = self.weight.double().clone(), self.bias.double().clone()
        inverse = torch.linalg.inv(matrix)
        return FrozenAffine((matrix, offset), (inverse, -inverse @ offset), flat=True)

    def _vectors(self, x: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` as vectors ``(N, D)``; raise ``ValueError`` where they are no such images."""
        if x.dim() != 4 or x.shape[1:].numel() != self.dimensions:
            raise ValueError(f"expected images (N, C, H, W) of {self.dimensions} dimensions, got {tuple(x.shape)}")
        return x.flatten(1)


class SelfNormalizingDense(ExactDense, SelfNormalizing):
    """A dense linear map that learns its inverse R beside its weights W (Keller et al. 2021, 4.1 and eq. 10-11).

    Evaluation mode is exact, as in :class:`ExactDense`. In training mode no determinant is computed: the returned
    log-det is 0 and its gradient with respect to W is R^T (:func:`self_normalizing_product`). The reconstruction error
    of each sample waits for the objective, which takes it with :meth:`pop_reconstruction_error`. R starts as the
    identity, the inverse of W.

    Cost of a training step: six products of O(N·D²), nothing cubic in D.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.inverse_weight = nn.Parameter(torch.eye(dimensions))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the learned gradient."""
        if not self.training:
            return super().forward(x)
        y, log_det, error = self_normalizing_product(self._vectors(x), self.weight, self.inverse_weight)
        self.keep_reconstruction_error(error, y.view(x.shape))
        return (y + self.bias).view(x.shape), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return R (z - b). Cost: one product."""
        return mix_channels(self.inverse_weight, self._vectors(z) - self.bias).view(z.shape)

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return W x."""
        return mix_channels(self.weight, self._vectors(x)).view(x.shape)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return R z."""
        return mix_channels(self.inverse_weight, self._vectors(z)).view(z.shape)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Set R = W^-1. Cost: O(D³)."""
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return the map with its exact and its learned inverse."""
        exact = super().freeze(shape)
        learned = self.inverse_weight.double().clone()
        return FrozenAffine(exact.forward_map, exact.inverse_map, (learned, -learned @ exact.forward_map[1]), flat=True)


class RelativeGradientDense(ExactDense):
    """z = W x + b on the whole image, trained without an inverse by the relative gradient (Gresele et al. 2020).

    Evaluation mode is exact, as in :class:`ExactDense`. In training mode no determinant is computed, the returned
    log-det is 0, and what arrives as gradients of W and b is the steepest direction of change relative to what the
    layer does already (:class:`RelativeProduct`). W starts orthogonal, b at 0.

    Cost of a training step: four products of O(N·D²), nothing cubic in D.
    """

    omits_log_det: ClassVar[bool] = True

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the relative gradient."""
        if not self.training:
            return super().forward(x)
        outputs: tuple[Tensor, Tensor] = RelativeProduct.apply(self._vectors(x), self.weight, self.bias)  # type: ignore[no-untyped-call]
        z, log_det = outputs
        return z.view(x.shape), log_det


class RelativeProduct(torch.autograd.Function):
    """z = W x + b with relative gradients in place of the gradients of W and b (Gresele et al. 2020, section 4).

    A change of the layer's own output, z -> z + A z + a, makes W + A W and b + A b + a of W and b. With incoming
    gradients δ of z and c_n of the log-det, the gradient with respect to A and a is δ z^T + Σc I and Σδ: the
    log-determinant of (I + A) W needs no inverse. As gradients of W and b this gives

        dW = δ z^T W + Σc W
        db = δ z^T b + Σδ + Σc b

    that is G̃ W̃^T W̃ of the ordinary gradient G̃ = [G, Σδ], G = δ x^T + Σc W^-T, of the augmented W̃ = [W b; 0 1]. The
    published code leaves out Σc b, -b for a negative log-likelihood; the derivation gives it, and only with it is the
    step a descent direction wherever the gradient does not vanish. What flows on is the ordinary W^T δ.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.addmm(bias, x, weight.T)
        ctx.save_for_backward(z, weight, bias)
        return z, x.new_zeros(x.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_z, grad_log_det = gradients
        z, weight, bias = ctx.saved_tensors
        share = grad_log_det.sum()
        grad_weight = (grad_z.T @ (z @ weight)).addcmul_(share, weight)
        grad_bias = grad_z.T @ (z @ bias) + grad_z.sum(0) + share * bias
        return grad_z @ weight, grad_weight, grad_bias
