"""Backward passes over dequantised images: gradient features, Fisher information and gradient maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anomaly.fitting.reference_images import ImageRows
from models.anomaly.gradients.per_image_gradients import (
    GradientProbe,
    Gradients,
    fisher_information,
    gradient_map,
    layer_features,
)
from models.datasets import Images
from snf_runtime.errors import ScoreNotFinite
from snf_runtime.images.batch import stacked
from snf_runtime.scoring.likelihood import Likelihood
from snf_runtime.scoring.pixel_density import dequantise

BATCH_IMAGES = 32
"""Images of a batch, whose gradients are in memory together."""
KEPT_GRADIENTS = 2**23
"""Most numbers that are kept for a second use, squared gradients of weights and gradients of pixels: 32 MiB."""


@dataclass(frozen=True)
class GradientPasses:
    """Backward passes that compute gradients of the log-likelihood of each image, batch by batch.

    Each batch of at most 32 images takes backward passes. The images are uint8 ``(N, C, H, W)``.

    ``weights_digest`` keys the dequantisation noise.
    """

    probe: GradientProbe
    weights_digest: str

    def fisher(
        self,
        images: ImageRows,
        progress: Callable[[int], None] = lambda _done: None,
        rows: NDArray[np.intp] | None = None,
    ) -> list[Tensor]:
        """Return the diagonal Fisher information: the mean squared log-likelihood gradient of each flow weight.

        The mean is over the images. The weights are those that ``probe`` covers. There is one tensor for each group of
        layers.

        This is the diagonal Fisher information, ``(P_group,)`` for each group.

        Args:
            images: The images, read in batches.
            progress: Called with the number of images done; what it raises ends the work.
            rows: The numbers of the images to use; None for all.
        """
        return fisher_information(self._counted(images, progress, rows))

    def features(
        self,
        images: ImageRows,
        fisher: list[Tensor],
        progress: Callable[[int], None] = lambda _done: None,
        rows: NDArray[np.intp] | None = None,
    ) -> NDArray[np.float64]:
        """Return each image's gradient features: sizes of the log-likelihood gradients for pixels and layer groups.

        They are logarithms of squared gradient norms of log p, plain and relative to the Fisher information. The result
        is float64 ``(N, K)``.

        The columns are those of :func:`layer_features`. ``rows`` are the numbers of the images to use; None for all.
        """
        return self._features(self._counted(images, progress, rows), fisher)

    def fisher_and_features(
        self,
        images: ImageRows,
        rows: tuple[NDArray[np.intp], NDArray[np.intp]],
        progress: tuple[Callable[[int], None], Callable[[int], None]],
    ) -> tuple[list[Tensor], NDArray[np.float64]]:
        """Return the Fisher information as by :meth:`fisher`, and the gradient features as by :meth:`features`.

        Where both are of the same images and the gradients of these are few, each image has a single backward pass.

        Args:
            images: The images, read in batches.
            rows: The numbers of the images to use, for the information and for the features.
            progress: Functions that are called with the number of images done, for both; the second one only once,
                with all images, if there is a single pass.
        """
        numbers = sum(self.probe.sizes) + sum(image.size for image in images[:1])
        if not np.array_equal(*rows) or len(rows[0]) * numbers > KEPT_GRADIENTS:
            fisher = self.fisher(images, progress[0], rows[0])
            return fisher, self.features(images, fisher, progress[1], rows[1])
        kept = list(self._counted(images, progress[0], rows[0]))
        fisher = fisher_information(iter(kept))
        features = self._features(iter(kept), fisher)
        progress[1](len(features))
        return fisher, features

    def maps(self, images: Images) -> NDArray[np.float64]:
        """Return one map for each image: the size (norm) of the log-likelihood gradient at each pixel.

        The size is the norm over the channels. The result is ``(N, H, W)``.

        The gradient is with respect to the pixels after dequantisation and the pixel transform.
        """
        return np.concatenate([gradient_map(gradients) for gradients in self._batches(images)])

    def split(self, fisher: NDArray[np.float32]) -> list[Tensor]:
        """Split an array with a value for each probed flow weight into one tensor for each group of layers.

        The array is ``(P,)``, one value for each weight that ``probe`` covers.

        The values are a Fisher information. Raises ``ValueError`` where the length is that of another flow.
        """
        sizes = self.probe.sizes
        if sum(sizes) != len(fisher):
            raise ValueError(f"expected {sum(sizes)} squared gradients, got {len(fisher)}")
        return list(torch.split(torch.from_numpy(fisher), sizes))

    def _features(self, batches: Iterator[Gradients], fisher: list[Tensor]) -> NDArray[np.float64]:
        features = [layer_features(gradients, fisher) for gradients in batches]
        return np.concatenate(features) if features else np.zeros((0, 1 + 2 * len(self.probe.names)))

    def _counted(
        self, images: ImageRows, progress: Callable[[int], None], rows: NDArray[np.intp] | None
    ) -> Iterator[Gradients]:
        done = 0
        for gradients in self._batches(images, rows):
            yield gradients
            done += len(gradients.image)
            progress(done)

    def _batches(self, images: ImageRows, rows: NDArray[np.intp] | None = None) -> Iterator[Gradients]:
        numbers = range(len(images)) if rows is None else rows.tolist()
        for start in range(0, len(numbers), BATCH_IMAGES):
            batch = [images[number : number + 1][0] for number in numbers[start : start + BATCH_IMAGES]]
            yield self.probe(torch.from_numpy(dequantise(stacked(batch), self.weights_digest)))


def add_gradients(
    scored: list[Likelihood | ScoreNotFinite], features: NDArray[np.float64]
) -> list[Likelihood | ScoreNotFinite]:
    """Return image scores with the given log-likelihood gradient features attached to each image's score.

    ``features`` has one row for each image, ``(N, G)``.

    Images without a finite log-likelihood keep their errors.
    """

    def add(score: Likelihood | ScoreNotFinite, row: NDArray[np.float64]) -> Likelihood | ScoreNotFinite:
        if isinstance(score, ScoreNotFinite) or score.evidence is None:
            return score
        return replace(score, evidence=replace(score.evidence, gradients=row[None]))

    return [add(score, row) for score, row in zip(scored, features, strict=True)]
