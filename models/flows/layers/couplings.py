"""Descriptions of coupling layers: affine, additive and position-dependent.

The module does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from models.flows.layers.spec import ImageShape, LayerSpec, register

if TYPE_CHECKING:
    from models.bijections.base import Bijection

Width = Annotated[int, Field(ge=1, le=1024, description="Channels of the hidden layers of the coupling network.")]

# Left out of documents where it is false, so that checkpoints of earlier versions still belong to their trainings.
Place = Annotated[
    bool,
    Field(
        exclude_if=lambda place: not place,
        description="Whether the coupling network depends on the place, by a learned map for one image size.",
    ),
]


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

    def summary(self) -> str:
        """Return the layer type and the width of the coupling network as a short text."""
        return f"{self.type} of width {self.width}"

    def _of_net(self, shape: ImageShape, outputs: int) -> int:
        first, middle = self.width * (9 * ((shape[0] + 1) // 2) + 1), self.width * (self.width + 1)
        return first + middle + outputs * (9 * self.width + 2)


@register
class AffineCouplingSpec(Coupling):
    """Coupling layer in which half of the channels scale and shift the others (Dinh et al. 2017)."""

    type: Literal["affine-coupling"] = "affine-coupling"
    bijection = "models.bijections.coupling:AffineCoupling"
    place: Place = False

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the tuple of arguments that construct the coupling layer for a given image shape.

        They are the number of channels, the width, and the image size (H, W), which is None without ``place``.
        """
        return shape[0], self.width, shape[1:] if self.place else None

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Read a layer's settings: its network's width, and whether the network depends on the position.

        The layer is already built. The position is that in the image. The result is a dict with the fields ``width``
        and ``place`` of the description.
        """
        return {**super().read(layer), "place": "net.place" in dict(layer.named_parameters())}

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the network that computes the scale and the shift.

        If the network depends on the place, a map of places for each hidden channel is included.
        """
        return self._of_net(shape, 2 * (shape[0] // 2)) + self.place * self.width * shape[1] * shape[2]

    def summary(self) -> str:
        """Return the layer type and the width of the coupling network as a short text.

        The text also says whether the network depends on the place.
        """
        return f"{super().summary()}{' by place' if self.place else ''}"


@register
class AdditiveCouplingSpec(Coupling):
    """Coupling layer in which half of the channels shift the others (Dinh et al. 2015)."""

    type: Literal["additive-coupling"] = "additive-coupling"
    bijection = "models.bijections.additive_coupling:AdditiveCoupling"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the network that computes the shift."""
        return self._of_net(shape, shape[0] // 2)


@register
class PlaceCouplingSpec(Coupling):
    """Description of a layer that shifts half of the channels by a function of the other half and the pixel position.

    A network computes the shifts from the other half, and from learned numbers for each position that are the same for
    all images.
    """

    type: Literal["place-coupling"] = "place-coupling"
    bijection = "models.bijections.additive_coupling:PlaceCoupling"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer: the image shape and the width of its network."""
        return shape, self.width

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are the shift network, and a map of places for each hidden channel.
        """
        return self._of_net(shape, shape[0] // 2) + self.width * shape[1] * shape[2]
