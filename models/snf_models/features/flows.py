"""Flows over image features, alone or beside a flow over pixels, and their frozen copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snf_models.bijections.base import Bijection, Shape
from snf_models.bijections.channels import SelfNormalizingConv1x1
from snf_models.bijections.coupling import PlaceCoupling
from snf_models.bijections.frozen import FrozenStep
from snf_models.bijections.local_affine import ExactLocalAffine, FrozenLocalAffine, SelfNormalizingLocalAffine
from snf_models.flows.architecture import Architecture, FeatureArchitecture, HybridArchitecture, linear_layer
from snf_models.flows.build import build_flow
from snf_models.flows.flow import Flow
from snf_runtime.scoring.layout import FeatureLayout

LOCAL_LAYERS: dict[str, Callable[[Shape, int], ExactLocalAffine]] = {
    "exact": ExactLocalAffine,
    "self-normalizing": SelfNormalizingLocalAffine,
}
"""Local affine layers by the ``linear`` of an architecture, made from the shape of the features and the grid."""


class FeatureFlows(nn.Module):
    """Fits with a layer over places and one over pooled features: the first to all images, others without one fold."""

    def __init__(
        self,
        places: list[ExactLocalAffine],
        pooled: list[ExactLocalAffine],
        steps: Sequence[Bijection] = (),
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if steps and len(places) > 1:
            raise ValueError(f"expected a single fit where there are Glow steps, got {len(places)}")
        self.places = nn.ModuleList(places)
        self.pooled = nn.ModuleList(pooled)
        self.steps = nn.ModuleList(steps)
        self.groups = tuple(groups or (pooled[0].shape[0],))

    def fits(self) -> Iterator[tuple[ExactLocalAffine, ExactLocalAffine]]:
        """Yield the two layers of each fit; the fit to all images comes first."""
        for places, pooled in zip(self.places, self.pooled, strict=True):
            assert isinstance(places, ExactLocalAffine)
            assert isinstance(pooled, ExactLocalAffine)
            yield places, pooled

    def layers(self) -> Iterator[tuple[str, Bijection]]:
        """Yield layers with names such as ``places.0``, in the order of the weights."""
        for kind, layers in (("places", self.places), ("pooled", self.pooled), ("steps", self.steps)):
            for number, layer in enumerate(layers):
                assert isinstance(layer, Bijection)
                yield f"{kind}.{number}", layer

    def scored(self) -> list[str]:
        return ["places.0", *(f"steps.{number}" for number in range(len(self.steps)))]

    def latents(self, features: Tensor) -> Tensor:
        """Map features to latents, ``(N, C, rows, columns)``, by the fit to all images."""
        layer, _ = next(self.fits())
        z = layer.apply_weight(features - layer.mean)
        for step in self.steps:
            z, _ = step(z)
        return z

    @torch.no_grad()
    def reconstruction_errors(self) -> list[float]:
        """Return the root mean square of R W x - x over white noise for each learned inverse R."""
        errors = []
        for _, layer in self.layers():
            if isinstance(layer, SelfNormalizingLocalAffine | SelfNormalizingConv1x1):
                product = layer.inverse_weight.double() @ layer.weight.double()
                channels = product.shape[-1]
                rest = product - torch.eye(channels).double()
                errors.append(float((rest.square().sum((-2, -1)).mean() / channels).sqrt()))
        return errors

    @torch.no_grad()
    def log_dets(self) -> dict[str, float]:
        """Return log-dets by layer, in nats and computed in float64; they are the same for all images."""
        shape = next(self.fits())[0].shape
        return {
            name: layer.constant_log_det_at(layer.shape if isinstance(layer, ExactLocalAffine) else shape)
            for name, layer in self.layers()
        }


def build_feature_flows(architecture: FeatureArchitecture) -> FeatureFlows:
    """Build flows to be fitted; raise ``ValueError`` for an unknown layer, or steps after several fits."""
    if architecture.linear not in LOCAL_LAYERS:
        raise ValueError(f"expected a linear layer of {', '.join(LOCAL_LAYERS)}, got {architecture.linear!r}")
    layer = LOCAL_LAYERS[architecture.linear]
    pooled = sum(architecture.pooled), 1, 1
    return FeatureFlows(
        [layer(architecture.feature_shape, grid) for grid in architecture.grids],
        [layer(pooled, 1) for _ in architecture.grids],
        build_steps(architecture),
        architecture.pooled,
    )


def build_steps(architecture: FeatureArchitecture) -> list[Bijection]:
    convolution, shape = linear_layer("1x1", architecture.linear)(), architecture.feature_shape
    steps: list[Bijection] = []
    for _ in range(architecture.steps):
        steps += [convolution.build(shape), PlaceCoupling(shape, architecture.hidden)]
    return steps


@dataclass(frozen=True)
class FrozenFeatureFlows(FeatureLayout):
    """Immutable float64 copy for scoring, with the log-det of the first fit and the steps."""

    places: tuple[FrozenLocalAffine, ...]  # of each fit
    pooled: tuple[FrozenLocalAffine, ...]  # of each fit
    steps: tuple[FrozenStep, ...]  # where there is a single fit
    groups: tuple[int, ...]  # numbers of pooled features, each group with its own density


def freeze_features(flows: FeatureFlows, log_dets: dict[str, float] | None = None) -> FrozenFeatureFlows:
    """Freeze flows with given log-dets in nats by layer, or computed ones; raise ``KeyError`` if one is missing."""
    known = flows.log_dets() if log_dets is None else log_dets
    fits = list(flows.fits())
    shape = fits[0][0].shape
    return FrozenFeatureFlows(
        shape,
        sum(known[name] for name in flows.scored()),
        tuple(places.freeze(places.shape) for places, _ in fits),
        tuple(pooled.freeze(pooled.shape) for _, pooled in fits),
        tuple(step.freeze(shape) for step in flows.steps if isinstance(step, Bijection)),
        flows.groups,
    )


def sums_of_groups(squares: Tensor, groups: Sequence[int]) -> Tensor:
    """Sum over groups of consecutive channels, ``(N, C, ...)`` to ``(N, groups, ...)``."""
    return torch.stack([part.sum(1) for part in torch.split(squares, list(groups), 1)], 1)


class HybridFlows(nn.Module):
    def __init__(self, pixels: Flow, features: FeatureFlows) -> None:
        super().__init__()
        self.pixels = pixels
        self.features = features


TrainedFlows = Flow | FeatureFlows | HybridFlows
"""The trained part of a model: flows over pixels, over features, or over both."""


def build_flows(architecture: Architecture) -> TrainedFlows:
    """Build the flow or flows of an architecture; raise ``ValueError`` for an unknown linear layer."""
    if isinstance(architecture, FeatureArchitecture):
        return build_feature_flows(architecture)
    if isinstance(architecture, HybridArchitecture):
        return HybridFlows(build_flow(architecture.pixels), build_feature_flows(architecture.features))
    return build_flow(architecture)
