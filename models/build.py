"""Builds flows from their descriptions."""

from __future__ import annotations

from models.architecture import GlowArchitecture, PixelTransform
from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, ChannelAffine
from models.bijections.conv1x1 import ExactConv1x1, SelfNormalizingConv1x1
from models.bijections.coupling import AffineCoupling
from models.bijections.pixels import AffinePixels, LogitPixels, MarginalPixels
from models.flow import Flow, Level


def build_glow(architecture: GlowArchitecture) -> Flow:
    """Build the flow with fresh weights (torch's global generator); it must be initialised or loaded before use."""
    linear: type[ChannelAffine] = {"exact": ExactConv1x1, "self-normalizing": SelfNormalizingConv1x1}[
        architecture.linear
    ]
    channels = architecture.channels
    levels = []
    for index in range(architecture.levels):
        channels *= 4
        steps: list[Bijection] = []
        for _ in range(architecture.steps):
            steps += [
                ActNorm(channels),
                linear(channels),
                AffineCoupling(channels, architecture.hidden),
            ]
        last = index == architecture.levels - 1
        prior = None if last else AffineCoupling(channels, architecture.hidden)
        levels.append(Level(steps, prior))
        channels = channels if prior is None else prior.kept
    return Flow(pixel_transform(architecture.pixel_transform), levels)


def pixel_transform(name: PixelTransform) -> Bijection:
    """Return the pixel transform of this name."""
    kinds: dict[PixelTransform, type[Bijection]] = {
        "affine": AffinePixels,
        "logit": LogitPixels,
        "marginal": MarginalPixels,
    }
    return kinds[name]()
