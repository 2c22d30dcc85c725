"""Pass of dequantised images through a frozen flow, the source of likelihoods, statistics and heat maps."""

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
    """Result of running a frozen flow on N dequantised images: latents and log-determinants, in float64.

    Attributes:
        frozen: The flow.
        pixel_log_slopes: log|dy/dx| of the pixel transform, ``(N, C, H, W)`` in nats.
        latents: Latents and log-dets of all levels.
    """

    frozen: FrozenFlow
    pixel_log_slopes: Tensor
    latents: Latents

    def __len__(self) -> int:
        return len(self.pixel_log_slopes)

    def terms(self) -> Tensor:
        """Return the log-prior and log-det of each scale, which sum to the log-likelihood, ``(N, L + 1, 2)`` in nats.

        Scale 0 is the pixel transform; scales 1 to L are the levels. The sum of all terms is the log-likelihood.
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
        """Return each pixel's contribution to the log-likelihood, ``(N, H, W)`` in nats. Pixels sum to the total.

        M(i, j) = pixel transform + Σ_l m_l(i / 2^l, j / 2^l) / 4^l + constants / (H W), where m_l is Σ_c log N(e) +
        prior log-det + Σ_steps log s at a location of level l. Data-independent log-dets are distributed evenly. The
        sum of M over the pixels is the log-likelihood.
        """
        result = self.pixel_log_slopes.sum(1)
        height, width = result.shape[1:]
        scales = iter(self.latents.scales)
        for index, level in enumerate(self.frozen.levels):
            level_map = self.latents.log_dets[index] + self.latents.prior_log_dets[index]
            if level.latent_shape is not None:
                latent = next(scales)
                level_map = level_map - 0.5 * latent.square().sum(1) - 0.5 * latent.shape[1] * math.log(2 * math.pi)
            rows, columns = height // level_map.shape[1], width // level_map.shape[2]
            share = level_map / (rows * columns)
            result = result + share.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
        constant = sum(level.constant_log_det for level in self.frozen.levels)
        return result + constant / (height * width)

    def rows(self, chosen: slice) -> FlowPass:
        """Return the latents and log-determinants of a slice of the images."""
        latents = {
            part.name: [tensor[chosen] for tensor in getattr(self.latents, part.name)] for part in fields(Latents)
        }
        return FlowPass(self.frozen, self.pixel_log_slopes[chosen], Latents(**latents))


def run_flow(engine: Engine, frozen: FrozenFlow, x: Tensor) -> FlowPass:
    """Run a frozen flow on dequantised images and return their latents and log-determinants.

    Args:
        engine: The engine that runs the flow.
        frozen: The flow.
        x: Dequantised images, float64 ``(N, C, H, W)`` in [0, 256).
    """
    y, log_slopes = frozen.pixels.map_with_slope(x)
    return FlowPass(frozen, log_slopes, engine.forward(y))
