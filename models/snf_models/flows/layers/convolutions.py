"""Descriptions of convolution layers, such as periodic and emerging convolutions.

The module does not import PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from snf_models.flows.layers.spec import ImageShape, LayerSpec, numbers, register

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection

MAX_SIDE = 15
"""Largest side of a kernel."""


def _kernel(given: object) -> object:
    sides = given if isinstance(given, list | tuple) else (given, given)
    possible = range(1, MAX_SIDE + 1, 2)
    if len(sides) != 2 or not all(type(side) is int and side in possible for side in sides):
        shown = "x".join(str(side)[:16] for side in sides[:3])
        raise ValueError(f"expected a side or a height and a width, odd and from 1 to {MAX_SIDE}, got {shown}")
    return sides[0] if sides[0] == sides[1] else tuple(sides)


Kernel = Annotated[int | tuple[int, int], BeforeValidator(_kernel)]
"""Side of a square kernel, or its height and width."""


class _Convolution(LayerSpec):
    kernel: Kernel = 3

    @property
    def sides(self) -> tuple[int, int]:
        """The height and the width of the kernel."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels, and height and width of the kernel."""
        return shape[0], self.sides

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the kernel's size."""
        return {"kernel": tuple(layer.get_parameter("weight").shape[2:])}

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a kernel and an offset."""
        return self._of_kernel(shape) + shape[0]

    def summary(self) -> str:
        """Return the type and the size of the kernel."""
        return f"{self.type} {self.sides[0]}x{self.sides[1]}"

    def _of_kernel(self, shape: ImageShape) -> int:
        return shape[0] ** 2 * self.sides[0] * self.sides[1]


class _ZeroPaddedConvolution(_Convolution):
    def matrix(self, shape: ImageShape) -> int:
        """Return the size of the band matrix, D·(3b + 1) for its half-bandwidth b, or D² if that is less."""
        channels, _, width = shape
        half = channels * (self.sides[0] // 2 * width + self.sides[1] // 2) + channels - 1
        return numbers(shape) * min(3 * half + 1, numbers(shape))


@register
class ExactConvolutionSpec(_ZeroPaddedConvolution):
    """Zero-padded k x k convolution with an exact log-determinant and gradient."""

    type: Literal["exact-convolution"] = "exact-convolution"
    bijection = "snf_models.bijections.convolution:ExactConv"


@register
class SelfNormalizingConvolutionSpec(_ZeroPaddedConvolution):
    """k x k convolution that learns a second kernel as its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-convolution"] = "self-normalizing-convolution"
    bijection = "snf_models.bijections.convolution:SelfNormalizingConv"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are two kernels, and an offset for each channel.
        """
        return 2 * self._of_kernel(shape) + shape[0]


@register
class TwoLayerInverseConvolutionSpec(_ZeroPaddedConvolution):
    """k x k convolution whose inverse is learned as two further convolutions."""

    type: Literal["two-layer-inverse-convolution"] = "two-layer-inverse-convolution"
    bijection = "snf_models.bijections.two_layer_inverse:TwoLayerInverseConv"

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are three kernels, and an offset for each channel.
        """
        return 3 * self._of_kernel(shape) + shape[0]


@register
class PeriodicConvolutionSpec(_Convolution):
    """k x k convolution that wraps around the border of the image (Hoogeboom et al. 2019)."""

    type: Literal["periodic-convolution"] = "periodic-convolution"
    bijection = "snf_models.bijections.periodic:PeriodicConv"

    def check(self, shape: ImageShape) -> None:
        """Check that the images are not smaller than the kernel.

        Raises ``ValueError`` otherwise.
        """
        height, width = self.sides
        if shape[1] < height or shape[2] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {shape[1]}x{shape[2]}")

    def matrix(self, shape: ImageShape) -> int:
        """Return the total number of real values in the layer's matrices, over all Fourier frequencies.

        Each frequency has a C x C matrix; a complex number counts as two values.
        """
        return 2 * shape[0] ** 2 * shape[1] * (shape[2] // 2 + 1)


@register
class ExponentialConvolutionSpec(_Convolution):
    """1x1 convolution followed by the exponential of a k x k convolution (Hoogeboom et al. 2020)."""

    type: Literal["exponential-convolution"] = "exponential-convolution"
    bijection = "snf_models.bijections.exponential:ExponentialConv"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer: the image shape and the kernel size.

        The kernel size is a height and a width.
        """
        return shape, self.sides

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        These are a kernel, a channel matrix, and two offsets for each value of an image.
        """
        return self._of_kernel(shape) + shape[0] ** 2 + 2 * numbers(shape)

    def matrix(self, shape: ImageShape) -> int:
        """Return the total number of real values in the layer's matrices, over all Fourier frequencies.

        Each frequency of a padded image has a C x C matrix; a complex number counts as two values. The norms of the
        matrices bound the terms of the series.
        """
        grown = shape[1] + self.sides[0] - 1, shape[2] + self.sides[1] - 1
        return 2 * shape[0] ** 2 * grown[0] * (grown[1] // 2 + 1)


@register
class AutoregressiveConvolutionSpec(LayerSpec):
    """Convolution of each pixel with its upper and left neighbours (Hoogeboom et al. 2019)."""

    type: Literal["autoregressive-convolution"] = "autoregressive-convolution"
    bijection = "snf_models.bijections.emerging:AutoregressiveConv"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer, here only the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        It is 4 C², a 2x2 kernel for each pair of channels.
        """
        return 4 * shape[0] ** 2


@register
class EmergingConvolutionSpec(LayerSpec):
    """1x1 convolution and two autoregressive convolutions (Hoogeboom et al. 2019).

    Together they have a receptive field of 3x3 pixels.
    """

    type: Literal["emerging-convolution"] = "emerging-convolution"
    bijection = "snf_models.bijections.emerging:EmergingConv"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the arguments that construct the layer, here only the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of this layer for inputs of a given image shape.

        It is C (9 C + 1), for a 1x1 convolution with offset and two 2x2 kernels.
        """
        return shape[0] * (9 * shape[0] + 1)
