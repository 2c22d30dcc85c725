"""Energies of latent channels and correlations along diagonals, which noise, blur and foreign textures change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_runtime.scoring.flow_pass import FlowPass, sums
from snf_runtime.scoring.latent_statistics import TINY, correlation
from snf_runtime.scoring.layout import FlowLayout, LevelLayout

Array = NDArray[np.float64]

ENERGY, FALLING, RISING = "energy", "falling", "rising"
KINDS = (ENERGY, FALLING, RISING)
MAX_CHANNELS = 16
"""Most channels of a level whose energies are statistics: more need more reference images than most users have."""


def energies(latent: Array) -> Array:
    """Return ln of the mean square of each channel, about N(0, 2 / (H W)) for images from an exact flow."""
    images, channels = latent.shape[:2]
    # Each channel is one row, so that its sum does not depend on the number of images.
    squares = sums(np.square(latent).reshape(images * channels, -1)).reshape(images, channels)
    result: Array = np.log(squares / latent[0, 0].size + TINY)
    return result


def falling(latent: Array) -> Array:
    """Return Σ e(i, j) e(i+1, j+1) / Σ e² of d latents, about N(0, (H - 1) (W - 1) / (H W d)) under an exact flow."""
    return correlation(latent, latent[..., 1:, 1:], latent[..., :-1, :-1])


def rising(latent: Array) -> Array:
    """Return Σ e(i+1, j) e(i, j+1) / Σ e² of latents, distributed as :func:`falling`."""
    return falling(latent[..., ::-1])


def channel_statistic_names(frozen: FlowLayout) -> tuple[str, ...]:
    """Return names such as ``energy-1-3`` (level, channel); none for a flow that mixes all pixels."""
    names: list[str] = []
    for number, level in enumerate(frozen.levels, start=1):
        if level.latent_shape is None or not _is_grid(frozen, level):
            continue
        channels = level.latent_shape[0]
        if _has_energies(channels):
            names += [f"{ENERGY}-{number}-{channel}" for channel in range(1, channels + 1)]
        names += [f"{FALLING}-{number}", f"{RISING}-{number}"]
    return tuple(names)


def is_channel_statistic(name: str) -> bool:
    return name.partition("-")[0] in KINDS


def channel_statistics(flow_pass: FlowPass) -> Array:
    """Return the statistics of :func:`channel_statistic_names`, float64 ``(N, M)``."""
    columns: list[Array] = [np.zeros((len(flow_pass), 0))]
    scales = iter(flow_pass.latents.scales)
    for level in flow_pass.frozen.levels:
        if level.latent_shape is None:
            continue
        latent = next(scales)
        if not _is_grid(flow_pass.frozen, level):
            continue
        if _has_energies(level.latent_shape[0]):
            columns.append(energies(latent))
        columns += [falling(latent)[:, None], rising(latent)[:, None]]
    return np.concatenate(columns, 1)


def _is_grid(frozen: FlowLayout, level: LevelLayout) -> bool:
    return frozen.is_spatial and level.latent_shape is not None and min(level.latent_shape[1:]) > 1


def _has_energies(channels: int) -> bool:
    # The energy of a single channel is the radius of its level, which is a statistic of the whole image.
    return 1 < channels <= MAX_CHANNELS
