"""The multi-scale flow: levels of squeeze, steps and split over a standard normal base distribution."""

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
    """What one scale adds to log p: ``log_prior`` and ``log_det``, each ``(N,)`` in nats."""

    log_prior: Tensor
    log_det: Tensor


@dataclass(frozen=True)
class FlowOutput:
    """The image of a batch: whitened latents by scale (finest first) and the terms of log p.

    ``terms[0]`` is the pixel transform, ``terms[l]`` the level l = 1 ... L.
    """

    latents: list[Tensor]
    terms: list[ScaleTerm]

    @property
    def log_likelihood(self) -> Tensor:
        """Sum of all terms, ``(N,)``, in nats."""
        return torch.stack([term.log_prior + term.log_det for term in self.terms]).sum(0)


class Level(nn.Module):
    """One scale: steps, and at its end a split with a learned prior, or at the last scale what is left of the image.

    A level without a prior hands everything on to the next one and has no latents of its own.

    The prior of the half that leaves is Gaussian with mean and deviation from the half that stays: a coupling that
    whitens the leaving half, after which it is standard normal (Kingma & Dhariwal 2018, 3.5 and table 1). The log-det
    of that coupling belongs to ``log_prior``.
    """

    def __init__(self, steps: list[Bijection], prior: AffineCoupling | None = None, *, squeeze: bool = True) -> None:
        super().__init__()
        self.squeeze = Squeeze() if squeeze else None
        self.steps = nn.ModuleList(steps)
        self.prior = prior

    def bijections(self) -> Iterator[Bijection]:
        """Yield squeeze, where there is one, and steps in the order of the forward direction."""
        if self.squeeze is not None:
            yield self.squeeze
        for step in self.steps:
            assert isinstance(step, Bijection)
            yield step


class Flow(nn.Module):
    """A bijection between images and latents, with the exact log-likelihood of the images.

    log p(x) = Σ_l [log N(e_l; 0, I) + log-dets of level l] + log-det of the pixel transform, e_l the whitened latents
    (change of variables; Keller et al. 2021, eq. 2).
    """

    def __init__(self, pixels: Elementwise, levels: list[Level]) -> None:
        super().__init__()
        self.pixels = pixels
        self.levels = nn.ModuleList(levels)

    def level_list(self) -> list[Level]:
        """Return the levels, finest first."""
        return [level for level in self.levels if isinstance(level, Level)]

    def forward(self, x: Tensor) -> FlowOutput:
        """Score dequantised images ``x``, ``(N, C, H, W)`` in [0, 256)."""
        y, log_det = self.pixels(x.double())
        return self.forward_pixels(y.to(x.dtype), log_det.to(x.dtype))

    def forward_pixels(self, y: Tensor, pixel_log_det: Tensor) -> FlowOutput:
        """Score images whose pixel transform has been taken already, ``y`` with its log-det ``(N,)``."""
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
        """Map whitened latents, finest scale first, to dequantised images ``(N, C, H, W)``; exact, or by R."""

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
        """Let every ActNorm see ``x``, dequantised images ``(N, C, H, W)``, unless it has been initialised before."""
        y = self.pixels(x.double())[0].to(next(self.levels.parameters()).dtype)
        for level in self.level_list():
            for bijection in level.bijections():
                if isinstance(bijection, ActNorm) and not bijection.initialized:
                    bijection.initialize(y)
                y = bijection(y)[0]
            if level.prior is not None:
                y = y[:, : level.prior.kept]


def walk(flow: Flow, image_shape: Shape) -> Iterator[tuple[Level, list[tuple[str, Bijection, Shape]], Shape]]:
    """Yield each level with the name, bijection and input shape of its steps, and the shape that leaves them."""
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
    """Return log N(z; 0, I) of each sample, ``(N,)``: -½ Σ z² - (d/2) log 2π."""
    dimensions = z[0].numel() if z.shape[0] else 0
    return -0.5 * sum_samples(z.square()) - 0.5 * dimensions * math.log(2 * math.pi)
