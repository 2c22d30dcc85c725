"""Evidence: statistics of images from their pass through a flow, from which anomaly scores are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.channel_statistics import channel_statistics
from snf_runtime.scoring.flow_pass import FlowPass
from snf_runtime.scoring.grid import pool
from snf_runtime.scoring.latent_statistics import whole_image_statistics
from snf_runtime.scoring.white_level import white_levels


@dataclass(frozen=True)
class FeatureEvidence:
    """Negative log-densities of features up to constants, under several fits, for the T tiles of all images in turn."""

    places: NDArray[np.floating]  # (T, fits, rows, columns) in nats
    pooled: NDArray[np.floating]  # (T, fits, groups) in nats
    plans: tuple[TilePlan, ...] | None = None  # None where every image is one tile

    def __len__(self) -> int:
        return len(self.places) if self.plans is None else len(self.plans)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> FeatureEvidence:
        if self.plans is None:
            return FeatureEvidence(self.places[rows], self.pooled[rows])
        numbers = np.arange(len(self))[rows].tolist()
        tiles = [np.arange(start, stop) for start, stop in (self.tiles[number] for number in numbers)]
        every = np.concatenate([np.zeros(0, dtype=np.intp), *tiles])
        return FeatureEvidence(self.places[every], self.pooled[every], tuple(self.plans[number] for number in numbers))

    @classmethod
    def join(cls, parts: Sequence[FeatureEvidence]) -> FeatureEvidence:
        plans = [plan for part in parts if part.plans is not None for plan in part.plans]
        return cls(
            np.concatenate([part.places for part in parts]),
            np.concatenate([part.pooled for part in parts]),
            None if parts[0].plans is None else tuple(plans),
        )

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """The range ``(start, stop)`` of each image's tiles among all."""
        counts = [1] * len(self.places) if self.plans is None else [len(plan) for plan in self.plans]
        ends = list(accumulate(counts))
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + self.pooled.nbytes

    @property
    def fits(self) -> int:
        """The number of fits: the first is to all training images, each other one leaves a fold out."""
        return int(self.places.shape[1])


@dataclass(frozen=True)
class Evidence:
    """Statistics of images from which verdicts are computed."""

    whole: NDArray[np.float64]  # (N, K); K is 0 for a density of features alone
    cells: NDArray[np.float64]  # log-likelihoods, (N, cells) in nats
    features: FeatureEvidence | None = None
    white_levels: NDArray[np.uint8] | None = None  # (N,); not part of the anomaly statistic
    channels: NDArray[np.float64] | None = None  # of latents, (N, M)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Evidence:
        features = None if self.features is None else self.features[rows]
        levels = None if self.white_levels is None else self.white_levels[rows]
        channels = None if self.channels is None else self.channels[rows]
        return Evidence(self.whole[rows], self.cells[rows], features, levels, channels)

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """Concatenate evidence; what not all parts have is None."""
        features = [part.features for part in parts if part.features is not None]
        levels = [part.white_levels for part in parts if part.white_levels is not None]
        channels = [part.channels for part in parts if part.channels is not None]
        return cls(
            np.concatenate([part.whole for part in parts]),
            np.concatenate([part.cells for part in parts]),
            FeatureEvidence.join(features) if features else None,
            np.concatenate(levels) if len(levels) == len(parts) else None,
            np.concatenate(channels) if len(channels) == len(parts) else None,
        )


def gather(images: NDArray[np.uint8], flow_pass: FlowPass) -> Evidence:
    """Compute the evidence of images, uint8 ``(N, C, H, W)``, from the pass of their first draw."""
    cells = pool(flow_pass.additive_map())
    return Evidence(
        whole_image_statistics(images, flow_pass),
        cells,
        white_levels=white_levels(images),
        channels=channel_statistics(flow_pass),
    )
