"""Dense linear maps trained by the relative gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.bijections.dense import ExactDense


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
