"""Normalizing flows over image features, and their frozen copies for scoring.

The module also combines flows over features with a flow over pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.bijections.additive_coupling import PlaceCoupling
from models.bijections.base import Bijection, Shape
from models.bijections.conv1x1 import SelfNormalizingConv1x1
from models.bijections.frozen import FrozenStep
from models.bijections.local_affine import ExactLocalAffine, FrozenLocalAffine, SelfNormalizingLocalAffine
from models.flows.architecture import LINEAR_1X1, Architecture, FeatureArchitecture, HybridArchitecture
from models.flows.build import build_flow
from models.flows.flow import Flow
from snf_runtime.scoring.layout import FeatureLayout

LOCAL_LAYERS: dict[str, Callable[[Shape, int], ExactLocalAffine]] = {
    "exact": ExactLocalAffine,
    "self-normalizing": SelfNormalizingLocalAffine,
}
"""Local affine layers by the ``linear`` of an architecture, made from the shape of the features and the grid."""


class FeatureFlows(nn.Module):
    """Normalizing flows over image features; with few training images, further fits each leave out one fold.

    Each layer of a fit is a linear map z = W (x - m). The last layer, or the Glow steps after it, give standard normal
    latents z.

    A fit has a layer over the features at places and one over the pooled features. The first fit is to all training
    images. Where images are few, a fit without each of five folds follows, by which the images of that fold are ranked.
    Where there is a single fit, Glow steps may follow its layer over places.

    Args:
        places: The layer over the features at places, ``(C, rows, columns)``, of each fit.
        pooled: The layer over the pooled features, ``(K, 1, 1)``, of each fit.
        steps: The bijections of the Glow steps, as :func:`build_steps` returns them.
        groups: The numbers of pooled features in groups, each with a density of its own; None for a single group.

    Raises:
        ValueError: There are steps and more than one fit.
    """

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
        """Yield the two affine layers of each fitted flow: one for local features, one for whole-image averages.

        The flow fitted to all training images comes first.
        """
        for places, pooled in zip(self.places, self.pooled, strict=True):
            assert isinstance(places, ExactLocalAffine)
            assert isinstance(pooled, ExactLocalAffine)
            yield places, pooled

    def layers(self) -> Iterator[tuple[str, Bijection]]:
        """Yield the name and the module of every layer of every fitted flow.

        A name is a kind and a number, such as ``places.0`` for the first layer over features at positions.

        The order is that of the weights' names.
        """
        for kind, layers in (("places", self.places), ("pooled", self.pooled), ("steps", self.steps)):
            for number, layer in enumerate(layers):
                assert isinstance(layer, Bijection)
                yield f"{kind}.{number}", layer

    def scored(self) -> list[str]:
        """Return the names of the flow layers that contribute to the log-likelihood of an image.

        These are ``places.0`` and all Glow steps.
        """
        return ["places.0", *(f"steps.{number}" for number in range(len(self.steps)))]

    def latents(self, features: Tensor) -> Tensor:
        """Map features to latents by the flow that was fitted to all training images.

        Flows that were fitted without one fold of the images are not used.

        Features and latents are ``(N, C, rows, columns)``.
        """
        layer, _ = next(self.fits())
        z = layer.apply_weight(features - layer.mean)
        for step in self.steps:
            z, _ = step(z)
        return z

    @torch.no_grad()
    def reconstruction_errors(self) -> list[float]:
        """Return a list with the reconstruction error of every layer that has a learned approximate inverse.

        For a matrix W with the learned inverse R it is the root mean square of R W x - x over white noise x.
        """
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
        """Return the log-determinant of every layer of the flows, as a dict by layer name.

        It is in nats, computed in float64, and the same for all images.
        """
        shape = next(self.fits())[0].shape
        return {
            name: layer.constant_log_det_at(layer.shape if isinstance(layer, ExactLocalAffine) else shape)
            for name, layer in self.layers()
        }


def build_feature_flows(architecture: FeatureArchitecture) -> FeatureFlows:
    """Build the flows over image features that an architecture describes, with weights not yet fitted.

    Raises:
        ValueError: The architecture asks for a linear layer that is not in :data:`LOCAL_LAYERS`, or for steps after
            more than one fit.
    """
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
    """Build the invertible layers of all Glow steps in a flow over image features, as a list.

    A step is a 1x1 convolution, then an additive coupling that depends on the place.

    The log-det of a step is the same for all images. The convolution starts as a random rotation by torch's global
    generator, and the coupling as the identity. So new steps map a standard normal to a standard normal.
    """
    convolution, shape = LINEAR_1X1[architecture.linear](), architecture.feature_shape
    steps: list[Bijection] = []
    for _ in range(architecture.steps):
        steps += [convolution.build(shape), PlaceCoupling(shape, architecture.hidden)]
    return steps


@dataclass(frozen=True)
class FrozenFeatureFlows(FeatureLayout):
    """Immutable float64 copy of normalizing flows over image features, for scoring images.

    The copy stores the log-det, so that scoring computes no determinant.

    The log-det is that of the first fit over places and of the steps.

    Attributes:
        places: The frozen layer over places of each fit.
        pooled: The frozen layer over pooled features of each fit.
        steps: The frozen Glow steps after the layer over places, where there is a single fit.
        groups: The numbers of pooled features in groups, each with a density of its own.
    """

    places: tuple[FrozenLocalAffine, ...]
    pooled: tuple[FrozenLocalAffine, ...]
    steps: tuple[FrozenStep, ...]
    groups: tuple[int, ...]


def freeze_features(flows: FeatureFlows, log_dets: dict[str, float] | None = None) -> FrozenFeatureFlows:
    """Return an immutable float64 copy of normalizing flows over image features, for scoring images.

    Args:
        flows: The flows.
        log_dets: Stored log-dets of the layers by name, in nats; None to compute them.

    Raises:
        KeyError: ``log_dets`` lacks a layer.
    """
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
    """Sum the values of a tensor over each group of consecutive channels.

    The shape changes from ``(N, C, ...)`` to ``(N, groups, ...)``.

    Args:
        squares: Values of channels, such as squared latents.
        groups: The numbers of channels in the groups; the sum is C.
    """
    return torch.stack([part.sum(1) for part in torch.split(squares, list(groups), 1)], 1)


class HybridFlows(nn.Module):
    """Two flows of the same images: one over their pixels, one over their features.

    Args:
        pixels: The flow over pixels.
        features: The flows over features.
    """

    def __init__(self, pixels: Flow, features: FeatureFlows) -> None:
        super().__init__()
        self.pixels = pixels
        self.features = features


TrainedFlows = Flow | FeatureFlows | HybridFlows
"""The trained part of a model: flows over pixels, over features, or over both."""


def build_flows(architecture: Architecture) -> TrainedFlows:
    """Build the normalizing flow or flows that an architecture describes, with weights not yet trained.

    Raises:
        ValueError: The architecture asks for a linear layer that does not exist.
    """
    if isinstance(architecture, FeatureArchitecture):
        return build_feature_flows(architecture)
    if isinstance(architecture, HybridArchitecture):
        return HybridFlows(build_flow(architecture.pixels), build_feature_flows(architecture.features))
    return build_flow(architecture)
