"""Descriptions of layers, and the registry of layer types. The module does not import PyTorch.

A layer type is a subclass of :class:`LayerSpec`, which its class statement declares. Other packages add types by an
entry point in the group ``snf_density.layers``, whose name is the type and whose object is the subclass. A file only
ever gives the name of a type.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection

    BijectionClass: TypeAlias = type[Bijection]

GROUP = "snf_density.layers"  # group of the entry points by which installed packages add layer types

MAX_CHARACTERS = 100  # longest name of a type to which another one is sought
ImageShape = tuple[int, int, int]  # channels, height and width
_types: dict[str, type[LayerSpec]] = {}


def numbers(shape: ImageShape) -> int:
    return shape[0] * shape[1] * shape[2]


class LayerSpec(BaseModel):
    """Description of a layer by its type and its settings, from which it is built for images of a shape.

    A layer keeps the shape of its images: only the squeeze at the start of a level changes it. A subclass names its
    type and its bijection, and has the settings as bounded fields::

        class HouseholderSpec(LayerSpec, type="householder-1x1", bijection=Householder):
            reflections: int = Field(2, ge=1, le=64)

            def parameters(self, shape: ImageShape) -> int:
                return self.reflections * shape[0]

    The bijection is constructed from what its signature names: the settings, and ``channels``, ``dimensions`` or
    ``shape`` of the images. Its attributes of these names describe it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str = ""
    bijection: ClassVar[BijectionClass | str]
    """The class that is built, or "module:Class" to import it with PyTorch; ".module:Class" is one of this project."""
    copies: ClassVar[int] = 1
    """Matrices or kernels of a linear layer, those of its learned inverse included."""

    def __init_subclass__(
        cls, *, type: str = "", bijection: BijectionClass | str = "", copies: int = 1, **settings: Any
    ) -> None:
        super().__init_subclass__(**settings)
        if type:
            if (other := _types.setdefault(type, cls)) is not cls:
                raise ValueError(f"expected a new name of a layer type, got {type!r}, which {other.__name__} has")
            cls.type, cls.bijection, cls.copies = type, bijection, copies

    @classmethod
    def type_name(cls) -> str:
        """Return the name of the layer type, such as ``actnorm``; files give it as ``type``."""
        name: str = cls.model_fields["type"].default
        return name

    @classmethod
    def bijection_class(cls) -> BijectionClass:
        named = cls.bijection
        if isinstance(named, str):
            named = pkgutil.resolve_name(f"snf_models.bijections{named}" if named.startswith(".") else named)
        return named

    def check(self, shape: ImageShape) -> None:
        """Raise ``ValueError``, "expected ..., got ...", if the layer cannot take images of the shape."""

    def arguments(self, shape: ImageShape) -> dict[str, Any]:
        """Return what the bijection may be constructed from, by the names in its signature."""
        return {"channels": shape[0], "dimensions": numbers(shape), "shape": shape, **dict(self)}

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters, which limits the size of a flow before it is built."""
        return 0

    def matrix(self, shape: ImageShape) -> int:
        """Return the number of elements of the largest matrix that computations need, weights aside."""
        return 0

    def build(self, shape: ImageShape, context: int = 0) -> Bijection:
        """Build a new layer, with weights from torch's global generator.

        It depends on a context of some length if layers of this type can take one. Descriptions have no context,
        because trainings have none: a flow with a context is for the library alone.
        """
        bijection = self.bijection_class()
        given = {**self.arguments(shape), "context": context}
        return bijection(**{name: given[name] for name in inspect.signature(bijection).parameters if name in given})

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        """Return the settings of a built layer by field; by default its numbers and texts of the same names."""
        held = {name: getattr(layer, name, None) for name in cls.model_fields if name != "type"}
        return {name: value for name, value in held.items() if isinstance(value, int | float | str)}

    @classmethod
    def of(cls, layer: Bijection) -> Self | None:
        """Return the description of a built layer, or None if it is of another type."""
        return cls(**cls.read(layer)) if type(layer) is cls.bijection_class() else None

    def summary(self) -> str:
        """Return a short text, such as ``self-normalizing-convolution 5x5``; by default the type."""
        return self.type


def layer_types() -> Iterator[type[LayerSpec]]:
    """Yield every layer type: those of this process, then those of installed packages."""
    known = dict(_types)
    yield from known.values()
    for entry in entry_points(group=GROUP):
        if entry.name not in known:
            yield _load(entry)


def linear_types(kind: str) -> dict[str, type[LayerSpec]]:
    """Return the linear layer types of this process, such as ``lu-1x1`` by the name ``lu`` for the kind "1x1"."""
    ending = f"-{kind}"
    return {name.removesuffix(ending): layer for name, layer in _types.items() if name.endswith(ending)}


def find_layer_type(name: str) -> type[LayerSpec]:
    """Return a layer type; raise ``ValueError``, which lists the types and names the most similar one."""
    if name in _types:
        return _types[name]
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in installed:
        return _load(installed[name])
    known = sorted({*_types, *installed})
    similar = get_close_matches(name, known, n=1) if len(name) <= MAX_CHARACTERS else []
    meant = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ValueError(f"expected a layer type of {', '.join(known)}, got {name[:64]!r}{meant}")


def describe_layer(layer: Bijection) -> LayerSpec:
    """Return the description of a built layer; raise ``ValueError`` if its class belongs to no type."""
    for layer_type in layer_types():
        described = layer_type.of(layer)
        if described is not None:
            return described
    raise ValueError(
        f"expected a layer of a registered type, got {type(layer).__name__}; declare a LayerSpec for it, "
        f"or install one by an entry point in the group {GROUP}"
    )


def _load(entry: EntryPoint) -> type[LayerSpec]:
    try:
        loaded: object = entry.load()
    except Exception as error:
        # The package is somebody else's: whatever its import raises is the reason that the type is missing.
        raise ValueError(f"the layer type {entry.name!r} cannot be imported from {entry.value}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, LayerSpec) and loaded.type_name() == entry.name):
        raise ValueError(f"expected {entry.value} to be a LayerSpec whose type is {entry.name!r}, got {loaded!r}")
    return loaded


def parse_layer(value: object) -> object:
    """Convert a dict with the type and settings of a layer; raise ``ValueError`` if it is not valid."""
    if isinstance(value, LayerSpec):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ValueError('expected a layer with its type, such as {"type": "actnorm"}')
    return find_layer_type(value["type"]).model_validate(value)


AnyLayer = Annotated[SerializeAsAny[LayerSpec], BeforeValidator(parse_layer)]
"""A layer of any type, validated by the class of its type."""

Bins = Annotated[int, Field(ge=2, le=64, description="Bins of each spline.")]
Bound = Annotated[float, Field(ge=0.1, le=1000, description="End of the interval; the identity outside.")]
Rank = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[int, Field(ge=1, le=1024, description="Channels of the hidden layers of the coupling network.")]
# Left out of documents where it is false, so that checkpoints of earlier versions still belong to their trainings.
Place = Annotated[
    bool,
    Field(
        exclude_if=lambda place: not place,
        description="Whether the coupling network depends on the place, by a learned map for one image size.",
    ),
]


class ActNormSpec(LayerSpec, type="actnorm", bijection=".channels:ActNorm"):
    """Layer with a learned scale and shift of each channel, set from the first images (Kingma & Dhariwal 2018)."""

    def parameters(self, shape: ImageShape) -> int:
        return 2 * shape[0]


class SplineSpec(LayerSpec, type="spline", bijection=".activations:SplineActivation"):
    """Activation that applies a separate learned monotone spline to each value of an image (Durkan et al. 2019)."""

    bins: Bins = 5
    bound: Bound = 10.0

    def parameters(self, shape: ImageShape) -> int:
        return numbers(shape) * (3 * self.bins - 1)


class SmoothLeakyReLUSpec(LayerSpec, type="smooth-leaky-relu", bijection=".activations:SmoothLeakyReLU"):
    """Smooth leaky ReLU with slopes from ``alpha`` to 1 (Gresele et al. 2020)."""

    alpha: float = Field(0.3, ge=0.01, lt=1, description="Slope for large negative values.")


class _OneByOne(LayerSpec):
    def parameters(self, shape: ImageShape) -> int:
        return shape[0] * (self.copies * shape[0] + 1)


class ExactOneByOneSpec(_OneByOne, type="exact-1x1", bijection=".channels:ExactConv1x1"):
    """1x1 convolution with an exact log-determinant and gradient."""


class SelfNormalizingOneByOneSpec(
    _OneByOne, type="self-normalizing-1x1", bijection=".channels:SelfNormalizingConv1x1", copies=2
):
    """1x1 convolution that learns its inverse (Keller et al. 2021)."""


class LUOneByOneSpec(_OneByOne, type="lu-1x1", bijection=".channels:LUConv1x1"):
    """1x1 convolution whose matrix is stored as triangular factors (Kingma & Dhariwal 2018)."""


class WoodburySpec(LayerSpec, type="woodbury", bijection=".dense:WoodburyConv"):
    """Layer that mixes channels and pixels by low-rank matrices (Lu & Huang 2020)."""

    channel_rank: Rank = 2
    spatial_rank: Rank = 4

    def parameters(self, shape: ImageShape) -> int:
        return 2 * (shape[0] * self.channel_rank + shape[1] * shape[2] * self.spatial_rank)

    def summary(self) -> str:
        return f"{self.type} of ranks {self.channel_rank} and {self.spatial_rank}"


class ExactDenseSpec(LayerSpec, type="exact-dense", bijection=".dense:ExactDense"):
    """Fully connected layer over the whole image, with an exact log-determinant and gradient."""

    def parameters(self, shape: ImageShape) -> int:
        return numbers(shape) * (self.copies * numbers(shape) + 1)


class SelfNormalizingDenseSpec(
    ExactDenseSpec, type="self-normalizing-dense", bijection=".dense:SelfNormalizingDense", copies=2
):
    """Fully connected layer over the whole image that learns a second matrix as its inverse (Keller et al. 2021)."""


class RelativeDenseSpec(ExactDenseSpec, type="relative-dense", bijection=".dense:RelativeGradientDense"):
    """Fully connected layer that is trained by the relative gradient (Gresele et al. 2020)."""


class ExactLocalAffineSpec(LayerSpec, type="exact-local-affine", bijection=".local_affine:ExactLocalAffine"):
    """Affine layer with a separate channel-mixing matrix for each rectangular region of the image."""

    grid: int = Field(4, ge=1, le=16, description="Cells along each side, each with a matrix of its own.")

    def parameters(self, shape: ImageShape) -> int:
        cells = min(self.grid, shape[1]) * min(self.grid, shape[2])
        return self.copies * cells * shape[0] ** 2 + numbers(shape)

    def summary(self) -> str:
        return f"{self.type} on a {self.grid}x{self.grid} grid"


class SelfNormalizingLocalAffineSpec(
    ExactLocalAffineSpec,
    type="self-normalizing-local-affine",
    bijection=".local_affine:SelfNormalizingLocalAffine",
    copies=2,
):
    """Affine layer that mixes the channels differently in each image region and learns its own inverse."""


MAX_SIDE = 15  # largest side of a kernel


def _kernel(given: object) -> object:
    sides = given if isinstance(given, list | tuple) else (given, given)
    possible = range(1, MAX_SIDE + 1, 2)
    if len(sides) != 2 or not all(type(side) is int and side in possible for side in sides):
        shown = "x".join(str(side)[:16] for side in sides[:3])
        raise ValueError(f"expected a side or a height and a width, odd and from 1 to {MAX_SIDE}, got {shown}")
    return sides[0] if sides[0] == sides[1] else tuple(sides)


Kernel = Annotated[int | tuple[int, int], BeforeValidator(_kernel)]  # side of a square kernel, or its height and width


class _Convolution(LayerSpec):
    kernel: Kernel = 3

    @property
    def sides(self) -> tuple[int, int]:
        """The height and the width of the kernel."""
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    def arguments(self, shape: ImageShape) -> dict[str, Any]:
        return {**super().arguments(shape), "kernel": self.sides}

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:
        return {"kernel": tuple(layer.get_parameter("weight").shape[2:])}

    def parameters(self, shape: ImageShape) -> int:
        return self.copies * self._of_kernel(shape) + shape[0]

    def summary(self) -> str:
        return f"{self.type} {self.sides[0]}x{self.sides[1]}"

    def _of_kernel(self, shape: ImageShape) -> int:
        return shape[0] ** 2 * self.sides[0] * self.sides[1]


class ExactConvolutionSpec(_Convolution, type="exact-convolution", bijection=".convolution:ExactConv"):
    """Zero-padded k x k convolution with an exact log-determinant and gradient."""

    def matrix(self, shape: ImageShape) -> int:
        """Count the band matrix, D·(3b + 1) for its half-bandwidth b, or D² if that is less."""
        channels, _, width = shape
        half = channels * (self.sides[0] // 2 * width + self.sides[1] // 2) + channels - 1
        return numbers(shape) * min(3 * half + 1, numbers(shape))


class SelfNormalizingConvolutionSpec(
    ExactConvolutionSpec, type="self-normalizing-convolution", bijection=".convolution:SelfNormalizingConv", copies=2
):
    """k x k convolution that learns a second kernel as its inverse (Keller et al. 2021)."""


class TwoLayerInverseConvolutionSpec(
    ExactConvolutionSpec, type="two-layer-inverse-convolution", bijection=".convolution:TwoLayerInverseConv", copies=3
):
    """k x k convolution whose inverse is learned as two further convolutions."""


class PeriodicConvolutionSpec(_Convolution, type="periodic-convolution", bijection=".spectral:PeriodicConv"):
    """k x k convolution that wraps around the border of the image (Hoogeboom et al. 2019)."""

    def check(self, shape: ImageShape) -> None:
        height, width = self.sides
        if shape[1] < height or shape[2] < width:
            raise ValueError(f"expected images of at least {height}x{width}, got {shape[1]}x{shape[2]}")

    def matrix(self, shape: ImageShape) -> int:
        """Count a C x C matrix for each frequency; a complex number counts as two values."""
        return 2 * shape[0] ** 2 * shape[1] * (shape[2] // 2 + 1)


class ExponentialConvolutionSpec(_Convolution, type="exponential-convolution", bijection=".spectral:ExponentialConv"):
    """1x1 convolution followed by the exponential of a k x k convolution (Hoogeboom et al. 2020)."""

    def parameters(self, shape: ImageShape) -> int:
        return self._of_kernel(shape) + shape[0] ** 2 + 2 * numbers(shape)

    def matrix(self, shape: ImageShape) -> int:
        """Count a C x C matrix for each frequency of a padded image, by whose norms the series is bounded."""
        grown = shape[1] + self.sides[0] - 1, shape[2] + self.sides[1] - 1
        return 2 * shape[0] ** 2 * grown[0] * (grown[1] // 2 + 1)


class AutoregressiveConvolutionSpec(
    LayerSpec, type="autoregressive-convolution", bijection=".autoregressive:AutoregressiveConv"
):
    """Convolution of each pixel with its upper and left neighbours (Hoogeboom et al. 2019)."""

    def parameters(self, shape: ImageShape) -> int:
        return 4 * shape[0] ** 2


class EmergingConvolutionSpec(LayerSpec, type="emerging-convolution", bijection=".autoregressive:EmergingConv"):
    """1x1 convolution and two autoregressive convolutions (Hoogeboom et al. 2019)."""

    def parameters(self, shape: ImageShape) -> int:
        return shape[0] * (9 * shape[0] + 1)


class Coupling(LayerSpec):
    """Base class of couplings with a network of a given width."""

    width: Width

    @property
    def numbers_a_value(self) -> int:
        """How many numbers determine the map of a value."""
        return 2

    def check(self, shape: ImageShape) -> None:
        if shape[0] < 2:
            raise ValueError(f"expected at least 2 channels to couple, got {shape[0]}; squeeze first")

    def parameters(self, shape: ImageShape) -> int:
        first, middle = self.width * (9 * ((shape[0] + 1) // 2) + 1), self.width * (self.width + 1)
        return first + middle + self.numbers_a_value * (shape[0] // 2) * (9 * self.width + 2)

    def summary(self) -> str:
        return f"{self.type} of width {self.width}"


class AffineCouplingSpec(Coupling, type="affine-coupling", bijection=".coupling:AffineCoupling"):
    """Coupling layer in which half of the channels scale and shift the others (Dinh et al. 2017)."""

    place: Place = False

    def arguments(self, shape: ImageShape) -> dict[str, Any]:
        return {**super().arguments(shape), "places": shape[1:] if self.place else None}

    def parameters(self, shape: ImageShape) -> int:
        return super().parameters(shape) + self.place * self.width * shape[1] * shape[2]

    def summary(self) -> str:
        return f"{super().summary()}{' by place' if self.place else ''}"


class SplineCouplingSpec(AffineCouplingSpec, type="spline-coupling", bijection=".coupling:SplineCoupling"):
    """Coupling layer in which half of the channels give a monotone spline for each other value (Durkan et al. 2019)."""

    bins: Bins = 8
    bound: Bound = 5.0

    @property
    def numbers_a_value(self) -> int:
        return 3 * self.bins - 1


MAX_ORDERED = 4096  # most values of a masked autoregressive layer


class MaskedAutoregressiveSpec(
    LayerSpec, type="masked-autoregressive", bijection=".autoregressive:MaskedAutoregressive"
):
    """Layer that scales and shifts each value by a function of all values before it (Papamakarios et al. 2017)."""

    width: Width
    reverse: bool = Field(False, description="Whether the order is from the last value to the first.")

    def check(self, shape: ImageShape) -> None:
        if numbers(shape) > MAX_ORDERED:
            raise ValueError(f"expected images of at most {MAX_ORDERED} values, got {numbers(shape)}; split before it")

    def parameters(self, shape: ImageShape) -> int:
        values = numbers(shape)
        return self.width * (values + 1) + self.width * (self.width + 1) + 2 * values * (self.width + 1)

    def summary(self) -> str:
        return f"{self.type} of width {self.width}{', reversed' if self.reverse else ''}"


class AdditiveCouplingSpec(Coupling, type="additive-coupling", bijection=".coupling:AdditiveCoupling"):
    """Coupling layer in which half of the channels shift the others (Dinh et al. 2015)."""

    @property
    def numbers_a_value(self) -> int:
        return 1


class PlaceCouplingSpec(AdditiveCouplingSpec, type="place-coupling", bijection=".coupling:PlaceCoupling"):
    """Layer that shifts half of the channels by a function of the other half and the pixel position."""

    def parameters(self, shape: ImageShape) -> int:
        return super().parameters(shape) + self.width * shape[1] * shape[2]
