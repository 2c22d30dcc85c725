"""Construction of flows from architectures, and description of flows that were built by hand."""

from __future__ import annotations

from collections.abc import Callable

from models.bijections.base import Bijection, Elementwise, Shape
from models.bijections.coupling import AffineCoupling
from models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from models.flows.architecture import LayeredArchitecture, PixelArchitecture, PixelTransform
from models.flows.flow import Flow, Level
from models.flows.layers.couplings import AffineCouplingSpec
from models.flows.layers.spec import describe_layer
from models.flows.levels import LevelSpec, SplitSpec
from models.flows.no_init import NoRandomness

PIXEL_TRANSFORMS: dict[PixelTransform, Callable[[], Elementwise]] = {
    "affine": AffinePixels,
    "logit": LogitPixels,
    "marginal": MarginalPixels,
}


def build_flow(architecture: PixelArchitecture) -> Flow:
    """Build a new flow with the layers of an architecture and random initial weights.

    The weights come from torch's global generator. Before use the flow must be initialised with a batch
    (:meth:`~models.flows.flow.Flow.initialize`) or its weights loaded.

    Raises:
        ValueError: The architecture asks for a layer that does not exist, or does not suit its images.
    """
    layered = architecture.layered()
    levels = []
    for level in layered.shaped():
        steps: list[Bijection] = [layer.build(level.shape) for layer in level.layers]
        split = level.spec.split
        prior = None if split is None else AffineCoupling(*split.coupling().arguments(level.shape))
        levels.append(Level(steps, prior, squeeze=level.spec.squeeze))
    return Flow(PIXEL_TRANSFORMS[layered.pixel_transform](), levels)


def describe_flow(flow: Flow, image_shape: Shape) -> LayeredArchitecture:
    """Return the architecture of a flow that was assembled by hand, as a list of all its layers.

    :func:`build_flow` builds a flow with the same layers from it.

    Args:
        flow: The flow.
        image_shape: Channels, height and width of its images.

    Raises:
        ValueError: A layer belongs to no registered type, cannot take its images, or is not what its type builds.
    """
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
    own, other = ({name: value.shape for name, value in each.state_dict().items()} for each in (flow, built))
    differing = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
    if differing:
        raise ValueError(f"expected the weights that the layer types build, got others in {', '.join(differing[:3])}")
    return described


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
