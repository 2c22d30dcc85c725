"""Descriptions of the levels of a flow, with their layers, repeated steps and splits.

The levels are checked against the shape of the images. The module does not import PyTorch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError

from snf_models.flows.layers.couplings import AffineCouplingSpec, Place, Width
from snf_models.flows.layers.spec import AnyLayer, ImageShape, LayerSpec, parse_layer
from snf_models.texts import plain_text

MAX_LAYERS = 2048
"""Most layers of a flow."""
MAX_PARAMETERS = 2**30
"""Most learned numbers of a flow: 4 GiB in float32."""
MAX_MATRIX = 2**31
"""Most elements of a matrix that a layer computes with: 16 GiB in float64."""
MAX_SHOWN_ERRORS = 3


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RepeatSpec(_Part):
    """Description of a sequence of layers that a flow repeats, each time with weights of its own."""

    repeat: int = Field(ge=1, le=256)
    steps: tuple[AnyLayer, ...] = Field(min_length=1, max_length=64)


def _parse_step(value: object) -> object:
    if isinstance(value, dict) and "repeat" in value:
        return RepeatSpec.model_validate(value)
    return value if isinstance(value, RepeatSpec) else parse_layer(value)


Step = Annotated[SerializeAsAny[LayerSpec] | RepeatSpec, BeforeValidator(_parse_step)]
"""A layer, or layers that are repeated."""


class SplitSpec(_Part):
    """Description of a split: half of the channels at the end of a flow level become latents.

    The prior of these latents is a Gaussian given the other half.
    """

    width: Width
    place: Place = False

    def coupling(self) -> AffineCouplingSpec:
        """Return the prior of the split-off latents given the kept channels, described as a coupling layer.

        The layer scales and shifts the latents, so their prior is a Gaussian given the other channels.
        """
        return AffineCouplingSpec(width=self.width, place=self.place)


class LevelSpec(_Part):
    """Description of one level of a multi-scale flow.

    It has an optional squeeze of 2x2 pixels into channels, layers, and an optional split.
    """

    squeeze: bool = True
    steps: tuple[Step, ...] = Field(max_length=MAX_LAYERS)
    split: SplitSpec | None = None

    def layers(self) -> Iterator[tuple[str, LayerSpec]]:
        """Yield the position and the description of each layer of the level, with repeated steps expanded.

        A position is a text such as "3", or "2.1" in repeated steps.
        """
        for number, step in enumerate(self.steps, 1):
            if isinstance(step, RepeatSpec):
                for _ in range(step.repeat):
                    yield from ((f"{number}.{inner}", layer) for inner, layer in enumerate(step.steps, 1))
            else:
                yield str(number), step

    @property
    def size(self) -> int:
        """The number of layers in this level, not counting its squeeze and its split.

        Repeated layers are counted each time.
        """
        return sum(step.repeat * len(step.steps) if isinstance(step, RepeatSpec) else 1 for step in self.steps)


@dataclass(frozen=True)
class ShapedLevel:
    """Description of a flow level, together with the image shape (C, H, W) on which its layers work.

    Attributes:
        spec: The level.
        shape: Shape of the images after the squeeze and before the split, which the layers keep.
    """

    spec: LevelSpec
    shape: ImageShape

    @property
    def layers(self) -> list[LayerSpec]:
        """Descriptions of the layers of the level, first to last."""
        return [layer for _, layer in self.spec.layers()]


def shaped(levels: Sequence[LevelSpec], image_shape: ImageShape) -> list[ShapedLevel]:
    """Check the layers of a flow against the shape of the images; return each level with its image shape.

    Args:
        levels: The levels, finest scale first.
        image_shape: Channels, height and width of the images.

    Raises:
        ValueError: A layer cannot take its images, or the flow is too large; the text names level and step.
    """
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
    """Return a one-line text that counts the levels of a flow and its layers of each type.

    An example is "2 levels, 8 layers: 4 actnorm, 4 self-normalizing-convolution 5x5".
    """
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


def sentence(error: ValidationError, document: object) -> str:
    """Return the validation errors of a flow architecture as text for an error message.

    The text has the first three errors, each with its level and step where these are known, and the number of further
    errors.

    Args:
        error: The failed validation.
        document: What was validated.
    """
    items = error.errors()
    shown = [(_where(item["loc"], document), plain_text(item)) for item in items[:MAX_SHOWN_ERRORS]]
    texts = [f"{where}: {text}" if where else text for where, text in shown]
    more = [f"and {len(items) - MAX_SHOWN_ERRORS} more"] if len(items) > MAX_SHOWN_ERRORS else []
    return "; ".join(texts + more)


def _where(location: Sequence[int | str], document: object) -> str:
    words: list[str] = []
    at, type_name = document, None
    before: int | str | None = None
    for part in location:
        at = _inside(at, part)
        if isinstance(part, int) and before in ("levels", "steps"):
            nested = before == "steps" and any(word.startswith("step ") for word in words)
            if nested:
                words[-1] += f".{part + 1}"
            else:
                words.append(f"{str(before).removesuffix('s')} {part + 1}")
            type_name = at.get("type") if isinstance(at, Mapping) else None
            if isinstance(type_name, str) and before == "steps":
                words[-1] += f" (`{type_name[:64]}`)"
        elif part not in ("levels", "steps") or part == location[-1]:
            words.append(str(part))
        before = part
    return ", ".join(words)


def _inside(document: Any, part: int | str) -> object:
    try:
        return document[part]
    except (KeyError, IndexError, TypeError):
        return None
