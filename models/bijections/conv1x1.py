"""Invertible 1x1 convolutions: with the exact gradient, and self-normalizing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.bijections.base import ChannelAffine, SelfNormalizing, check_images


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply ``matrix``, shape ``(O, C)``, at every location of ``x``, shape ``(N, C, H, W)``. Cost: O(N·O·C·H·W)."""
    return torch.matmul(matrix, x.flatten(2)).view(x.shape[0], -1, *x.shape[2:])


class ExactConv1x1(ChannelAffine):
    """z = W x + b at every location, log-det H·W·log|det W| with its exact gradient (Kingma & Dhariwal 2018, 3.2).

    Cost: O(C²·H·W) both ways and O(C³) for the log-determinant, at every training step too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        orthogonal = torch.linalg.qr(torch.randn(channels, channels)).Q
        self.weight = nn.Parameter(orthogonal)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``."""
        check_images(x, self.channels)
        return mix_channels(self.weight, x) + self.bias.view(1, -1, 1, 1), self.log_det(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward` by one LU solve, O(C³ + C²·H·W)."""
        check_images(z, self.channels)
        centred = (z - self.bias.view(1, -1, 1, 1)).flatten(2)
        x: Tensor = torch.linalg.solve(self.weight, centred).view_as(z)
        return x, -self.log_det(z)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return W and b."""
        return self.weight, self.bias

    def log_abs_det(self) -> Tensor:
        """Return log|det W| in float64. Cost: O(C³)."""
        log_abs_det: Tensor = torch.linalg.slogdet(self.weight.double()).logabsdet
        return log_abs_det


class SelfNormalizingConv1x1(ExactConv1x1, SelfNormalizing):
    """A 1x1 convolution that learns its inverse R beside its weights W (Keller et al. 2021, eq. 10-12).

    Evaluation mode is exact, as in :class:`ExactConv1x1`. In training mode no determinant is computed: the returned
    log-det is 0 and its gradient with respect to W is H·W·R^T (:class:`SelfNormalizingProduct`). The reconstruction
    error of each sample waits for the objective, which takes it with :meth:`pop_reconstruction_error`.

    Cost of a training step: six products of O(N·C²·H·W), nothing cubic in C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.inverse_weight = nn.Parameter(self.weight.detach().T.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``, shape ``(N, C, H, W)``; in training mode log-det is 0 and carries the learned gradient."""
        if not self.training:
            return super().forward(x)
        check_images(x, self.channels)
        y, log_det, self._reconstruction_error = self_normalizing_product(x, self.weight, self.inverse_weight)
        return y + self.bias.view(1, -1, 1, 1), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return R (z - b)."""
        check_images(z, self.channels)
        return mix_channels(self.inverse_weight, z - self.bias.view(1, -1, 1, 1))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return R W x."""
        return mix_channels(self.inverse_weight, mix_channels(self.weight, x))

    def learned_affine(self) -> tuple[Tensor, Tensor]:
        """Return R and -R b."""
        return self.inverse_weight, -self.inverse_weight @ self.bias


class SelfNormalizingProduct(torch.autograd.Function):
    """y = W x at every location with the gradients of the self normalizing objective.

    The objective is the mean of the log-likelihoods of f (by W) and of its inverse g (by R), minus the weighted
    reconstruction error (Keller et al. 2021, eq. 9). Its gradients need no inverse of W. With m = H·W locations,
    incoming gradients δ of y, c_n of the log-det and w_n of the reconstruction error, e = R y - x and δx = W^T δ,

        dW = ½ δ x^T + ½ m Σc R^T + 2 Σ w_n R^T e x^T
        dR = -½ δx y^T - ½ m Σc W^T + 2 Σ w_n e y^T

    (eq. 10 and 11 up to sign). What flows on to earlier layers is δx alone, not halved, and nothing of the
    reconstruction error: its input counts as data.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, inverse_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = mix_channels(weight, x)
        error = mix_channels(inverse_weight, y) - x
        ctx.save_for_backward(x, y, error, weight, inverse_weight)
        return y, x.new_zeros(x.shape[0]), error.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_y, grad_log_det, grad_error = gradients
        x, y, error, weight, inverse_weight = ctx.saved_tensors
        locations = x.shape[2] * x.shape[3]
        grad_x = mix_channels(weight.T, grad_y)
        log_det_share = 0.5 * locations * grad_log_det.sum()
        weighted_error = 2 * grad_error.view(-1, 1, 1, 1) * error
        grad_weight = _outer(0.5 * grad_y + mix_channels(inverse_weight.T, weighted_error), x)
        grad_weight += log_det_share * inverse_weight.T
        grad_inverse = _outer(weighted_error - 0.5 * grad_x, y) - log_det_share * weight.T
        return grad_x, grad_weight, grad_inverse


def self_normalizing_product(x: Tensor, weight: Tensor, inverse_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (W x, a log-det of value 0, ||R W x - x||² per sample), see :class:`SelfNormalizingProduct`."""
    outputs: tuple[Tensor, Tensor, Tensor] = SelfNormalizingProduct.apply(x, weight, inverse_weight)  # type: ignore[no-untyped-call]
    return outputs


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Sum left x right^T over samples and locations: two ``(N, C, H, W)`` -> ``(C, C)``."""
    return torch.einsum("nohw,nchw->oc", left, right)
