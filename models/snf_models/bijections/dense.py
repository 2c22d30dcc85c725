"""Dense linear layers over a whole image: exact, self-normalizing, and trained by the relative gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from snf_models.bijections.autograd_calls import call, first_derivatives
from snf_models.bijections.base import Bijection, Shape, vectors_of
from snf_models.bijections.frozen import FrozenAffine
from snf_models.bijections.matrix_inverse import MatrixInverse
from snf_models.bijections.self_normalizing_gradient import by_columns, mix_channels, self_normalizing_product


class ExactDense(Bijection):
    """Invertible fully connected layer over all values of an image, with its exact log-determinant.

    The layer is z = W x + b on D = C·H·W values, and log|det W| is exact.

    W starts as the identity and b from N(0, 1/D) (Keller et al. 2021, published code).

    Cost: O(N·D²) in both directions; O(D³) for the log-det and its gradient, at every training step.

    Args:
        dimensions: The number of values D of an image.
    """

    constant_log_det: ClassVar[bool] = True

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.weight = nn.Parameter(torch.eye(dimensions))
        self.bias = nn.Parameter(torch.randn(dimensions) * dimensions**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and the log-determinant of the layer's Jacobian for each image.

        The outputs are W x + b for flattened images, in the shape of ``x``. The log-determinant is log|det W| in nats,
        ``(N,)``.
        """
        z = (mix_channels(self.weight, self._vectors(x)) + self.bias).view(x.shape)
        # A gradient needs no more than the precision of the layer, and float64 takes several times as long.
        log_abs_det = torch.linalg.slogdet(self.weight if self.training else self.weight.double()).logabsdet
        return z, log_abs_det.to(x.dtype).expand(x.shape[0])

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's inputs for given outputs ``z``, and the log-determinant of this inverse map.

        The exact x = W⁻¹ (z - b) is in the shape of ``z``. The log-determinant log|det dx/dz| is in nats, ``(N,)``.
        """
        factors, pivots = torch.linalg.lu_factor(self.weight.double())
        centred = (self._vectors(z) - self.bias).double()
        x: Tensor = torch.linalg.lu_solve(factors, pivots, centred.T).T
        log_det = -factors.diagonal().abs().log().sum()
        return x.to(z.dtype).reshape(z.shape), log_det.to(z.dtype).expand(z.shape[0])

    @torch.no_grad()
    def constant_log_det_at(self, shape: Shape) -> float:
        """Return the log-determinant of the layer's Jacobian, which is the same for all images.

        It is log|det dz/dx| = log|det W| in nats. Cost: O(D³) for D values.
        """
        return float(torch.linalg.slogdet(self.weight.double()).logabsdet)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return an immutable float64 copy of this layer for scoring."""
        return FrozenAffine((self.weight.double().clone(), self.bias.double().clone()), flat=True)

    def _vectors(self, x: Tensor) -> Tensor:
        return vectors_of(x, self.dimensions)


class SelfNormalizingDense(ExactDense, MatrixInverse):
    """Invertible fully connected layer that learns its own inverse, so that training needs no determinants.

    The layer z = W x + b learns a matrix R ≈ W⁻¹ (Keller et al. 2021, 4.1).

    Training mode computes no determinant: the log-det has value 0, and its gradient with respect to W uses R^T in place
    of W^-T (:class:`~snf_models.bijections.self_normalizing_gradient.SelfNormalizingProduct`). The reconstruction error
    ||R W x - x||² of each sample is stored for the training objective. Evaluation mode is exact, as in
    :class:`ExactDense`. W and R start as the identity.

    Cost of a training step: six products of O(N·D²), no term in D³.

    Args:
        dimensions: The number of values D of an image.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.inverse_weight = nn.Parameter(by_columns(torch.eye(dimensions)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and each image's log-determinant, exact in evaluation and 0 in training.

        The outputs are z = W x + b, and the log-determinant is log|det dz/dx| of each image. In training the
        log-determinant is 0, with an estimate of its gradient.

        The estimate uses the learned inverse R in place of W⁻¹.
        """
        if not self.training:
            return super().forward(x)
        y, log_det, error = self_normalizing_product(self._vectors(x), self.weight, self.inverse_weight, self.gradient)
        self.keep_reconstruction_error(error, y.view(x.shape))
        return (y + self.bias).view(x.shape), log_det

    def approximate_inverse(self, z: Tensor) -> Tensor:
        """Return the approximate inputs that give the outputs ``z``, computed by the layer's learned inverse.

        x ≈ R (z - b) in the shape of ``z``, with the learned R ≈ W⁻¹ of this layer z = W x + b.
        """
        return mix_channels(self.inverse_weight, self._vectors(z) - self.bias).view(z.shape)

    def apply_weight(self, x: Tensor) -> Tensor:
        """Return the images ``x`` multiplied as flattened vectors by the weight matrix, without the offset.

        It is W x in the shape of ``x``, ``(N, C, H, W)``.
        """
        return mix_channels(self.weight, self._vectors(x)).view(x.shape)

    def apply_inverse_weight(self, z: Tensor) -> Tensor:
        """Return the images ``z`` multiplied as flattened vectors by the learned inverse of the weight matrix.

        It is R z for the learned R ≈ W⁻¹, in the shape ``(N, C, H, W)``.
        """
        return mix_channels(self.inverse_weight, self._vectors(z)).view(z.shape)

    @torch.no_grad()
    def freeze(self, shape: Shape) -> FrozenAffine:
        """Return an immutable float64 copy of this layer for scoring, with its learned approximate inverse."""
        exact = super().freeze(shape)
        learned = self.inverse_weight.double().clone()
        return replace(exact, learned_map=(learned, -learned @ exact.forward_map[1]))


class RelativeGradientDense(ExactDense):
    """Fully connected layer trained by gradients with respect to relative changes of its weights.

    The layer is W x + b. Relative gradients need no inverse of W (Gresele et al. 2020).

    Training mode computes no determinant: the log-det has value 0, and the backward pass replaces the gradients of W
    and b by relative gradients (:class:`RelativeProduct`). Evaluation mode is exact, as in :class:`ExactDense`. W
    starts as a random orthogonal matrix, b as 0.

    Cost of a training step: four products of O(N·D²), no term in D³.

    Args:
        dimensions: The number of values D of an image.
    """

    omits_log_det: ClassVar[bool] = True

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and each image's log-determinant, exact in evaluation and 0 in training.

        Training needs only the gradient of the log-determinant, not its value.

        The outputs are z = W x + b, and the log-determinant is log|det W| for each image. In training the
        log-determinant is 0, and its gradient needs no W⁻¹.
        """
        if not self.training:
            return super().forward(x)
        outputs: tuple[Tensor, Tensor] = call(RelativeProduct, self._vectors(x), self.weight, self.bias)
        z, log_det = outputs
        return z.view(x.shape), log_det


class RelativeProduct(torch.autograd.Function):
    """PyTorch autograd function of a fully connected layer, with relative gradients for weights and bias.

    The function is W x + b. The relative gradient of W is the gradient with respect to A at A = 0 of a step from W to W
    + A W (Gresele et al. 2020, sec. 4).

    The relative gradient is the gradient with respect to a change of the output, z -> z + A z + a, which changes W to
    W + A W and b to b + A b + a. With incoming gradients δ of z and c_n of the log-det of sample n, the gradients of A
    and a are δ z^T + Σc I and Σδ: the log-det of (I + A) W needs no inverse. As changes of W and b they are

        dW = δ z^T W + Σc W
        db = δ z^T b + Σδ + Σc b

    or G̃ W̃^T W̃, with the ordinary gradient G̃ = [G, Σδ], G = δ x^T + Σc W^-T, of the augmented matrix W̃ = [W b; 0 1].
    The published code omits the term Σc b. The derivation contains it, and without it the step is not a descent
    direction everywhere. The gradient of the input is the ordinary W^T δ.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs W x + b, and zeros in place of the log-determinants.

        The outputs are W x + b for vectors ``x``, ``(N, D)``. Of the log-determinant, ``(N,)``, only the gradient is
        used.
        """
        z = torch.addmm(bias, x, weight.T)
        ctx.save_for_backward(z, weight, bias)
        return z, x.new_zeros(x.shape[0])

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss gradients for the layer's inputs, weights and bias; the last two are relative gradients.

        A relative gradient is with respect to the coefficients A and a of a change of the outputs from z to z + A z +
        a.

        The gradient of x is the ordinary gradient. The relative gradients are dW and db in the docstring of the class.

        No matrix is inverted.
        """
        grad_z, grad_log_det = gradients
        z, weight, bias = ctx.saved_tensors
        share = grad_log_det.sum()
        grad_weight = (grad_z.T @ (z @ weight)).addcmul_(share, weight)
        grad_bias = grad_z.T @ (z @ bias) + grad_z.sum(0) + share * bias
        return grad_z @ weight, grad_weight, grad_bias
