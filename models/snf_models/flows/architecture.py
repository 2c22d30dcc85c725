"""Architectures of flows as data, stored in the manifest of a model and read by the builder.

The module does not import PyTorch.

A :class:`LayeredArchitecture` lists every layer, and it is what the builder builds. The other families are short forms
of it with a few numbers, which :meth:`layered` writes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from snf_models.flows.layers import (
    ActNormSpec,
    AffineCouplingSpec,
    AnyLayer,
    EmergingConvolutionSpec,
    ExponentialConvolutionSpec,
    ImageShape,
    LayerSpec,
    Place,
    SmoothLeakyReLUSpec,
    SplineSpec,
    TwoLayerInverseConvolutionSpec,
    Width,
    linear_types,
    parse_layer,
)
from snf_runtime.scoring.layout import DensityKind

MAX_LAYERS = 2048  # most layers of a flow
MAX_PARAMETERS = 2**30  # most learned numbers of a flow: 4 GiB in float32
MAX_MATRIX = 2**31  # most elements of a matrix that a layer computes with: 16 GiB in float64


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RepeatSpec(_Part):
    """Layers that a flow repeats, each time with weights of its own."""

    repeat: int = Field(ge=1, le=256)
    steps: tuple[AnyLayer, ...] = Field(min_length=1, max_length=64)


def _parse_step(value: object) -> object:
    if isinstance(value, dict) and "repeat" in value:
        return RepeatSpec.model_validate(value)
    return value if isinstance(value, RepeatSpec) else parse_layer(value)


Step = Annotated[SerializeAsAny[LayerSpec] | RepeatSpec, BeforeValidator(_parse_step)]
"""A layer, or layers that are repeated."""


class SplitSpec(_Part):
    """Split of half of the channels at the end of a level into latents, with a Gaussian prior given the other half."""

    width: Width
    place: Place = False

    def coupling(self) -> AffineCouplingSpec:
        """Return the prior, described as the coupling that whitens the latents."""
        return AffineCouplingSpec(width=self.width, place=self.place)


class LevelSpec(_Part):
    """Level of a multi-scale flow: an optional squeeze of 2x2 pixels into channels, layers, an optional split."""

    squeeze: bool = True
    steps: tuple[Step, ...] = Field(max_length=MAX_LAYERS)
    split: SplitSpec | None = None

    def layers(self) -> Iterator[tuple[str, LayerSpec]]:
        """Yield position and description of each layer, repeated ones too: "3", or "2.1" in repeated steps."""
        for number, step in enumerate(self.steps, 1):
            if isinstance(step, RepeatSpec):
                for _ in range(step.repeat):
                    yield from ((f"{number}.{inner}", layer) for inner, layer in enumerate(step.steps, 1))
            else:
                yield str(number), step

    @property
    def size(self) -> int:
        """The number of layers, without squeeze and split."""
        return sum(step.repeat * len(step.steps) if isinstance(step, RepeatSpec) else 1 for step in self.steps)


@dataclass(frozen=True)
class ShapedLevel:
    """A level with the shape (C, H, W) between its squeeze and its split, which its layers keep."""

    spec: LevelSpec
    shape: ImageShape

    @property
    def layers(self) -> list[LayerSpec]:
        return [layer for _, layer in self.spec.layers()]


def shaped(levels: Sequence[LevelSpec], image_shape: ImageShape) -> list[ShapedLevel]:
    """Return each level with its image shape; raise ``ValueError``, which names level and step, if it does not fit."""
    if not levels:
        raise ValueError("expected at least one level, got none")
    count = sum(level.size for level in levels)
    if count > MAX_LAYERS:
        raise ValueError(f"expected at most {MAX_LAYERS} layers, got {count}")
    shape, parameters, found = image_shape, 0, []
    for number, level in enumerate(levels, 1):
        if level.squeeze:
            shape = _squeezed(shape, number)
        for position, layer in level.layers():
            parameters += _parameters(layer, shape, f"level {number}, step {position} (`{layer.type}`)")
        found.append(ShapedLevel(level, shape))
        if level.split is not None:
            where = f"level {number}, split"
            if number == len(levels):
                raise ValueError(f"{where}: expected none in the last level, all of whose channels are latents")
            parameters += _parameters(level.split.coupling(), shape, where)
            shape = ((shape[0] + 1) // 2, *shape[1:])
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"level {number}: expected at most {MAX_PARAMETERS} parameters up to here, got more")
    if parameters == 0:
        raise ValueError("expected at least one layer with parameters, got none")
    return found


def _squeezed(shape: ImageShape, level: int) -> ImageShape:
    channels, height, width = shape
    if height % 2 or width % 2:
        raise ValueError(f"level {level}, squeeze: expected images with even sides, got {height}x{width}")
    return 4 * channels, height // 2, width // 2


def _parameters(layer: LayerSpec, shape: ImageShape, where: str) -> int:
    """Return the number of parameters of a layer, after checks of its images and of its size."""
    try:
        layer.check(shape)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    parameters, matrix = layer.parameters(shape), layer.matrix(shape)
    size = "x".join(map(str, shape))
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"{where}: expected at most {MAX_PARAMETERS} parameters, got {parameters} for images {size}")
    if matrix > MAX_MATRIX:
        raise ValueError(
            f"{where}: expected a log-determinant by a matrix of at most {MAX_MATRIX} elements, got {matrix} for "
            f"images {size}; squeeze more, or take a smaller kernel"
        )
    return parameters


def summary_of(levels: Sequence[LevelSpec]) -> str:
    """Return such as "2 levels, 8 layers: 4 actnorm, 4 self-normalizing-convolution 5x5"."""
    kinds = Counter[str]()
    for level in levels:
        for step in level.steps:
            if isinstance(step, RepeatSpec):
                for layer in step.steps:
                    kinds[layer.summary()] += step.repeat
            else:
                kinds[step.summary()] += 1
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    plural = "s" if len(levels) > 1 else ""
    return f"{len(levels)} level{plural}, {kinds.total()} layers: {parts}"


PixelTransform = Literal["affine", "logit", "marginal"]
Linear = Annotated[str, Field(max_length=64)]
"""First part of the name of a linear layer type, such as ``lu`` of ``lu-1x1``."""
KernelSide = Annotated[int, Field(ge=1, le=15)]

ALWAYS_3X3 = EmergingConvolutionSpec, ExponentialConvolutionSpec  # convolutions that are 3x3 in every short form


FINEST_GRID = 16
"""Cells along each side of the finest grid of local maps: a matrix for each place of a large image takes gigabytes."""


class _ImageArchitecture(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, le=4)
    height: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=1024)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def kind(self) -> DensityKind:
        """What the log-likelihood is a density of: pixels, or features alone."""
        return "density"


class _PixelArchitecture(_ImageArchitecture):
    pixel_transform: PixelTransform = "logit"

    def _written_out(self, levels: list[LevelSpec]) -> LayeredArchitecture:
        # Every field is valid: what remains is that the layers fit the images.
        written_out = LayeredArchitecture.model_construct(
            channels=self.channels,
            height=self.height,
            width=self.width,
            pixel_transform=self.pixel_transform,
            levels=tuple(levels),
        )
        written_out.shaped()
        return written_out


class LayeredArchitecture(_PixelArchitecture):
    """Flow as a list of all its levels and their layers, checked against the shape of the images."""

    family: Literal["layers"] = "layers"
    levels: tuple[LevelSpec, ...] = Field(max_length=16)

    @model_validator(mode="after")
    def _fits_images(self) -> Self:
        self.shaped()
        return self

    def layered(self) -> LayeredArchitecture:
        return self

    def shaped(self) -> list[ShapedLevel]:
        return shaped(self.levels, self.image_shape)

    def summary(self) -> str:
        return summary_of(self.levels)


class GlowArchitecture(_PixelArchitecture):
    """Glow, a multi-scale flow (Kingma & Dhariwal 2018).

    Each level is a squeeze, steps of activation normalisation, 1x1 convolution and affine coupling, and a split.
    """

    family: Literal["glow"] = "glow"
    levels: int = Field(ge=1, le=8)
    steps: int = Field(ge=1, le=64, description="Steps a level.")
    hidden: int = Field(ge=1, le=1024, description="Width of the coupling nets.")
    linear: Linear = "self-normalizing"
    # Left out of documents where it is 1, so that checkpoints of earlier versions still belong to their trainings.
    kernel: KernelSide = Field(1, exclude_if=lambda side: side == 1, description="Side of the convolutions.")
    place: Place = False

    def summary(self) -> str:
        size = f"{self.kernel}x{self.kernel}"
        return (
            f"Glow, {self.levels} levels of {self.steps} steps, width {self.hidden}"
            f"{' by place' if self.place else ''}, {self.linear} {size} convolutions"
        )

    def layered(self) -> LayeredArchitecture:
        """Return the same flow as a list of layers; raise ``ValueError`` if the settings give none."""
        linear = _convolution(self.linear, self.kernel) if self.kernel > 1 else linear_layer("1x1", self.linear)()
        split = SplitSpec(width=self.hidden, place=self.place)
        step = RepeatSpec(repeat=self.steps, steps=(ActNormSpec(), linear, split.coupling()))
        return self._written_out(
            [LevelSpec(steps=(step,), split=None if last else split) for last in _lasts(self.levels)]
        )


class ConvolutionalArchitecture(_PixelArchitecture):
    """Blocks of convolutions and spline activations, with a squeeze between blocks (Keller et al. 2021, sec. 5).

    There is no split, and no activation after the last convolution. The paper has nine layers in three blocks.
    """

    family: Literal["convolutional"] = "convolutional"
    blocks: int = Field(3, ge=1, le=6)
    layers: int = Field(3, ge=1, le=16, description="Convolutions a block.")
    kernel: KernelSide = 3
    linear: Linear = "self-normalizing"

    def summary(self) -> str:
        return f"{self.blocks * self.layers} {self.linear} convolutions in {self.blocks} blocks, spline activations"

    def layered(self) -> LayeredArchitecture:
        convolution = _convolution(self.linear, self.kernel)
        inner = [convolution, SplineSpec()] * self.layers
        # No activation after the last layer, whose outputs are the latents.
        return self._written_out(
            [
                LevelSpec(squeeze=block > 0, steps=tuple(inner[:-1] if last else inner))
                for block, last in enumerate(_lasts(self.blocks))
            ]
        )


class FullyConnectedArchitecture(_PixelArchitecture):
    """Settings of a flow of fully connected layers and smooth leaky ReLUs (Keller et al. 2021, sec. 5)."""

    family: Literal["fully-connected"] = "fully-connected"
    layers: int = Field(2, ge=1, le=16)
    linear: Linear = "self-normalizing"

    def summary(self) -> str:
        return f"{self.layers} {self.linear} dense layers, smooth leaky ReLU"

    def layered(self) -> LayeredArchitecture:
        steps = [linear_layer("dense", self.linear)(), SmoothLeakyReLUSpec()] * self.layers
        return self._written_out([LevelSpec(squeeze=False, steps=tuple(steps[:-1]))])


def linear_layer(kind: str, name: str) -> type[LayerSpec]:
    """Return the linear layer type of a kind, "1x1", "convolution" or "dense", by its name in short forms."""
    types = linear_types(kind)
    if kind == "convolution":
        types["self-normalizing-two-layer"] = TwoLayerInverseConvolutionSpec
    if name not in types:
        raise ValueError(f"expected a linear layer of {', '.join(types)}, got {name!r}")
    return types[name]


def _convolution(name: str, kernel: int) -> LayerSpec:
    layer_type = linear_layer("convolution", name)
    sized = "kernel" in layer_type.model_fields and layer_type not in ALWAYS_3X3
    return layer_type.model_validate({"kernel": kernel} if sized else {})


def _lasts(count: int) -> list[bool]:
    """Return whether each of a number of levels is the last one."""
    return [number == count for number in range(1, count + 1)]


PixelArchitecture = Annotated[
    LayeredArchitecture | GlowArchitecture | ConvolutionalArchitecture | FullyConnectedArchitecture,
    Field(discriminator="family"),
]
"""Architectures of flows over pixels."""


class FeatureArchitecture(_ImageArchitecture):
    """Flow over features of a frozen backbone: local affine maps, and optional Glow steps after a single fit."""

    family: Literal["features"] = "features"
    backbone: str = Field(max_length=64)
    backbone_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Digest of the backbone: weights, normalisation, outputs."
    )
    input_height: int = Field(ge=1, le=4096, description="Height to which images are enlarged for the backbone.")
    input_width: int = Field(ge=1, le=4096)
    tiled: bool = Field(False, description="Whether images have any size: height and width are those of a tile.")
    feature_channels: int = Field(ge=1, le=8192)
    rows: int = Field(ge=1, le=512, description="Rows of places with a feature vector.")
    columns: int = Field(ge=1, le=512)
    pooled: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]] = Field(
        description="Features of the whole image, in two groups with a density of their own: means, and the deepest."
    )
    grids: tuple[int, ...] = Field(
        min_length=1, max_length=16, description="Cells along each side, of the fit to all images and of later ones."
    )
    linear: Linear = "self-normalizing"
    steps: int = Field(0, ge=0, le=8, description="Glow steps after the local affine map: 1x1 convolution, coupling.")
    hidden: int = Field(64, ge=1, le=1024, description="Channels of the hidden layers of the couplings.")

    @property
    def kind(self) -> DensityKind:
        return "feature_density"

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return self.feature_channels, self.rows, self.columns

    @property
    def input_size(self) -> tuple[int, int]:
        return self.input_height, self.input_width

    def summary(self) -> str:
        grid = min(self.grids[0], max(self.rows, self.columns))
        each = f" of each tile of {self.height}x{self.width} pixels" if self.tiled else ""
        return f"{self.feature_channels} features at {self.rows}x{self.columns} places{each} of {self.backbone}, " + (
            f"{self.linear} local affine maps on a {grid}x{grid} grid"
            + (f", {self.steps} Glow step{'s' if self.steps > 1 else ''}" if self.steps else "")
        )


class HybridArchitecture(_ImageArchitecture):
    """One flow over pixels and one over features of the same images, for one verdict."""

    family: Literal["hybrid"] = "hybrid"
    pixels: PixelArchitecture
    features: FeatureArchitecture

    def summary(self) -> str:
        return f"{self.pixels.summary()}; {self.features.summary()}"


Architecture = Annotated[
    LayeredArchitecture
    | GlowArchitecture
    | ConvolutionalArchitecture
    | FullyConnectedArchitecture
    | FeatureArchitecture
    | HybridArchitecture,
    Field(discriminator="family"),
]


def require_kernel(architecture: PixelArchitecture) -> None:
    """Raise ``ValueError`` for a short form with 3x3 convolutions alone that gives another kernel.

    Models of earlier versions may have such a form.
    """
    if not isinstance(architecture, GlowArchitecture | ConvolutionalArchitecture):
        return
    linear, kernel = architecture.linear, architecture.kernel
    of_1x1 = isinstance(architecture, GlowArchitecture) and kernel == 1
    if linear_types("convolution").get(linear) in ALWAYS_3X3 and kernel != 3 and not of_1x1:
        raise ValueError(f"kernel: expected 3 for {linear} convolutions of a short form, got {kernel}")


def features_of(architecture: Architecture) -> FeatureArchitecture | None:
    """Return the flow over features in an architecture; None for a flow over pixels alone."""
    if isinstance(architecture, HybridArchitecture):
        return architecture.features
    return architecture if isinstance(architecture, FeatureArchitecture) else None


def depth(height: int, width: int) -> int:
    """Return how often both sides can be halved, whole and at least 4: the levels of a multi-scale flow.

    >>> depth(28, 28), depth(32, 32), depth(64, 64), depth(27, 28)
    (2, 3, 4, 0)
    """
    levels = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels
