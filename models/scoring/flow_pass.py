"""One pass of dequantised images through a frozen flow: all that likelihoods, statistics and heat maps are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from models.flows.flow import standard_normal_log_prob
from models.scoring.engines import Engine, Latents
from models.scoring.frozen import FrozenFlow


@dataclass(frozen=True)
class FlowPass:
    """What ``frozen`` makes of dequantised images, float64.

    ``pixel_log_slopes``: log|dy/dx| of the pixel transform, ``(N, C, H, W)`` in nats.
    """

    frozen: FrozenFlow
    pixel_log_slopes: Tensor
    latents: Latents

    def __len__(self) -> int:
        return len(self.pixel_log_slopes)

    def terms(self) -> Tensor:
        """Return log-prior and log-det of every scale, ``(N, L + 1, 2)`` in nats; they sum to the log-likelihood.

        Scale 0 is the pixel transform.
        """
        latents = self.latents
        terms = torch.zeros(len(self), len(self.frozen.levels) + 1, 2, dtype=torch.float64)
        terms[:, 0, 1] = self.pixel_log_slopes.sum((1, 2, 3))
        scales = iter(latents.scales)
        for index, level in enumerate(self.frozen.levels, start=1):
            terms[:, index, 0] = latents.prior_log_dets[index - 1].sum((1, 2))
            terms[:, index, 1] = latents.log_dets[index - 1].sum((1, 2)) + level.constant_log_det
            if level.latent_shape is not None:
                terms[:, index, 0] += standard_normal_log_prob(next(scales))
        return terms

    def additive_map(self) -> Tensor:
        """Return the log-likelihood spread over the pixels, ``(N, H, W)`` in nats; its sum is the log-likelihood.

        M(i, j) = pixel transform + Σ_l m_l(i / 2^l, j / 2^l) / 4^l + constants / (H W), with m_l = Σ_c log N(e) +
        prior log-det + Σ_steps log s at a location of level l: every data-dependent log-det of these flows belongs to a
        location, and the others are spread evenly. What a location owes to its neighbours through the coupling nets
        stays where it acts.
        """
        result = self.pixel_log_slopes.sum(1)
        height, width = result.shape[1:]
        scales = iter(self.latents.scales)
        for index, level in enumerate(self.frozen.levels):
            found = self.latents.log_dets[index] + self.latents.prior_log_dets[index]
            if level.latent_shape is not None:
                latent = next(scales)
                found = found - 0.5 * latent.square().sum(1) - 0.5 * latent.shape[1] * math.log(2 * math.pi)
            rows, columns = height // found.shape[1], width // found.shape[2]
            share = found / (rows * columns)
            result = result + share.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        constant = sum(level.constant_log_det for level in self.frozen.levels)
        return result + constant / (height * width)

    def rows(self, chosen: slice) -> FlowPass:
        """Return the pass of some of the images."""
        latents = {part.name: [one[chosen] for one in getattr(self.latents, part.name)] for part in fields(Latents)}
        return FlowPass(self.frozen, self.pixel_log_slopes[chosen], Latents(**latents))


def run_flow(engine: Engine, frozen: FrozenFlow, x: Tensor) -> FlowPass:
    """Run dequantised images ``x``, float64 ``(N, C, H, W)`` in [0, 256), through the flow."""
    y, log_slopes = frozen.pixels.map_with_slope(x)
    return FlowPass(frozen, log_slopes, engine.forward(y))
