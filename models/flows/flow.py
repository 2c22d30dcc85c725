"""Multi-scale flow: levels of bijections over a standard normal base distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.bijections.actnorm import ActNorm
from models.bijections.base import Bijection, Elementwise, Shape, sum_samples
from models.bijections.coupling import AffineCoupling
from models.bijections.squeeze import Squeeze


@dataclass(frozen=True)
class ScaleTerm:
    """Contribution of a scale of the flow (a level or the pixel transform) to each image's log-likelihood, in nats.

    Attributes:
        log_prior: Log-density of the latents of the scale, with the log-det of its prior, ``(N,)`` in nats.
        log_det: Log-det of the bijections of the scale, ``(N,)`` in nats.
    """

    log_prior: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class FlowOutput:
    """Result of a flow for a batch of images: latents, and the terms that sum to each image's log-likelihood.

    Attributes:
        latents: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
        terms: Terms of the log-likelihood: of the pixel transform, then of the levels 1 to L.
    """

    latents: list[Tensor]
    terms: list[ScaleTerm]

    @property
    def log_likelihood(self) -> Tensor:
        """The log-likelihood of each image in nats, ``(N,)``, the sum over all scales of the flow."""
        return torch.stack([term.log_prior + term.log_det for term in self.terms]).sum(0)


class Level(nn.Module):
    """Level of a multi-scale flow: a squeeze, bijections, and a split that turns half of the channels into latents.

    The prior of these latents is a Gaussian whose mean and deviation are functions of the channels that stay (Kingma &
    Dhariwal 2018, 3.5 and table 1). It is a coupling that whitens the latents to a standard normal; its log-det is part
    of ``log_prior``. A level without a prior passes all channels on to the next level. All channels that remain after
    the last level are latents.

    Args:
        steps: The bijections of the level, first to last.
        prior: The coupling of the split, or None for no split.
        squeeze: Whether the level starts with a squeeze.
    """

    def __init__(self, steps: list[Bijection], prior: AffineCoupling | None = None, *, squeeze: bool = True) -> None:
        super().__init__()
        self.squeeze = Squeeze() if squeeze else None
        self.steps = nn.ModuleList(steps)
        self.prior = prior

    def bijections(self) -> Iterator[Bijection]:
        """Yield the bijections of the level in forward order: the squeeze, if there is one, then the others."""
        if self.squeeze is not None:
            yield self.squeeze
        for step in self.steps:
            assert isinstance(step, Bijection)
            yield step


class Flow(nn.Module):
    """Normalizing flow: a bijection between images and normal latents, with exact log-likelihoods of images.

    By the change of variables (Keller et al. 2021, eq. 2), log p(x) is the log-det of the pixel transform plus
    Σ_l [log N(e_l; 0, I) + log-dets of level l], with the whitened latents e_l of level l.

    Args:
        pixels: The pixel transform.
        levels: The levels, finest scale first.
    """

    def __init__(self, pixels: Elementwise, levels: list[Level]) -> None:
        super().__init__()
        self.pixels = pixels
        self.levels = nn.ModuleList(levels)

    def level_list(self) -> list[Level]:
        """Return the levels of the flow as a list, finest scale first."""
        return [level for level in self.levels if isinstance(level, Level)]

    def forward(self, x: Tensor) -> FlowOutput:
        """Return the latents and log-likelihood terms of dequantised images ``x``, ``(N, C, H, W)`` in [0, 256)."""
        y, log_det = self.pixels(x.double())
        return self.forward_pixels(y.to(x.dtype), log_det.to(x.dtype))

    def forward_pixels(self, y: Tensor, pixel_log_det: Tensor) -> FlowOutput:
        """Return the latents and log-likelihood terms of images that have passed the pixel transform already.

        Args:
            y: Transformed images, ``(N, C, H, W)``.
            pixel_log_det: Log-det of the pixel transform, ``(N,)`` in nats.
        """
        terms = [ScaleTerm(torch.zeros_like(pixel_log_det), pixel_log_det)]
        latents = []
        levels = self.level_list()
        for level in levels:
            log_det = y.new_zeros(y.shape[0])
            for bijection in level.bijections():
                y, step_log_det = bijection(y)
                log_det = log_det + step_log_det
            log_prior = torch.zeros_like(log_det)
            if level.prior is not None:
                whitened, log_prior = level.prior(y)
                y, latent = whitened[:, : level.prior.kept], whitened[:, level.prior.kept :]
                latents.append(latent)
            elif level is levels[-1]:
                latents.append(y)
            if level.prior is not None or level is levels[-1]:
                log_prior = log_prior + standard_normal_log_prob(latents[-1])
            terms.append(ScaleTerm(log_prior, log_det))
        return FlowOutput(latents, terms)

    def inverse(self, latents: list[Tensor], *, learned: bool = False) -> Tensor:
        """Map latents to dequantised images by the exact inverse of the flow, or by learned approximate inverses.

        Args:
            latents: Latents of each scale, finest scale first.
            learned: Whether to use the learned inverses in place of the exact ones.

        Returns:
            Images, ``(N, C, H, W)``.
        """

        def undo(bijection: Bijection, z: Tensor) -> Tensor:
            return bijection.approximate_inverse(z) if learned else bijection.inverse(z)[0]

        *remaining, y = latents
        for level in reversed(self.level_list()):
            if level.prior is not None:
                y = undo(level.prior, torch.cat([y, remaining.pop()], dim=1))
            for bijection in reversed(list(level.bijections())):
                y = undo(bijection, y)
        return self.pixels.inverse(y.double())[0].to(y.dtype)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the uninitialised activation normalisations of the flow from dequantised images, ``(N, C, H, W)``."""
        y = self.pixels(x.double())[0].to(next(self.levels.parameters()).dtype)
        for level in self.level_list():
            for bijection in level.bijections():
                if isinstance(bijection, ActNorm) and not bijection.initialized:
                    bijection.initialize(y)
                y = bijection(y)[0]
            if level.prior is not None:
                y = y[:, : level.prior.kept]


def walk(flow: Flow, image_shape: Shape) -> Iterator[tuple[Level, list[tuple[str, Bijection, Shape]], Shape]]:
    """Iterate over the levels of a flow, with the name, module and input shape of each bijection.

    Yields:
        The level; name, bijection and input shape of each of its bijections; the shape of their outputs.
    """
    names = {id(module): name for name, module in flow.named_modules()}
    shape = image_shape
    for level in flow.level_list():
        steps = []
        for bijection in level.bijections():
            steps.append((names[id(bijection)], bijection, shape))
            shape = bijection.output_shape(shape)
        yield level, steps, shape
        if level.prior is not None:
            shape = (level.prior.kept, *shape[1:])


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return the standard normal log-density log N(z; 0, I) of each sample, ``(N, ...) -> (N,)`` in nats."""
    dimensions = z[0].numel() if z.shape[0] else 0
    return -0.5 * sum_samples(z.square()) - 0.5 * dimensions * math.log(2 * math.pi)
