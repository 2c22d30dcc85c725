"""Coupling layers: half of the channels, and a context, determine a monotone map of each value of the other half.

The maps are affine with bounded scales, or rational-quadratic splines.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snf_models.bijections.autograd_calls import call
from snf_models.bijections.base import Conditional, Shape, check_context, check_images, refuse_context
from snf_models.bijections.coupling_products import CouplingProducts
from snf_models.bijections.frozen import Inverse
from snf_models.bijections.spline import Knots, check_spline, knots_of

LOG_SCALE_BOUND = 2.0
"""Bound of |log s|, so that a coupling multiplies by at most e² (Keller et al. 2021, published settings)."""

PRODUCTS_FROM_WIDTH = 64
"""Least width of a network that products train faster than convolutions, in bfloat16 on a CPU."""

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""


class CouplingNet(nn.Module):
    """Network that computes the scales and shifts of a coupling layer.

    It has 3x3, 1x1 and 3x3 convolutions with ReLUs between them. For an additive coupling it computes shifts only.

    The last layer starts at zero, so that a coupling starts as the identity.
    Cost: O(N·H·W·width·(9·in + width + 9·out)).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels of the hidden layers.
        places: Height and width of the inputs for a network that depends on the place, by a learned map that is added
            to the first convolution; None for the same network at all places and for any size.
        context: Length K of the context, of which a learned linear map is added to the first convolution; 0 for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int, places: tuple[int, int] | None = None, context: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *places)) if places is not None else None
        self.of_context = nn.Linear(context, width, bias=False) if context else None
        self.middle = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.log_gain = nn.Parameter(torch.zeros(out_channels))
        self.autocast: torch.dtype | None = None
        """Type of the convolutions in mixed-precision training, or None for the type of the input."""
        for convolution in (self.first, self.middle):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the numbers that determine the map of a coupling layer, such as log-scales and shifts.

        Args:
            x: Inputs, ``(N, in, H, W)``.
            context: Contexts, ``(N, K)``; None for a network without one.

        Returns:
            Numbers, ``(N, out, H, W)``.

        Raises:
            ValueError: The network depends on the place, and ``x`` has another height or width; or the context has
                another shape, is missing or is not expected.
        """
        check_context(context, len(x), self.of_context.in_features if self.of_context is not None else 0)
        if self.place is not None and x.shape[2:] != self.place.shape[1:]:
            height, width = self.place.shape[1:]
            raise ValueError(f"expected images of {height}x{width}, got {x.shape[2]}x{x.shape[3]}")
        products = self.training and self.autocast is not None and x.device.type == "cpu"
        wide = len(self.first.weight) >= PRODUCTS_FROM_WIDTH
        output = self._products(x) if products and wide and context is None else self._convolutions(x, context)
        # As in the original Glow: under Adam the gain enlarges the steps of the layer that starts at zero.
        return output.to(x.dtype) * torch.exp(3 * self.log_gain).view(1, -1, 1, 1)

    def _convolutions(self, x: Tensor, context: Tensor | None) -> Tensor:
        # Meta tensors, on which work is counted, have no autocast of their own.
        with torch.autocast("cpu" if x.is_meta else x.device.type, self.autocast, enabled=self.autocast is not None):
            hidden = self.first(x)
            if self.place is not None:
                hidden = hidden + self.place
            if self.of_context is not None:
                hidden = hidden + self.of_context(context)[..., None, None]
            # In place: no convolution needs its own output for the backward pass.
            hidden = F.relu_(self.middle(F.relu_(hidden)))
            output: Tensor = self.last(hidden)
        return output

    def _products(self, x: Tensor) -> Tensor:
        output: Tensor = call(
            CouplingProducts,
            x,
            self.autocast,
            self.first.weight,
            self.first.bias,
            self.place,
            self.middle.weight,
            self.middle.bias,
            self.last.weight,
            self.last.bias,
        )
        return output

    @torch.no_grad()
    def settled(self) -> tuple[Weights, Weights, Weights]:
        """Return float64 copies of the weights and biases of the network's three convolutions, for scoring.

        The learned gain is folded into the last convolution.
        """
        first, middle, (weight, bias) = (
            (layer.weight.double().clone(), _bias(layer).double().clone())
            for layer in (self.first, self.middle, self.last)
        )
        gain = torch.exp(3 * self.log_gain.double())
        return first, middle, (weight * gain.view(-1, 1, 1, 1), bias * gain)


def log_scale_and_shift(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounded log-scales 2·tanh(h/2) and shifts t for h, then t along the second axis of ``numbers``."""
    logits, shift = numbers.chunk(2, dim=1)
    return LOG_SCALE_BOUND * torch.tanh(logits / LOG_SCALE_BOUND), shift


class HalfCoupling(Conditional):
    """Base class of coupling layers: a network of half of the channels determines a map of each value of the rest.

    z1 = x1 and z2 = g(x2; h(x1, c)), where x1 and x2 are the two halves of the channels, x1 the larger one if C is odd,
    c is the context if there is one, and g is monotone in each value of x2. The log-det is Σ log g'(x2) (Dinh et al.
    2017, 3.2; with a context, Winkler et al. 2019).

    Args:
        channels: The number of channels C.
        numbers: How many numbers determine the map of a value.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        context: The length K of the context; 0 for a layer without one.
    """

    cheap_inverse: ClassVar[bool] = True

    def __init__(
        self, channels: int, numbers: int, width: int, places: tuple[int, int] | None = None, context: int = 0
    ) -> None:
        super().__init__(context)
        self.channels = channels
        self.kept = (channels + 1) // 2
        self.net = CouplingNet(self.kept, numbers * (channels - self.kept), width, places, context)

    @abstractmethod
    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return g(x2) and log g'(x2) for x2 = ``moved``, ``(N, M, H, W)``, and outputs ``numbers`` of the network."""

    @abstractmethod
    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values x2 that :meth:`transform` maps to ``moved``, and log g'(x2)."""

    def map_with_slope(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z = (x1, g(x2)) and log g'(x2) for images ``(N, C, H, W)`` and contexts ``(N, K)``."""
        kept, moved = self._halves(x)
        moved, log_slope = self.transform(moved, self.net(kept, context))
        return torch.cat([kept, moved], dim=1), log_slope

    def inverse_with_slope(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x = (z1, g⁻¹(z2)) and log g'(x2)."""
        kept, moved = self._halves(z)
        moved, log_slope = self.restore(moved, self.net(kept, context))
        return torch.cat([kept, moved], dim=1), log_slope

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_images(x, self.channels)
        return x[:, : self.kept], x[:, self.kept :]


class AffineCoupling(HalfCoupling):
    """Affine coupling layer: half of the channels determine scale and shift of the rest.

    A network of the first half, which stays as it is, gives scales and shifts (Dinh et al. 2017).

    z1 = x1 and z2 = s(x1)·x2 + t(x1), with the log-det Σ log s (Dinh et al. 2017, 3.2). x1 and x2 are the two halves of
    the channels, x1 the larger one if C is odd. A network of x1 gives h and t, and log s = 2·tanh(h/2) bounds the
    scales (Keller et al. 2021, published code). With a context c they are s(x1, c) and t(x1, c) (Winkler et al. 2019).

    Cost: that of the network, the same in both directions.

    Args:
        channels: The number of channels C.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        context: The length K of the context; 0 for a layer without one.
    """

    def __init__(self, channels: int, width: int, places: tuple[int, int] | None = None, *, context: int = 0) -> None:
        super().__init__(channels, 2, width, places, context)

    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = log_scale_and_shift(numbers)
        return moved * torch.exp(log_scale) + shift, log_scale

    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = log_scale_and_shift(numbers)
        return (moved - shift) * torch.exp(-log_scale), log_scale

    def freeze(self, shape: Shape) -> FrozenCoupling:
        """Return an immutable copy of this layer for scoring.

        Its network computes in float32 and all else in float64.

        The gain of the last layer is folded into its weights.

        Raises:
            ValueError: The layer takes a context.
        """
        refuse_context(self.context)
        first, middle, last = (
            (weight.float().contiguous(memory_format=torch.channels_last), bias.float())
            for weight, bias in self.net.settled()
        )
        place = None if self.net.place is None else self.net.place.detach().float().clone()
        return FrozenCoupling(self.kept, first, middle, last, place)


class SplineCoupling(HalfCoupling):
    """Spline coupling layer: half of the channels determine a monotone spline for each value of the rest.

    z1 = x1 and z2 = g(x2; h(x1, c)), where g is a rational-quadratic spline on [-bound, bound] and the identity outside
    (a neural spline flow with coupling layers, Durkan et al. 2019). A network of x1, the half that stays, and
    of the context c gives the widths and heights of the bins and the slopes at inner knots. The log-det is Σ log g'(x2)
    (eq. 5), and the inverse a closed form (eq. 6-8). The layer starts as the identity.

    Cost: that of the network and O(N·D·bins), the same in both directions.

    Args:
        channels: The number of channels C.
        width: Channels of the hidden layers of the network.
        places: Height and width of the images for a network that depends on the place; None for any size.
        bins: The number of bins of each spline, at least 2.
        bound: The end of the interval.
        context: The length K of the context; 0 for a layer without one.

    Raises:
        ValueError: There are fewer than 2 bins, or ``bound`` is not positive.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        places: tuple[int, int] | None = None,
        bins: int = 8,
        bound: float = 5.0,
        *,
        context: int = 0,
    ) -> None:
        check_spline(bins, bound)
        super().__init__(channels, 3 * bins - 1, width, places, context)
        self.bins = bins
        self.bound = bound

    def transform(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(Knots.map_with_slope, moved, numbers)

    def restore(self, moved: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(Knots.inverse_with_slope, moved, numbers)

    def _map(
        self, direction: Callable[[Knots, Tensor], tuple[Tensor, Tensor]], moved: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        # One spline for each value of each image: all values of the batch are those of one image.
        by_value = numbers.unflatten(1, (3 * self.bins - 1, -1)).transpose(0, 1).flatten(1).T
        widths, heights, slopes = by_value.split([self.bins, self.bins, self.bins - 1], dim=1)
        values, log_slope = direction(knots_of(widths, heights, slopes, self.bound), moved.reshape(1, -1))
        return values.view(moved.shape), log_slope.view(moved.shape)


@dataclass(frozen=True)
class FrozenCoupling:
    """Immutable affine coupling layer for scoring.

    Its network computes in float32, its 1x1 convolution optionally in bfloat16. All else is in float64.

    Attributes:
        kept: Channels of the half that is kept.
        first: Weight and bias of the first convolution.
        middle: Weight and bias of the 1x1 convolution, most of the work; may be in bfloat16 (:meth:`in_bfloat16`).
        last: Weight and bias of the last convolution.
        place: The map that is added to the result of the first convolution, ``(width, H, W)``, or None.
    """

    kept: int
    first: Weights
    middle: Weights
    last: Weights
    place: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's outputs and each pixel's contribution to the Jacobian's log-determinant.

        z is ``(N, C, H, W)``. The parts add up to log|det dz/dx| in nats, ``(N, H, W)``.
        """
        kept, moved = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, moved * log_scale.exp() + shift], dim=1), log_scale.sum(1)

    def inverse(self, z: Tensor, inverse: Inverse) -> Tensor:
        """Return the exact inputs that the layer maps to the outputs ``z``.

        ``z`` is ``(N, C, H, W)``. The layer learns no inverse, so the argument ``inverse`` has no effect.
        """
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self._scale_and_shift(kept)
        return torch.cat([kept, (moved - shift) * torch.exp(-log_scale)], dim=1)

    def in_bfloat16(self) -> FrozenCoupling:
        """Return a copy of this layer whose network computes its middle convolution in bfloat16, which is faster.

        The middle convolution is 1x1.

        This object is unchanged.

        The sums of the convolution are in float32.
        """
        weight, bias = self.middle
        return replace(self, middle=(weight.bfloat16(), bias.bfloat16()))

    def _scale_and_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        hidden = kept.float().contiguous(memory_format=torch.channels_last)
        hidden = F.conv2d(hidden, *self.first, padding=1)
        hidden = F.relu_(hidden if self.place is None else hidden + self.place)
        hidden = F.relu_(F.conv2d(hidden.to(self.middle[0].dtype), *self.middle)).float()
        return log_scale_and_shift(F.conv2d(hidden, *self.last, padding=1).double())


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
