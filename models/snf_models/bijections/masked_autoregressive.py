"""Masked autoregressive flow: each value is scaled and shifted by a function of the values before it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.base import Conditional, check_context, vectors_of
from snf_models.bijections.coupling import log_scale_and_shift


class MaskedAutoregressive(Conditional):
    """Masked autoregressive layer over all values of an image or vector (Papamakarios et al. 2017).

    z_i = s_i·x_i + t_i, where s_i and t_i are functions of the values x_1, ..., x_{i-1} before it and of the context c
    if there is one. The Jacobian is triangular, and the log-det is Σ log s_i, with log s = 2·tanh(h/2) as in an affine
    coupling. A network with two hidden layers and ReLUs gives all h and t at once. Masks of its weights keep the order
    (MADE, Germain et al. 2015): a hidden unit of degree m gets values up to the m-th, and units of degrees up to m, and
    is an input of s_i and t_i for i > m. Degrees are spread evenly. With a context there are units of degree 0, which
    depend on the context alone. The layer starts as the identity.

    Values are ordered by channel, row and column. Neighbouring layers should have different orders (``reverse``), or a
    linear layer between them. Without values before it and without a context, s_1 and t_1 are learned constants.

    Cost: O(N·width·(D + width)) for D values. The inverse takes D steps in turn, O(N·D·width²).

    Args:
        dimensions: The number of values D of an image.
        width: Units of each hidden layer. With fewer than D, neighbouring values share a degree.
        reverse: Whether the order is from the last value to the first.
        context: The length K of the context; 0 for a layer without one.

    Raises:
        ValueError: There are no values or no hidden units, or ``context`` is negative.
    """

    flat: ClassVar[bool] = True
    before: Tensor
    between: Tensor
    after: Tensor

    def __init__(self, dimensions: int, width: int, reverse: bool = False, *, context: int = 0) -> None:
        super().__init__(context)
        if min(dimensions, width) < 1:
            raise ValueError(f"expected at least one value and one hidden unit, got {dimensions} and {width}")
        self.dimensions = dimensions
        self.reverse = reverse
        self.first = nn.Linear(dimensions, width)
        self.of_context = nn.Linear(context, width, bias=False) if context else None
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * dimensions)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # Place of each value in the order, from 1, and degree of each hidden unit.
        places = torch.arange(1, dimensions + 1)
        places = places.flip(0) if reverse else places
        lowest = 0 if context or dimensions == 1 else 1
        degrees = torch.linspace(lowest, dimensions - 1, width, dtype=torch.float64).round().long()
        for name, mask in {
            "before": degrees[:, None] >= places,
            "between": degrees[:, None] >= degrees,
            "after": places.repeat(2)[:, None] > degrees,
        }.items():
            self.register_buffer(name, mask, persistent=False)

    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z and log s, both ``(N, C, H, W)`` with C·H·W = D, for images and contexts ``(N, K)``."""
        vectors = vectors_of(x, self.dimensions)
        hidden = F.linear(vectors, self.first.weight * self.before) + self._offset(x, context)
        hidden = F.linear(F.relu(hidden), self.middle.weight * self.between, self.middle.bias)
        log_scale, shift = log_scale_and_shift(F.linear(F.relu(hidden), self.last.weight * self.after, self.last.bias))
        return (vectors * torch.exp(log_scale) + shift).view(x.shape), log_scale.view(x.shape)

    def inverse_with_slope(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x and log s, both ``(N, C, H, W)``, computed value after value."""
        values = vectors_of(z, self.dimensions).split(1, dim=1)
        first, middle = (self.first.weight * self.before).unbind(1), self.middle.weight * self.between
        last = (self.last.weight * self.after).unflatten(0, (2, -1)).unbind(1)
        bias = self.last.bias.unflatten(0, (2, -1)).unbind(1)
        # Each value is added to the first hidden layer as soon as it is there.
        hidden = self._offset(z, context).expand(len(z), -1)
        found: dict[int, tuple[Tensor, Tensor]] = {}  # values and log-scales by place, each (N, 1)
        for place in reversed(range(self.dimensions)) if self.reverse else range(self.dimensions):
            inner = F.relu(F.linear(F.relu(hidden), middle, self.middle.bias))
            log_scale, shift = log_scale_and_shift(F.linear(inner, last[place], bias[place]))
            x = (values[place] - shift) * torch.exp(-log_scale)
            hidden = hidden + x * first[place]
            found[place] = x, log_scale
        x, log_scales = (torch.cat(parts, 1) for parts in zip(*(found[n] for n in sorted(found)), strict=True))
        return x.view(z.shape), log_scales.view(z.shape)

    def _offset(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return what is added to the first hidden layer beside the values: the bias, and a map of the context."""
        check_context(context, len(x), self.context)
        return self.first.bias if self.of_context is None else self.first.bias + self.of_context(context)
