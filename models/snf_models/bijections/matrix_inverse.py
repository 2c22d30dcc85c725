"""Self normalizing layers whose weights and learned inverse are matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snf_models.bijections.base import SelfNormalizing, Shape


class MatrixInverse(SelfNormalizing):
    """Base class of linear layers that learn an approximate inverse of their weight matrix.

    The layer is z = W x + b, and the learned inverse is a matrix R near W^-1, ``(D, D)``.

    Attributes:
        corrected: Whether training corrects R by :meth:`correct_inverse` in place of learning it.
    """

    inverse_weight: nn.Parameter
    corrected = False

    @property
    def learns_inverse(self) -> bool:
        """Whether training updates R, the learned approximation of the weight matrix's inverse.

        Training updates it by gradients or by calls of ``correct_inverse``.

        It is false where R was fixed by hand.
        """
        return self.corrected or super().learns_inverse

    def set_corrected(self, corrected: bool) -> None:
        """Set whether training updates the learned inverse matrix R by ``correct_inverse`` instead of gradients.

        With corrections R has no gradient. An R that is fixed stays fixed.
        """
        if self.learns_inverse:
            self.corrected = corrected
            self.inverse_weight.requires_grad_(not corrected)

    @torch.no_grad()
    def refresh_inverse(self, shape: Shape) -> None:
        """Overwrite the learned inverse with the exact inverse of the weight matrix.

        R becomes W⁻¹. Cost: O(D³).
        """
        self.inverse_weight.copy_(torch.linalg.inv(self.weight.double()))

    @torch.no_grad()
    def correct_inverse(self, directions: Tensor) -> None:
        """Make the learned inverse matrix exact on a subspace given by ``directions``, with the least change.

        The subspace is the span of W R V for the weight matrix W, the learned inverse R and the directions V.

        For directions V the matrix R becomes

            R + (S - R Y) (Y^T Y)⁻¹ Y^T    with S = R V and Y = W S

        Of all matrices with R Y = W⁻¹ Y it is the nearest to R in the Frobenius norm: a step of sketch and project
        (Gower and Richtárik 2017, Randomized quasi-Newton updates are linearly convergent matrix inversion algorithms).
        The error R - W⁻¹ loses its part in the span of Y, which is near that of V where W R is near the identity. Then
        K directions of white noise leave 1 - K / D of the square of the error, whatever the condition of W.

        Cost: four products of O(K·D²), and O(K²·D). No term in D³.

        Args:
            directions: V, ``(D, K)`` with K <= D, of full rank.
        """
        sources = self.inverse_weight @ directions
        images = self.weight @ sources
        basis, triangle = torch.linalg.qr(images)
        missing = sources - self.inverse_weight @ images
        # (Y^T Y)^-1 Y^T = T^-1 Q^T for Y = Q T.
        weights: Tensor = torch.linalg.solve_triangular(triangle, missing, upper=True, left=False)
        self.inverse_weight.addmm_(weights, basis.T)
