"""Scores without a local density, of the same features: global Gaussian, nearest patches, pooled Mahalanobis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from snf_models.features.extractor import FeatureExtractor
from snf_runtime.images.preprocessing import Pixels

BATCH = 32
PATCHES = 5_000
RIDGE = 1e-3
MAPS = ("global Gaussian", "nearest patches")
Array = NDArray[np.float64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureBaselines:
    """Scores of images by their features, fitted to training images.

    Attributes:
        extractor: The function from images to features.
        mean: Mean of the features at all places of all images, ``(C,)``.
        scale: Their deviations, ``(C,)``.
        whitening: Matrix that whitens the divided features, ``(C, C)``: one Gaussian for all places.
        patches: Divided features at random places of random training images, ``(patches, C)``.
        pooled: Gaussian of the deepest pooled features, with the covariance of Ledoit and Wolf.
        centres: Mean map of each score at places over the images of the statistics part, ``(rows, columns)``.
    """

    extractor: FeatureExtractor
    mean: Features
    scale: Features
    whitening: Features
    patches: Features
    pooled: LedoitWolf
    centres: dict[str, Array]

    @classmethod
    def fit(
        cls, train: Pixels, statistics: Pixels, extractor: FeatureExtractor, seed: int, patches: int = PATCHES
    ) -> FeatureBaselines:
        """Fit all scores to training images, and the centres of their maps to the images of the statistics part."""
        random = np.random.default_rng(seed)
        channels, rows, columns = extractor.feature_shape
        each = np.bincount(random.integers(len(train), size=patches), minlength=len(train))
        total, products = np.zeros(channels), np.zeros((channels, channels))
        chosen, pooled = [], []
        for start in range(0, len(train), BATCH):
            at_places, whole = extractor(np.ascontiguousarray(train[start : start + BATCH]))
            flat = _flat(at_places)
            total += flat.sum(0, dtype=np.float64)
            products += (flat.T @ flat).astype(np.float64)
            chosen += [
                of_image[random.permutation(rows * columns)[:count]]
                for of_image, count in zip(
                    flat.reshape(len(at_places), -1, channels), each[start : start + BATCH], strict=True
                )
            ]
            pooled.append(_deepest(extractor, whole))
        count = len(train) * rows * columns
        mean = total / count
        covariance = products / count - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(covariance.diagonal(), 1e-12))
        factor = np.linalg.cholesky(covariance / np.outer(scale, scale) + RIDGE * np.eye(channels))
        narrow = [part.astype(np.float32) for part in (mean, scale, np.linalg.inv(factor))]
        bank = (np.concatenate(chosen) - narrow[0]) / narrow[1]
        fitted = cls(extractor, *narrow, bank, LedoitWolf().fit(np.concatenate(pooled)), {})
        centres = dict.fromkeys(MAPS, 0.0)
        for start in range(0, len(statistics), BATCH):
            maps = fitted.maps(extractor(np.ascontiguousarray(statistics[start : start + BATCH]))[0])
            centres = {name: centres[name] + maps[name].sum(0) / len(statistics) for name in MAPS}
        return replace(fitted, centres=centres)

    def maps(self, at_places: Features) -> dict[str, Array]:
        """Return the value of every score at places, ``(N, rows, columns)``, by the name of the score."""
        images, _, rows, columns = at_places.shape
        divided = (_flat(at_places) - self.mean) / self.scale
        z = divided @ self.whitening.T
        squares = np.square(divided).sum(1)[:, None] + np.square(self.patches).sum(1)
        nearest = (squares - 2 * divided @ self.patches.T).min(1)
        shape = images, rows, columns
        return {
            "global Gaussian": np.square(z).sum(1).reshape(shape).astype(np.float64),
            "nearest patches": np.sqrt(np.maximum(nearest, 0)).reshape(shape).astype(np.float64),
        }

    def __call__(self, images: Pixels) -> dict[str, Array]:
        """Return every score of each image, ``(N,)``, by name: the largest value of a map, plain and centred."""
        found: dict[str, list[Array]] = {}
        for start in range(0, len(images), BATCH):
            at_places, whole = self.extractor(np.ascontiguousarray(images[start : start + BATCH]))
            for name, maps in self.maps(at_places).items():
                found.setdefault(name, []).append(maps.max((1, 2)))
                found.setdefault(f"{name}, centred", []).append((maps - self.centres[name]).max((1, 2)))
            found.setdefault("pooled Mahalanobis", []).append(self.pooled.mahalanobis(_deepest(self.extractor, whole)))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def _deepest(extractor: FeatureExtractor, whole: Features) -> Features:
    """Return the last group of the pooled features, those of the deepest map."""
    return whole[:, -extractor.pooled[-1] :]


def _flat(at_places: Features) -> Features:
    """Return features at places as rows, ``(N, C, rows, columns) -> (N * places, C)``."""
    return np.ascontiguousarray(at_places.transpose(0, 2, 3, 1)).reshape(-1, at_places.shape[1])
