"""Pass of dequantised images through a frozen flow, the source of likelihoods, statistics and heat maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from snf_runtime.scoring.engines.base import Engine, Latents
from snf_runtime.scoring.layout import FlowLayout

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FlowPass:
    """Latents and log-dets in float64 of dequantised images that were run through a flow."""

    frozen: FlowLayout
    pixel_log_slopes: Array  # log|dy/dx| of the pixel transform, nats
    latents: Latents

    def __len__(self) -> int:
        return len(self.pixel_log_slopes)

    def terms(self) -> Array:
        """Return log-prior and log-det of the pixel transform and the L levels, ``(N, L + 1, 2)`` in nats."""
        latents = self.latents
        terms = np.zeros((len(self), len(self.frozen.levels) + 1, 2))
        terms[:, 0, 1] = sums(self.pixel_log_slopes)
        scales = iter(latents.scales)
        for index, level in enumerate(self.frozen.levels, start=1):
            terms[:, index, 0] = sums(latents.prior_log_dets[index - 1])
            terms[:, index, 1] = sums(latents.log_dets[index - 1]) + level.constant_log_det
            if level.latent_shape is not None:
                latent = next(scales)
                constant = 0.5 * latent[0].size * math.log(2 * math.pi)
                terms[:, index, 0] -= 0.5 * sums(np.square(latent)) + constant
        return terms

    def additive_map(self) -> Array:
        """Return pixel terms + Σ_l m_l(i / 2^l, j / 2^l) / 4^l + constants / (H W) in nats, which sum to log p."""
        result: Array = self.pixel_log_slopes.sum(1)
        height, width = result.shape[1:]
        scales = iter(self.latents.scales)
        for index, level in enumerate(self.frozen.levels):
            level_map = self.latents.log_dets[index] + self.latents.prior_log_dets[index]
            if level.latent_shape is not None:
                latent = next(scales)
                level_map = level_map - 0.5 * np.square(latent).sum(1) - 0.5 * latent.shape[1] * math.log(2 * math.pi)
            rows, columns = height // level_map.shape[1], width // level_map.shape[2]
            share = level_map / (rows * columns)
            result = result + share.repeat(rows, 1).repeat(columns, 2)
        constant = sum(level.constant_log_det for level in self.frozen.levels)
        total: Array = result + constant / (height * width)
        return total

    def compared_maps(self) -> Array:
        """Return the additive maps."""
        return self.additive_map()

    def rows(self, chosen: slice) -> FlowPass:
        latents = {
            part.name: [values[chosen] for values in getattr(self.latents, part.name)] for part in fields(Latents)
        }
        return FlowPass(self.frozen, self.pixel_log_slopes[chosen], Latents(**latents))


def run_flow(engine: Engine, frozen: FlowLayout, x: Array) -> FlowPass:
    """Run a flow on dequantised images, float64 ``(N, C, H, W)`` in [0, 256)."""
    y, log_slopes = frozen.pixel_function.map_with_slope(x)
    return FlowPass(frozen, log_slopes, engine.forward(y))


def sums(values: Array) -> Array:
    """Return the sum of each image as one row, so that it does not depend on the number of images."""
    total: Array = np.ascontiguousarray(values).reshape(len(values), -1).sum(1)
    return total
