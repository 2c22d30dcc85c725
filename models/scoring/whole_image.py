"""Statistics of a whole image from one forward pass, none of them an exact linear combination of others.

Each says what it would be distributed like if the flow were exact. Flows are not: what an image is compared with is
the reference set, never these.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.scoring.complexity import residual_entropy
from models.scoring.flow_pass import FlowPass
from models.scoring.frozen import FrozenFlow

COMPLEXITY = "complexity"
PIXEL_TERM = "pixel-term"

TINY = 1e-300
"""Keeps logarithms finite where a flow's arithmetic underflows."""


def spread(prior_log_det: Tensor, dimensions: int) -> Tensor:
    """Return the bits/dim that the split prior's deviations cost, ``(N, H, W)`` -> ``(N,)``: Σ log2 σ / d.

    No distribution of its own: it says how predictable the leaving half is.
    """
    return -prior_log_det.sum((1, 2)) / (dimensions * math.log(2))


def volume(log_det: Tensor, dimensions: int) -> Tensor:
    """Return the bits/dim of a level's change of volume, ``(N, H, W)`` -> ``(N,)``: -Λ / (D ln 2).

    No distribution of its own: with :func:`radius` and :func:`spread` it makes up the level's part of bits/dim.
    """
    return -log_det.sum((1, 2)) / (dimensions * math.log(2))


def radius(latent: Tensor) -> Tensor:
    """Return log(||e||² / d) of whitened latents ``(N, C, H, W)``, ``(N,)``; about N(0, 2/d)."""
    return torch.log(latent.square().mean((1, 2, 3)) + TINY)


def horizontal(latent: Tensor) -> Tensor:
    """Return the lag-1 autocorrelation along rows, Σ e(j) e(j+1) / Σ e², ``(N,)``; about N(0, (W - 1) / (W d))."""
    return (latent[..., 1:] * latent[..., :-1]).sum((1, 2, 3)) / (latent.square().sum((1, 2, 3)) + TINY)


def vertical(latent: Tensor) -> Tensor:
    """Return the lag-1 autocorrelation along columns, ``(N,)``; about N(0, (H - 1) / (H d))."""
    return horizontal(latent.transpose(2, 3))


def kurtosis(latent: Tensor) -> Tensor:
    """Return the excess kurtosis, mean e⁴ / (mean e²)² - 3, ``(N,)``; about N(0, 24/d)."""
    square = latent.square()
    return square.square().mean((1, 2, 3)) / (square.mean((1, 2, 3)).square() + TINY) - 3


def reconstruction(errors: Tensor) -> Tensor:
    """Return the mean over a level's layers of log(||R W x - x||² / ||x||²), ``(N, layers)`` -> ``(N,)``.

    The learned inverse R was fitted to activations of training images: others lie elsewhere among the channels.
    Rounding noise, without any distribution, where R is exact to the precision of the weights.
    """
    return torch.log(errors + TINY).mean(1)


def statistic_names(frozen: FrozenFlow) -> tuple[str, ...]:
    """Return the names of the statistics of a flow, in the order of :func:`whole_image_statistics`."""
    names = [COMPLEXITY, PIXEL_TERM]
    for number, level in enumerate(frozen.levels, start=1):
        kinds = ["volume"]
        if level.prior is not None:
            kinds.append("spread")
        if level.latent_shape is not None:
            _, height, width = level.latent_shape
            kinds += ["radius", "kurtosis"]
            kinds += ["horizontal"] if width > 1 else []
            kinds += ["vertical"] if height > 1 else []
        kinds += ["reconstruction"] if level.has_reconstruction else []
        names += [f"{kind}-{number}" for kind in kinds]
    return tuple(names)


def whole_image_statistics(images: NDArray[np.uint8], found: FlowPass) -> NDArray[np.float64]:
    """Return all statistics of ``images``, ``(N, C, H, W)``, and their pass: ``(N, K)``, float64."""
    size = images[0].size
    columns = [
        torch.from_numpy(residual_entropy(images)),
        -found.pixel_log_slopes.sum((1, 2, 3)) / (size * math.log(2)),
    ]
    latents, scales = found.latents, iter(found.latents.scales)
    for index, level in enumerate(found.frozen.levels):
        latent = next(scales) if level.latent_shape is not None else None
        left = 0 if latent is None else latent[0].numel()
        locations = latents.log_dets[index][0].numel()
        columns.append(volume(latents.log_dets[index], left + level.kept * locations))
        if level.prior is not None:
            columns.append(spread(latents.prior_log_dets[index], left))
        if latent is not None:
            columns += [radius(latent), kurtosis(latent)]
            columns += [horizontal(latent)] if latent.shape[3] > 1 else []
            columns += [vertical(latent)] if latent.shape[2] > 1 else []
        if level.has_reconstruction:
            columns.append(reconstruction(latents.reconstruction_errors[index]))
    return torch.stack(columns, 1).numpy()
