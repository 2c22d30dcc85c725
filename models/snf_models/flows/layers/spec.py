"""Base class for descriptions of layers, and the registry of layer types.

The module does not import PyTorch.

A layer type is a subclass of :class:`LayerSpec`. Those of this project are in the modules beside this one. Other
packages add types by an entry point in the group ``snf_density.layers``, whose name is the type and whose object is the
subclass; a program adds one for itself by :func:`register`. A file only ever gives the name of a type.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from snf_models.texts import closest

if TYPE_CHECKING:
    from snf_models.bijections.base import Bijection

    BijectionClass: TypeAlias = type[Bijection]

GROUP = "snf_density.layers"
"""Group of the entry points by which installed packages add layer types."""

ImageShape = tuple[int, int, int]
"""Channels, height and width."""
Bins = Annotated[int, Field(ge=2, le=64, description="Bins of each spline.")]
Bound = Annotated[float, Field(ge=0.1, le=1000, description="End of the interval; the identity outside.")]


def numbers(shape: ImageShape) -> int:
    """Return the number of values in an image, the product of channels, height and width."""
    return shape[0] * shape[1] * shape[2]


class LayerSpec(BaseModel):
    """Description of one layer of a normalizing flow by its layer type and its settings.

    A layer is built from it for images of a shape.

    A layer keeps the shape of its images: only the squeeze at the start of a level changes it. A subclass gives
    ``type`` a default, adds its parameters as bounded fields, and names its bijection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str = ""
    bijection: ClassVar[BijectionClass | str]
    """The class that is built, or "module:Class" to import it with PyTorch when it is needed."""

    @classmethod
    def type_name(cls) -> str:
        """Return the name of the layer type, such as ``actnorm``.

        Files give the name as ``type``.
        """
        name: str = cls.model_fields["type"].default
        return name

    @classmethod
    def bijection_class(cls) -> BijectionClass:
        """Return the class of the invertible layer that is built from this description."""
        named = cls.bijection
        found: BijectionClass = pkgutil.resolve_name(named) if isinstance(named, str) else named
        return found

    def check(self, shape: ImageShape) -> None:
        """Raise ``ValueError`` if the described layer cannot take images of the given shape.

        The text of the error is "expected ..., got ...".
        """

    def arguments(self, shape: ImageShape) -> tuple[Any, ...]:
        """Return the positional arguments that construct this layer for inputs of a given image shape.

        By default there are none.
        """
        return ()

    def parameters(self, shape: ImageShape) -> int:
        """Return the number of learned parameters of the layer for images of the given shape.

        The number limits the size of a flow before the flow is built.

        By default there are none.
        """
        return 0

    def matrix(self, shape: ImageShape) -> int:
        """Return the number of elements of the largest matrix that the layer's computations need.

        The weights do not count. Without another matrix the number is 0.

        Args:
            shape: Shape of the images, ``(C, H, W)``.
        """
        return 0

    def build(self, shape: ImageShape) -> Bijection:
        """Build a new, untrained layer from this description, for images of the given shape.

        The weights come from torch's global generator.
        """
        return self.bijection_class()(*self.arguments(shape))

    def build_with(self, shape: ImageShape, context: int) -> Bijection:
        """Build a layer that depends on a context of a length, if layers of this type can take one.

        Descriptions have no context, because trainings have none: a flow with a context is for the library alone.
        """
        if not context or not self.bijection_class().takes_context:
            return self.build(shape)
        return self.bijection_class()(*self.arguments(shape), context=context)

    @classmethod
    def read(cls, layer: Bijection) -> dict[str, Any]:  # noqa: ARG003  # subclasses read it
        """Read the settings of an existing layer object into a dict with field names of this class as keys.

        The settings are parameters of the layer type, not learned parameters of the layer.

        The layer is of the class :meth:`bijection_class`. By default there are no parameters.
        """
        return {}

    @classmethod
    def of(cls, layer: Bijection) -> Self | None:
        """Return the description of a built layer, or None if this class describes another type of layer."""
        return cls(**cls.read(layer)) if type(layer) is cls.bijection_class() else None

    def summary(self) -> str:
        """Return a short text that describes the layer, such as ``self-normalizing-convolution 5x5``.

        By default it is the name of the layer type. Types with parameters may add them, such as the size of a kernel.
        """
        return self.type


_types: dict[str, type[LayerSpec]] = {}


def register(layer_type: type[LayerSpec]) -> type[LayerSpec]:
    """Register a ``LayerSpec`` subclass as a layer type in this process, and return the subclass.

    The function can be used as a class decorator.

    Raises:
        ValueError: Another class has registered the same name.
    """
    name = layer_type.type_name()
    if _types.setdefault(name, layer_type) is not layer_type:
        raise ValueError(f"expected a new name of a layer type, got {name!r}, which {_types[name].__name__} has")
    return layer_type


def _registered() -> dict[str, type[LayerSpec]]:
    # The import registers the types of this project.
    for module in ("convolutions", "couplings", "elementwise", "linear"):
        import_module(f"snf_models.flows.layers.{module}")
    return _types


def layer_types() -> Iterator[type[LayerSpec]]:
    """Yield the ``LayerSpec`` subclass of every layer type, including those that installed packages add.

    The types registered in this process come first, then those of installed packages.
    """
    registered = dict(_registered())
    yield from registered.values()
    for entry in entry_points(group=GROUP):
        if entry.name not in registered:
            yield _load(entry)


def find_layer_type(name: str) -> type[LayerSpec]:
    """Return the ``LayerSpec`` subclass of the layer type called ``name``.

    Raises:
        ValueError: There is none; the text lists the types that exist and names the most similar one.
    """
    registered = _registered()
    if name in registered:
        return registered[name]
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in installed:
        return _load(installed[name])
    known = sorted({*registered, *installed})
    similar = closest(name, known)
    meant = f"; did you mean {similar!r}?" if similar else ""
    raise ValueError(f"expected a layer type of {', '.join(known)}, got {name[:64]!r}{meant}")


def describe_layer(layer: Bijection) -> LayerSpec:
    """Return the ``LayerSpec`` that describes a built layer by its layer type and settings.

    Raises ``ValueError`` if the class of the layer belongs to no layer type.
    """
    for layer_type in layer_types():
        described = layer_type.of(layer)
        if described is not None:
            return described
    raise ValueError(
        f"expected a layer of a registered type, got {type(layer).__name__}; register a LayerSpec for it, "
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
    """Convert a dict with the type and settings of a layer to the ``LayerSpec`` that describes it.

    A description is returned unchanged. Pydantic calls the function as a validator. Raises ``ValueError`` if the value
    is neither or is invalid.
    """
    if isinstance(value, LayerSpec):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ValueError('expected a layer with its type, such as {"type": "actnorm"}')
    return find_layer_type(value["type"]).model_validate(value)


AnyLayer = Annotated[SerializeAsAny[LayerSpec], BeforeValidator(parse_layer)]
"""A layer of any type, validated by the class of its type."""
