"""Descriptions of activation and normalisation layers.

The module does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from snf_models.flows.layers.spec import Bins, Bound, ImageShape, LayerSpec, numbers, register

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection


@register
class ActNormSpec(LayerSpec):
    """Layer with a learned scale and shift of each channel (Kingma & Dhariwal 2018).

    They are set from the first images.
    """

    type: Literal["actnorm"] = "actnorm"
    bijection = "snf_models.bijections.actnorm:ActNorm"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer, here only the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        It is 2 C, a scale and an offset for each channel.
        """
        return 2 * shape[0]


@register
class SplineSpec(LayerSpec):
    """Activation that applies a separate learned monotone spline to each value of an image (Durkan et al. 2019)."""

    type: Literal["spline"] = "spline"
    bijection = "snf_models.bijections.spline:SplineActivation"
    bins: Bins = 5
    bound: Bound = 10.0

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the constructor arguments of the spline activation for inputs of a given image shape.

        They are the shape of the images, the number of bins and the end of the interval.
        """
        return shape, self.bins, self.bound

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the number of bins and the spline interval of a built spline layer, as a dict.

        The interval is given by its end.
        """
        return {"bins": layer.get_parameter("widths").shape[-1], "bound": layer.bound}

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are widths, heights and inner slopes of the bins, for each value of an image.
        """
        return numbers(shape) * (3 * self.bins - 1)


@register
class SmoothLeakyReLUSpec(LayerSpec):
    """Smooth leaky ReLU with slopes from ``alpha`` to 1 (Gresele et al. 2020)."""

    type: Literal["smooth-leaky-relu"] = "smooth-leaky-relu"
    bijection = "snf_models.bijections.smooth_leaky_relu:SmoothLeakyReLU"
    alpha: float = Field(0.3, ge=0.01, lt=1, description="Slope for large negative values.")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the only constructor argument of the activation, its slope for large negative values."""
        return (self.alpha,)

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the setting ``alpha`` of an existing activation layer, as a dict with this one key.

        It is the slope of the activation function for large negative inputs.
        """
        return {"alpha": layer.alpha}
