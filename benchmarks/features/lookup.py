"""Features that were extracted once, and an extractor and an engine that find them by the pixels of an image.

Twenty splits of the same images then cost twenty fits, and the backbone runs once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.artifacts.manifest import Precision
from snf_models.bijections.local_affine import FrozenLocalAffine
from snf_models.features.extractor import FeatureExtractor
from snf_models.features.flows import FrozenFeatureFlows, sums_of_groups
from snf_runtime.images.preprocessing import Pixels

BATCH = 32
Features = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureTable:
    """Features of some images, read-only.

    Attributes:
        places: Features at places, ``(N, C, rows, columns)``, mapped from a file.
        pooled: Pooled features, ``(N, K)``.
        groups: The numbers of pooled features in each of their groups.
        rows: The row of every image, by a digest of its pixels.
    """

    places: Features
    pooled: Features
    groups: tuple[int, ...]
    rows: dict[bytes, int]

    @classmethod
    def extract(cls, images: Pixels, extractor: FeatureExtractor, path: Path) -> FeatureTable:
        """Return the features of ``images``; they are read from ``path`` if an earlier run has stored them there."""
        whole = path.with_suffix(".pooled.npy")
        if not whole.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            places = np.lib.format.open_memmap(partial, "w+", np.float32, (len(images), *extractor.feature_shape))
            pooled = np.empty((len(images), sum(extractor.pooled)), dtype=np.float32)
            for start in range(0, len(images), BATCH):
                rows = slice(start, start + BATCH)
                places[rows], pooled[rows] = extractor(np.ascontiguousarray(images[rows]))
            places.flush()
            partial.replace(path)
            np.save(whole, pooled)
        rows = {digest_of_image(image): number for number, image in enumerate(images)}
        return cls(np.load(path, mmap_mode="r"), np.load(whole), extractor.pooled, rows)

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        _, channels, rows, columns = self.places.shape
        return channels, rows, columns

    def rows_of(self, images: Pixels) -> NDArray[np.intp]:
        """Return the rows of images. Raises ``KeyError`` for an image that is not in the table."""
        return np.array([self.rows[digest_of_image(image)] for image in images], dtype=np.intp)


def digest_of_image(image: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


class LookupExtractor:
    """A function from images to their features, as :class:`snf_models.features.extractor.FeatureExtractor` says."""

    def __init__(self, table: FeatureTable) -> None:
        self.table = table
        self.feature_shape = table.feature_shape
        self.pooled = table.groups

    def __call__(self, images: Pixels) -> tuple[Features, Features]:
        """Return the features at places, ``(N, C, rows, columns)``, and the pooled ones, ``(N, K)``."""
        rows = self.table.rows_of(images)
        return self.table.places[rows], self.table.pooled[rows]


class LookupEngine:
    """An engine that finds the features of an image in a table and runs the flows over them in float64."""

    name = "lookup"
    precision: Precision = "float32"
    micro_batch = BATCH
    threads = 1

    def __init__(self, table: FeatureTable, flows: FrozenFeatureFlows) -> None:
        self._extract = LookupExtractor(table)
        self._flows = flows

    @torch.inference_mode()
    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² at each place, ``(N, fits, rows, columns)``, and of pooled ones, ``(N, fits, groups)``."""
        places, pooled = [], []
        for start in range(0, len(images), BATCH):
            features, whole = map(torch.from_numpy, self._extract(images[start : start + BATCH]))
            places.append(torch.stack([_squares(layer, features).sum(1) for layer in self._flows.places], 1))
            squares = [_squares(layer, whole[:, :, None, None]).flatten(1) for layer in self._flows.pooled]
            pooled.append(torch.stack([sums_of_groups(of_fit, self._flows.groups) for of_fit in squares], 1))
        return torch.cat(places).numpy(), torch.cat(pooled).numpy()


def _squares(layer: FrozenLocalAffine, features: Tensor) -> Tensor:
    return layer.forward(features.double())[0].square()
