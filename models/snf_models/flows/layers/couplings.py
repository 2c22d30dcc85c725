"""Descriptions of coupling layers, and of the masked autoregressive layer.

The module does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from snf_models.flows.layers.spec import Bins, Bound, ImageShape, LayerSpec, numbers, register

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection

Width = Annotated[int, Field(ge=1, le=1024, description="Channels of the hidden layers of the coupling network.")]

# Left out of documents where it is false, so that checkpoints of earlier versions still belong to their trainings.
Place = Annotated[
    bool,
    Field(
        exclude_if=lambda place: not place,
        description="Whether the coupling network depends on the place, by a learned map for one image size.",
    ),
]

MAX_ORDERED = 4096
"""Most values of a masked autoregressive layer."""


class Coupling(LayerSpec):
    """Base class for descriptions of coupling layers.

    A coupling has a network of a given width.
    """

    width: Width

    def check(self, shape: ImageShape) -> None:
        """Raise ``ValueError`` if images have fewer than 2 channels, too few for a coupling layer to split."""
        if shape[0] < 2:
            raise ValueError(f"expected at least 2 channels to couple, got {shape[0]}; squeeze first")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer: the number of channels and the width of its network."""
        return shape[0], self.width

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the one setting of a built coupling layer, the ``width`` of its network, as a dict."""
        return {"width": layer.get_parameter("net.first.weight").shape[0]}

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the coupling network."""
        first, middle = self.width * (9 * ((shape[0] + 1) // 2) + 1), self.width * (self.width + 1)
        return first + middle + self._numbers() * (shape[0] // 2) * (9 * self.width + 2)

    def summary(self) -> str:
        """Return the layer type and the width of the coupling network as a short text."""
        return f"{self.type} of width {self.width}"

    def _numbers(self) -> int:
        """Return how many numbers determine the map of a value."""
        return 2


class _ByPlace(Coupling):
    """Base class for descriptions of couplings whose network may depend on the place."""

    place: Place = False

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return channels, width, and the image size (H, W), which is None without ``place``."""
        return *super().arguments(shape), shape[1:] if self.place else None

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        return {**super().read(layer), "place": "net.place" in dict(layer.named_parameters())}

    def parameters(self, shape: ImageShape) -> int:
        """Return those of the network, with ``place`` a map of places for each hidden channel included."""
        return super().parameters(shape) + self.place * self.width * shape[1] * shape[2]

    def summary(self) -> str:
        return f"{super().summary()}{' by place' if self.place else ''}"


@register
class AffineCouplingSpec(_ByPlace):
    """Coupling layer in which half of the channels scale and shift the others (Dinh et al. 2017)."""

    type: Literal["affine-coupling"] = "affine-coupling"
    bijection = "snf_models.bijections.coupling:AffineCoupling"


@register
class SplineCouplingSpec(_ByPlace):
    """Coupling layer in which half of the channels give a monotone spline for each other value (Durkan et al. 2019)."""

    type: Literal["spline-coupling"] = "spline-coupling"
    bijection = "snf_models.bijections.coupling:SplineCoupling"
    bins: Bins = 8
    bound: Bound = 5.0

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        return *super().arguments(shape), self.bins, self.bound

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        return {**super().read(layer), "bins": layer.bins, "bound": layer.bound}

    def _numbers(self) -> int:
        return 3 * self.bins - 1


@register
class MaskedAutoregressiveSpec(LayerSpec):
    """Layer that scales and shifts each value by a function of all values before it (Papamakarios et al. 2017).

    Scoring takes one pass of its network, sampling one for each value.
    """

    type: Literal["masked-autoregressive"] = "masked-autoregressive"
    bijection = "snf_models.bijections.masked_autoregressive:MaskedAutoregressive"
    width: Width
    reverse: bool = Field(False, description="Whether the order is from the last value to the first.")

    def check(self, shape: ImageShape) -> None:
        """Raise ``ValueError`` if images have more than 4096 values, each of which is a step of sampling."""
        if numbers(shape) > MAX_ORDERED:
            raise ValueError(f"expected images of at most {MAX_ORDERED} values, got {numbers(shape)}; split before it")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        return numbers(shape), self.width, self.reverse

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        return {"width": layer.get_parameter("middle.weight").shape[0], "reverse": layer.reverse}

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the network, masked weights included."""
        values = numbers(shape)
        return self.width * (values + 1) + self.width * (self.width + 1) + 2 * values * (self.width + 1)

    def summary(self) -> str:
        return f"{self.type} of width {self.width}{', reversed' if self.reverse else ''}"


@register
class AdditiveCouplingSpec(Coupling):
    """Coupling layer in which half of the channels shift the others (Dinh et al. 2015)."""

    type: Literal["additive-coupling"] = "additive-coupling"
    bijection = "snf_models.bijections.additive_coupling:AdditiveCoupling"

    def _numbers(self) -> int:
        return 1


@register
class PlaceCouplingSpec(Coupling):
    """Description of a layer that shifts half of the channels by a function of the other half and the pixel position.

    A network computes the shifts from the other half, and from learned numbers for each position that are the same for
    all images.
    """

    type: Literal["place-coupling"] = "place-coupling"
    bijection = "snf_models.bijections.additive_coupling:PlaceCoupling"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer: the image shape and the width of its network."""
        return shape, self.width

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are the shift network, and a map of places for each hidden channel.
        """
        return super().parameters(shape) + self.width * shape[1] * shape[2]

    def _numbers(self) -> int:
        return 1
