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
    """Latents and log-determinants of images that were run through a flow.

    Uniform noise was added to the images. Log-dets are log |det dz/dx|, and all values are float64.

    Attributes:
        frozen: The layout of the flow.
        pixel_log_slopes: log|dy/dx| of the pixel transform, ``(N, C, H, W)`` in nats.
        latents: Latents and log-dets of all levels.
    """

    frozen: FlowLayout
    pixel_log_slopes: Array
    latents: Latents

    def __len__(self) -> int:
        return len(self.pixel_log_slopes)

    def terms(self) -> Array:
        """Return the log-prior and log-determinant of each image at each level of the flow.

        The pixel transform counts as a level, too: the shape is ``(N, L + 1, 2)`` for L levels. All terms sum to log p.

        They are in nats. Row 0 is the pixel transform; rows 1 to L are the levels.
        """
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
        """Return maps of what each pixel contributes to the log-likelihood of its image.

        The shape is ``(N, H, W)``, in nats. The contributions sum to log p(x) of the image.

        M(i, j) = pixel transform + Σ_l m_l(i / 2^l, j / 2^l) / 4^l + constants / (H W), where m_l is Σ_c log N(e) +
        prior log-det + Σ_steps log s at a location of level l. Data-independent log-dets are distributed evenly. The
        sum of M over the pixels is the log-likelihood.
        """
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
        """Return the per-pixel log-likelihood maps that heat maps compare with averages over normal images.

        They are the additive maps, ``(N, H, W)`` in nats.
        """
        return self.additive_map()

    def rows(self, chosen: slice) -> FlowPass:
        """Return a new ``FlowPass`` with the results for only the images in the slice ``chosen``."""
        latents = {
            part.name: [values[chosen] for values in getattr(self.latents, part.name)] for part in fields(Latents)
        }
        return FlowPass(self.frozen, self.pixel_log_slopes[chosen], Latents(**latents))


def run_flow(engine: Engine, frozen: FlowLayout, x: Array) -> FlowPass:
    """Run a flow on dequantised images (pixels plus uniform noise) and return a ``FlowPass``.

    The result holds their latents and log-dets.

    Args:
        engine: The engine that runs the flow.
        frozen: The layout of the flow.
        x: Dequantised images, float64 ``(N, C, H, W)`` in [0, 256).
    """
    y, log_slopes = frozen.pixel_function.map_with_slope(x)
    return FlowPass(frozen, log_slopes, engine.forward(y))


def sums(values: Array) -> Array:
    """Return the sum of all values of each image in a batch, ``(N, ...) -> (N,)``.

    Each image is one row, so that its sum does not depend on the number of images.
    """
    total: Array = np.ascontiguousarray(values).reshape(len(values), -1).sum(1)
    return total
