"""The layer types of this project: a description for each bijection that can be a step of a flow. Free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.flows.layer_spec import ImageShape, LayerSpec, register

if TYPE_CHECKING:
    from models.bijections.base import Bijection

Width = Annotated[int, Field(ge=1, le=1024, description="Channels of the hidden layers of the coupling network.")]
Rank = Annotated[int, Field(ge=1, le=1024)]


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


def _numbers(shape: ImageShape) -> int:
    return shape[0] * shape[1] * shape[2]


@register
class ActNormSpec(LayerSpec):
    """A scale and a shift for each channel, set from the first images (Kingma & Dhariwal 2018)."""

    type: Literal["actnorm"] = "actnorm"
    bijection = "models.bijections.actnorm:ActNorm"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return 2 C."""
        return 2 * shape[0]


@register
class SqueezeSpec(LayerSpec):
    """2x2 pixels become channels. A level that starts with a squeeze says so by itself."""

    type: Literal["squeeze"] = "squeeze"
    bijection = "models.bijections.squeeze:Squeeze"

    def check(self, shape: ImageShape) -> None:
        """Refuse odd sides."""
        if shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"expected images with even sides, got {shape[1]}x{shape[2]}")

    def output_shape(self, shape: ImageShape) -> ImageShape:
        """Return (4 C, H / 2, W / 2)."""
        return 4 * shape[0], shape[1] // 2, shape[2] // 2


class _OneByOne(LayerSpec):
    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return C² + C: a matrix and an offset."""
        return shape[0] * (shape[0] + 1)


@register
class ExactOneByOneSpec(_OneByOne):
    """1x1 convolution with an exact log-det and gradient."""

    type: Literal["exact-1x1"] = "exact-1x1"
    bijection = "models.bijections.conv1x1:ExactConv1x1"


@register
class LUOneByOneSpec(_OneByOne):
    """1x1 convolution as triangular factors (Kingma & Dhariwal 2018)."""

    type: Literal["lu-1x1"] = "lu-1x1"
    bijection = "models.bijections.conv1x1:LUConv1x1"


@register
class SelfNormalizingOneByOneSpec(_OneByOne):
    """1x1 convolution that learns its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-1x1"] = "self-normalizing-1x1"
    bijection = "models.bijections.conv1x1:SelfNormalizingConv1x1"

    def parameters(self, shape: ImageShape) -> int:
        """Return 2 C² + C: the matrix, its learned inverse, an offset."""
        return shape[0] * (2 * shape[0] + 1)


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
        return _numbers(shape) * min(3 * half + 1, _numbers(shape))


@register
class ExactConvolutionSpec(_ZeroPaddedConvolution):
    """k x k convolution with zero padding, and an exact log-det and gradient."""

    type: Literal["exact-convolution"] = "exact-convolution"
    bijection = "models.bijections.convolution:ExactConv"


@register
class SelfNormalizingConvolutionSpec(_ZeroPaddedConvolution):
    """k x k convolution that learns a kernel as its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-convolution"] = "self-normalizing-convolution"
    bijection = "models.bijections.convolution:SelfNormalizingConv"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of two kernels and an offset."""
        return 2 * self._of_kernel(shape) + shape[0]


@register
class TwoLayerInverseConvolutionSpec(_ZeroPaddedConvolution):
    """k x k convolution that learns two kernels as its inverse."""

    type: Literal["two-layer-inverse-convolution"] = "two-layer-inverse-convolution"
    bijection = "models.bijections.two_layer_inverse:TwoLayerInverseConv"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of three kernels and an offset."""
        return 3 * self._of_kernel(shape) + shape[0]


@register
class PeriodicConvolutionSpec(_Convolution):
    """k x k convolution that wraps around the border of the image (Hoogeboom et al. 2019)."""

    type: Literal["periodic-convolution"] = "periodic-convolution"
    bijection = "models.bijections.periodic:PeriodicConv"

    def check(self, shape: ImageShape) -> None:
        """Refuse images that are smaller than the kernel."""
        height, width = self.sides
        if shape[1] < height or shape[2] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {shape[1]}x{shape[2]}")

    def matrix(self, shape: ImageShape) -> int:
        """Return the size of a complex matrix for each frequency."""
        return 2 * shape[0] ** 2 * shape[1] * (shape[2] // 2 + 1)


@register
class ExponentialConvolutionSpec(_Convolution):
    """1x1 convolution and the matrix exponential of a k x k convolution (Hoogeboom et al. 2020)."""

    type: Literal["exponential-convolution"] = "exponential-convolution"
    bijection = "models.bijections.exponential:ExponentialConv"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images, and height and width of the kernel."""
        return shape, self.sides

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a kernel, a matrix of the channels, and two offsets for each value."""
        return self._of_kernel(shape) + shape[0] ** 2 + 2 * _numbers(shape)

    def matrix(self, shape: ImageShape) -> int:
        """Return the size of a complex matrix for each frequency, whose norms bound the series."""
        grown = shape[1] + self.sides[0] - 1, shape[2] + self.sides[1] - 1
        return 2 * shape[0] ** 2 * grown[0] * (grown[1] // 2 + 1)


@register
class AutoregressiveConvolutionSpec(LayerSpec):
    """Convolution of each pixel with its upper and left neighbours (Hoogeboom et al. 2019)."""

    type: Literal["autoregressive-convolution"] = "autoregressive-convolution"
    bijection = "models.bijections.emerging:AutoregressiveConv"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels."""
        return (shape[0],)

    def parameters(self, shape: ImageShape) -> int:
        """Return 4 C²: a 2x2 kernel."""
        return 4 * shape[0] ** 2


@register
class EmergingConvolutionSpec(_OneByOne):
    """1x1 convolution and two over neighbours, with a receptive field of 3x3 (Hoogeboom et al. 2019)."""

    type: Literal["emerging-convolution"] = "emerging-convolution"
    bijection = "models.bijections.emerging:EmergingConv"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a 1x1 convolution and of two 2x2 kernels."""
        return super().parameters(shape) + 8 * shape[0] ** 2


@register
class WoodburySpec(LayerSpec):
    """The identity plus a mixing of low rank of channels and of pixels (Lu & Huang 2020)."""

    type: Literal["woodbury"] = "woodbury"
    bijection = "models.bijections.woodbury:WoodburyConv"
    channel_rank: Rank = 2
    spatial_rank: Rank = 4

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images and both ranks."""
        return shape, self.channel_rank, self.spatial_rank

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return both ranks."""
        ranks = (layer.get_parameter(name).shape[1] for name in ("channel_left", "spatial_left"))
        return dict(zip(("channel_rank", "spatial_rank"), ranks, strict=True))

    def parameters(self, shape: ImageShape) -> int:
        """Return those of the four factors."""
        return 2 * (shape[0] * self.channel_rank + shape[1] * shape[2] * self.spatial_rank)

    def summary(self) -> str:
        """Return the type and both ranks."""
        return f"{self.type} of ranks {self.channel_rank} and {self.spatial_rank}"


class _Dense(LayerSpec):
    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of values of an image."""
        return (_numbers(shape),)

    def parameters(self, shape: ImageShape) -> int:
        """Return D² + D: a matrix and an offset."""
        return _numbers(shape) * (_numbers(shape) + 1)


@register
class ExactDenseSpec(_Dense):
    """Matrix over the whole image, with an exact log-det and gradient."""

    type: Literal["exact-dense"] = "exact-dense"
    bijection = "models.bijections.dense:ExactDense"


@register
class SelfNormalizingDenseSpec(_Dense):
    """Matrix over the whole image that learns its inverse (Keller et al. 2021)."""

    type: Literal["self-normalizing-dense"] = "self-normalizing-dense"
    bijection = "models.bijections.dense:SelfNormalizingDense"

    def parameters(self, shape: ImageShape) -> int:
        """Return 2 D² + D: the matrix, its learned inverse, an offset."""
        return _numbers(shape) * (2 * _numbers(shape) + 1)


@register
class RelativeDenseSpec(_Dense):
    """Matrix over the whole image, trained by the relative gradient (Gresele et al. 2020)."""

    type: Literal["relative-dense"] = "relative-dense"
    bijection = "models.bijections.dense:RelativeGradientDense"


class _LocalAffine(LayerSpec):
    grid: int = Field(4, ge=1, le=16, description="Cells along each side, each with a matrix of its own.")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images and the grid."""
        return shape, self.grid

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the grid."""
        return {"grid": layer.grid}

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a matrix for each cell and a mean for each value."""
        return self._of_matrices(shape) + _numbers(shape)

    def summary(self) -> str:
        """Return the type and the grid."""
        return f"{self.type} on a {self.grid}x{self.grid} grid"

    def _of_matrices(self, shape: ImageShape) -> int:
        return min(self.grid, shape[1]) * min(self.grid, shape[2]) * shape[0] ** 2


@register
class ExactLocalAffineSpec(_LocalAffine):
    """A matrix of the channels for each cell of a grid, and a mean for each place."""

    type: Literal["exact-local-affine"] = "exact-local-affine"
    bijection = "models.bijections.local_affine:ExactLocalAffine"


@register
class SelfNormalizingLocalAffineSpec(_LocalAffine):
    """The same with a learned inverse of each matrix."""

    type: Literal["self-normalizing-local-affine"] = "self-normalizing-local-affine"
    bijection = "models.bijections.local_affine:SelfNormalizingLocalAffine"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of two matrices for each cell and a mean for each value."""
        return super().parameters(shape) + self._of_matrices(shape)


@register
class SplineSpec(LayerSpec):
    """Activation by a learned monotone spline for each value (Durkan et al. 2019)."""

    type: Literal["spline"] = "spline"
    bijection = "models.bijections.spline:SplineActivation"
    bins: int = Field(5, ge=2, le=64)
    bound: float = Field(10.0, ge=0.1, le=1000, description="End of the interval; the identity outside.")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images, the number of bins and the end of the interval."""
        return shape, self.bins, self.bound

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the number of bins and the end of the interval."""
        return {"bins": layer.get_parameter("widths").shape[-1], "bound": layer.bound}

    def parameters(self, shape: ImageShape) -> int:
        """Return those of widths, heights and inner slopes of the bins."""
        return _numbers(shape) * (3 * self.bins - 1)


@register
class SmoothLeakyReLUSpec(LayerSpec):
    """Smooth activation with slopes from alpha to 1 (Gresele et al. 2020)."""

    type: Literal["smooth-leaky-relu"] = "smooth-leaky-relu"
    bijection = "models.bijections.smooth_leaky_relu:SmoothLeakyReLU"
    alpha: float = Field(0.3, ge=0.01, lt=1, description="Slope for large negative values.")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the slope."""
        return (self.alpha,)

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the slope."""
        return {"alpha": layer.alpha}


class _Coupling(LayerSpec):
    width: Width

    def check(self, shape: ImageShape) -> None:
        """Refuse a single channel."""
        if shape[0] < 2:
            raise ValueError(f"expected at least 2 channels to couple, got {shape[0]}; squeeze first")

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the number of channels and the width."""
        return shape[0], self.width

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the width."""
        return {"width": layer.get_parameter("net.first.weight").shape[0]}

    def summary(self) -> str:
        """Return the type and the width."""
        return f"{self.type} of width {self.width}"

    def _of_net(self, shape: ImageShape, outputs: int) -> int:
        first, middle = self.width * (9 * ((shape[0] + 1) // 2) + 1), self.width * (self.width + 1)
        return first + middle + outputs * (9 * self.width + 2)


@register
class AffineCouplingSpec(_Coupling):
    """Half of the channels scale and shift the others (Dinh et al. 2017)."""

    type: Literal["affine-coupling"] = "affine-coupling"
    bijection = "models.bijections.coupling:AffineCoupling"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a network that gives a scale and a shift."""
        return self._of_net(shape, 2 * (shape[0] // 2))


@register
class AdditiveCouplingSpec(_Coupling):
    """Half of the channels shift the others (Dinh et al. 2015)."""

    type: Literal["additive-coupling"] = "additive-coupling"
    bijection = "models.bijections.additive_coupling:AdditiveCoupling"

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a network that gives a shift."""
        return self._of_net(shape, shape[0] // 2)


@register
class PlaceCouplingSpec(_Coupling):
    """Half of the channels shift the others, by a network that depends on the place."""

    type: Literal["place-coupling"] = "place-coupling"
    bijection = "models.bijections.additive_coupling:PlaceCoupling"

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the shape of the images and the width."""
        return shape, self.width

    def parameters(self, shape: ImageShape) -> int:
        """Return those of a network that gives a shift, and of a map for each hidden channel."""
        return self._of_net(shape, shape[0] // 2) + self.width * shape[1] * shape[2]
