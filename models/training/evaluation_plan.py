"""How many images evaluate and calibrate a model, with time estimates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from models.anomaly.fitting.calibrate import FISHER, FISHER_IMAGES, GRADIENT_IMAGES, GRADIENTS, GradientImages
from models.anomaly.fitting.reference_images import EvenlySpaced, ImageRows
from models.anomaly.gradients.passes import GradientPasses
from models.anomaly.gradients.per_image_gradients import GradientProbe, tile_of
from models.datasets import Dataset
from models.flows.flow import Flow
from snf_runtime.images.batch import stacked
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.likelihood import score_images

TIMED_IMAGES = 32
"""Images that are scored to measure the time of an image."""
FEWEST = {"statistics": 300, "calibration": 400, "test": 200, FISHER: 64}
"""Images of each part of the work that are used however little time there is, where there are so many."""
MIN_GRADIENTS = 200
"""The same for each pass with gradients."""

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and the images in the part."""


@dataclass(frozen=True)
class ImageSeconds:
    score: float
    gradients: float  # a forward and backward pass; 0 if none are computed

    @classmethod
    def measure(cls, density: ImageDensity, images: ImageRows, flow: Flow | None) -> ImageSeconds:
        """Measure the seconds on a few images. Without ``flow`` there are no gradients."""
        if isinstance(density, FeatureDensity) and density.tiled:
            return cls(_seconds_of_tiles(density, images), 0.0)
        few = stacked(images[:TIMED_IMAGES])
        score_images(density, few)
        score = _seconds(lambda: score_images(density, few)) / len(few)
        if flow is None:
            return cls(score, 0.0)
        passes = GradientPasses(GradientProbe(flow), density.weights_digest)
        tile = few[: tile_of(few.shape[2] * few.shape[3])]
        fisher = passes.fisher(tile)
        return cls(score, _seconds(lambda: passes.features(tile, fisher)) / len(tile))


@dataclass(frozen=True)
class EvaluationPlan:
    """Number of images, and seconds for each, by part of the evaluation."""

    images: dict[str, int]
    seconds: dict[str, float]

    @classmethod
    def whole(cls, dataset: Dataset, seconds: ImageSeconds) -> EvaluationPlan:
        """Plan all images outside training, and gradients of a limited number of them."""
        statistics, calibration = len(dataset.statistics), len(dataset.calibration)
        images = {"statistics": statistics, "calibration": calibration, "test": len(dataset.test)}
        times = dict.fromkeys(images, seconds.score)
        if seconds.gradients and dataset.folds is None:
            images[FISHER] = min(statistics, FISHER_IMAGES)
            images |= {part + GRADIENTS: min(images[part], GRADIENT_IMAGES) for part in ("statistics", "calibration")}
            times |= {part: seconds.gradients for part in images if part not in times}
        return cls(images, times)

    @property
    def total_seconds(self) -> float:
        return sum(count * self.seconds[part] for part, count in self.images.items())

    @property
    def gradient_images(self) -> GradientImages:
        """The most images with gradients: for the Fisher information, and for each reference part."""
        ranked = max((count for part, count in self.images.items() if part.endswith(GRADIENTS)), default=0)
        return GradientImages(self.images.get(FISHER, 0), ranked)

    @property
    def has_gradients(self) -> bool:
        """Whether gradients are computed, which only ``thorough`` verdicts use."""
        return FISHER in self.images

    def within(self, seconds: float) -> EvaluationPlan:
        """Reduce all parts alike to fit, but not below ``FEWEST``; leave out gradients if that is not enough."""
        least = {part: min(count, FEWEST.get(part, MIN_GRADIENTS)) for part, count in self.images.items()}

        def shrunk(share: float) -> EvaluationPlan:
            counts = {part: max(least[part], int(share * count)) for part, count in self.images.items()}
            return replace(self, images=counts)

        for share in np.linspace(1.0, 0.0, 201):
            plan = shrunk(share)
            if plan.total_seconds <= seconds:
                return plan
        if not self.has_gradients:
            return plan
        scored = {part: count for part, count in self.images.items() if part in ("statistics", "calibration", "test")}
        return replace(self, images=scored).within(seconds)

    def limited(self, images: dict[str, int]) -> EvaluationPlan:
        return replace(self, images={part: min(count, images.get(part, count)) for part, count in self.images.items()})

    def part_of(self, dataset: Dataset) -> tuple[ImageRows, ImageRows, ImageRows]:
        """Return evenly spaced images for statistics, calibration and tests, as many as planned."""
        statistics, calibration, test = (
            images if self.images[part] == len(images) else EvenlySpaced([images], self.images[part], shuffled=False)
            for part, images in (
                ("statistics", dataset.statistics),
                ("calibration", dataset.calibration),
                ("test", dataset.test),
            )
        )
        return statistics, calibration, test


class EvaluationTimeLeft:
    """Remaining time by plan and speed so far; ``after`` is what follows the last image, in seconds."""

    def __init__(self, plan: EvaluationPlan, after: float) -> None:
        self._plan = plan
        self._after = after
        self._done = dict.fromkeys(plan.images, 0)
        self._began = time.monotonic()

    def seconds_left(self, part: str, done: int) -> float:
        """Return the remaining seconds when ``done`` images of ``part`` are finished."""
        self._done[part] = done
        expected = sum(count * self._plan.seconds.get(name, 0.0) for name, count in self._done.items())
        slowness = (time.monotonic() - self._began) / expected if expected > 0 else 1.0
        return max(self._plan.total_seconds - expected, 0.0) * slowness + self._after


def _seconds_of_tiles(density: FeatureDensity, images: ImageRows) -> float:
    """Return the seconds of an image with the mean number of tiles, from a few tiles."""
    plans = [density.plan(image) for image in images[: len(images)]]
    first = images[:1][0]
    tiles = [plans[0].cut(first, number) for number in range(min(TIMED_IMAGES, len(plans[0])))]
    score_images(density, tiles)
    tile = _seconds(lambda: score_images(density, tiles)) / len(tiles)
    return tile * sum(map(len, plans)) / len(plans)


def _seconds(run: Callable[[], object]) -> float:
    began = time.monotonic()
    run()
    return time.monotonic() - began
