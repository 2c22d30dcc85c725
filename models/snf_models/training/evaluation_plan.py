"""How many images evaluate and calibrate a model, with time estimates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from snf_models.anomaly.reference_images import EvenlySpaced, ImageRows
from snf_models.datasets import Dataset
from snf_runtime.images.batch import stacked
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.likelihood import score_images

TIMED_IMAGES = 32
"""Images that are scored to measure the time of an image."""
FEWEST = {"statistics": 300, "calibration": 400, "test": 200}
"""Images of each part of the work that are used however little time there is, where there are so many."""

Report = Callable[[str, int, int], None]
"""A function that is called with the name of a part of the work, the images done, and the images in the part."""


def image_seconds(density: ImageDensity, images: ImageRows) -> float:
    """Measure how long an image takes to score, on a few images."""
    if isinstance(density, FeatureDensity) and density.tiled:
        return _seconds_of_tiles(density, images)
    few = stacked(images[:TIMED_IMAGES])
    score_images(density, few)
    return _seconds(lambda: score_images(density, few)) / len(few)


@dataclass(frozen=True)
class EvaluationPlan:
    """Number of images by part of the evaluation, and the seconds of an image."""

    images: dict[str, int]
    seconds: float

    @classmethod
    def whole(cls, dataset: Dataset, seconds: float) -> EvaluationPlan:
        """Plan all images outside training."""
        parts = {"statistics": dataset.statistics, "calibration": dataset.calibration, "test": dataset.test}
        return cls({part: len(images) for part, images in parts.items()}, seconds)

    @property
    def total_seconds(self) -> float:
        return self.seconds * sum(self.images.values())

    def within(self, seconds: float) -> EvaluationPlan:
        """Reduce all parts alike to fit, but not below ``FEWEST``."""
        least = {part: min(count, FEWEST[part]) for part, count in self.images.items()}

        def shrunk(share: float) -> EvaluationPlan:
            counts = {part: max(least[part], int(share * count)) for part, count in self.images.items()}
            return replace(self, images=counts)

        for share in np.linspace(1.0, 0.0, 201):
            plan = shrunk(share)
            if plan.total_seconds <= seconds:
                break
        return plan

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
        if part in self._done:
            self._done[part] = done
        expected = self._plan.seconds * sum(self._done.values())
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
