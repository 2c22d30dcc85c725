"""Construction of flows from architectures, and description of flows that were built by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snf_models.bijections.base import Bijection, Elementwise, Shape, refuse_context
from snf_models.bijections.coupling import AffineCoupling
from snf_models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from snf_models.flows.architecture import LayeredArchitecture, LevelSpec, PixelArchitecture, PixelTransform, SplitSpec
from snf_models.flows.flow import Flow, Level
from snf_models.flows.layers import AffineCouplingSpec, describe_layer


class NoRandomness(TorchFunctionMode):
    """Context manager that skips the random initialisation of layers whose weights do not matter.

    Zeros have the memory layout of the random tensors. Random weights of a large flow take longer than reading its
    file. The device "meta" of torch imports the compiler of torch, which takes longer than loading a small model.

    >>> with NoRandomness():
    ...     torch.randn(2, 2)
    tensor([[0., 0.],
            [0., 0.]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func is torch.randn:
            return torch.zeros(*args, **given)
        if func is torch.linalg.qr:
            return _no_factors(args[0])
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


class _Factors(NamedTuple):
    Q: Tensor
    R: Tensor


def _no_factors(matrix: Tensor) -> _Factors:
    rows, columns = matrix.shape
    rank = min(rows, columns)
    # Column-major as in LAPACK, because the last bits of later sums depend on the memory layout.
    return _Factors(matrix.new_zeros(rank, rows).mT, matrix.new_zeros(columns, rank).mT)


PIXEL_TRANSFORMS: dict[PixelTransform, Callable[[], Elementwise]] = {
    "affine": AffinePixels,
    "logit": LogitPixels,
    "marginal": MarginalPixels,
}


def build_flow(
    architecture: PixelArchitecture,
    *,
    context: int = 0,
) -> Flow:
    """Build a new flow with the layers of an architecture and random initial weights.

    The weights come from torch's global generator. Before use the flow must be initialised with a batch
    (:meth:`~snf_models.flows.flow.Flow.initialize`) or its weights loaded.

    Args:
        architecture: The architecture.
        context: Length of the context of a conditional flow, which all layers and splits get that can take one. Such a
            flow is for the library alone: it is neither trained by jobs nor stored.

    Raises:
        ValueError: The architecture asks for a layer that does not exist, or does not suit its images.
    """
    layered = architecture.layered()
    levels = []
    for level in layered.shaped():
        steps: list[Bijection] = [layer.build(level.shape, context) for layer in level.layers]
        split = level.spec.split
        prior = None if split is None else split.coupling().build(level.shape, context)
        assert prior is None or isinstance(prior, AffineCoupling)
        levels.append(Level(steps, prior, squeeze=level.spec.squeeze))
    return Flow(PIXEL_TRANSFORMS[layered.pixel_transform](), levels)


def describe_flow(flow: Flow, image_shape: Shape) -> LayeredArchitecture:
    """Return the architecture of a flow that was assembled by hand, as a list of all its layers.

    :func:`build_flow` builds a flow with the same layers from it.

    Args:
        flow: The flow.
        image_shape: Channels, height and width of its images.

    Raises:
        ValueError: A layer belongs to no registered type, cannot take its images, or is not what its type builds. Or
            two layers share weights, or a layer takes a context.
    """
    refuse_context(flow.context)
    _require_own_weights(flow)
    channels, height, width = image_shape
    described = LayeredArchitecture(
        channels=channels,
        height=height,
        width=width,
        pixel_transform=_pixel_transform(flow.pixels),
        levels=tuple(_describe_level(level, number) for number, level in enumerate(flow.level_list(), 1)),
    )
    with NoRandomness():
        built = build_flow(described)
    _require_same_shapes(flow, built)
    own, other = ({name: value.shape for name, value in each.state_dict().items()} for each in (flow, built))
    differing = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    if differing:
        raise ValueError(f"expected the weights that the layer types build, got others in {', '.join(differing[:3])}")
    return described


def _require_own_weights(flow: Flow) -> None:
    """Raise ``ValueError`` if weights are in two places of a flow: it is stored with a layer for each place."""
    names: dict[int, str] = {}
    for name, value in flow.state_dict(keep_vars=True).items():
        first = names.setdefault(value.data_ptr() or id(value), name)
        if first != name:
            raise ValueError(
                f"{_place(name)}: expected weights of its own, got those of {_place(first)} ({first}); give each place "
                "a layer of its own, such as a copy by copy.deepcopy"
            )


def _place(name: str) -> str:
    """Return where weights are in a flow, such as "level 1, step 2"."""
    parts = name.split(".")
    if parts[0] != "levels":
        return parts[0]
    return f"level {int(parts[1]) + 1}, " + (f"step {int(parts[3]) + 1}" if parts[2] == "steps" else "split")


def _require_same_shapes(flow: Flow, built: Flow) -> None:
    """Raise ``ValueError`` if a layer was made for other images than those at its place, whatever its weights are."""
    for number, levels in enumerate(zip(flow.level_list(), built.level_list(), strict=True), 1):
        for position, (own, other) in enumerate(zip(*(level.steps for level in levels), strict=True), 1):
            given, expected = getattr(own, "shape", None), getattr(other, "shape", None)
            if isinstance(given, Sequence) and isinstance(expected, Sequence) and tuple(given) != tuple(expected):
                raise ValueError(
                    f"level {number}, step {position}: expected {type(own).__name__} for images of shape "
                    f"{tuple(expected)}, got one for {tuple(given)}; build it for the former"
                )


def _pixel_transform(pixels: Elementwise) -> PixelTransform:
    for name, make in PIXEL_TRANSFORMS.items():
        new = make()
        if type(pixels) is type(new) and getattr(pixels, "alpha", None) == getattr(new, "alpha", None):
            return name
    raise ValueError(f"expected a pixel transform of {', '.join(PIXEL_TRANSFORMS)}, got {type(pixels).__name__}")


def _describe_level(level: Level, number: int) -> LevelSpec:
    steps = []
    for position, step in enumerate(level.steps, 1):
        assert isinstance(step, Bijection)
        try:
            steps.append(describe_layer(step))
        except ValueError as error:
            raise ValueError(f"level {number}, step {position}: {error}") from error
    split = None if level.prior is None else SplitSpec(**AffineCouplingSpec.read(level.prior))
    return LevelSpec(squeeze=level.squeeze is not None, steps=tuple(steps), split=split)
