"""Plan of how many images are used to evaluate and calibrate a model, with time estimates."""

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
    """Measured time in seconds to score one image and to compute its gradients.

    ``gradients`` is the time of a forward and backward pass, or 0 if no gradients are computed.
    """

    score: float
    gradients: float

    @classmethod
    def measure(cls, density: ImageDensity, images: ImageRows, flow: Flow | None) -> ImageSeconds:
        """Measure how long it takes to score an image and to compute its gradients, on a few images.

        An uncounted run warms up first.

        Args:
            density: The density that scores.
            images: Images of the dataset.
            flow: The flow that gives gradients; None for a density without them.
        """
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
    """Plan of a model's evaluation: how many images to use in each part, such as calibration or test.

    It also has the seconds per image. Both are dicts by the name of the part.
    """

    images: dict[str, int]
    seconds: dict[str, float]

    @classmethod
    def whole(cls, dataset: Dataset, seconds: ImageSeconds) -> EvaluationPlan:
        """Return a plan to evaluate a model on all images outside the training part of a dataset.

        These are the images for anomaly statistics, for calibration and for tests. Gradients are computed for a limited
        number of them.

        Args:
            dataset: The dataset; without a calibration part, where there are folds, there are no gradients.
            seconds: The measured times.
        """
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
        """Planned time of the whole evaluation of a model, in seconds."""
        return sum(count * self.seconds[part] for part, count in self.images.items())

    @property
    def gradient_images(self) -> GradientImages:
        """The two limits on how many images the calibration computes log-likelihood gradients for.

        One is the limit for the Fisher information, the other the limit for each of the two parts of the reference
        images.
        """
        ranked = max((count for part, count in self.images.items() if part.endswith(GRADIENTS)), default=0)
        return GradientImages(self.images.get(FISHER, 0), ranked)

    @property
    def has_gradients(self) -> bool:
        """Whether this plan of a model's evaluation includes computing gradients of the log-likelihood.

        Only anomaly verdicts with the option ``thorough`` use them.
        """
        return FISHER in self.images

    def within(self, seconds: float) -> EvaluationPlan:
        """Return this plan with fewer images if needed, so that the evaluation takes at most the given time.

        ``seconds`` is the time. The number of images in each part is reduced by the same factor, but not below a
        minimum.

        No part gets fewer images than ``FEWEST``. Where that takes longer, gradients are left out, which only thorough
        verdicts need; the plan without them may still take longer.
        """
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
        """Return a copy of this evaluation plan with the image count of each part capped at a maximum.

        ``images`` has the number for each part by name, such as "test". Parts without a number stay as they are.
        """
        return replace(self, images={part: min(count, images.get(part, count)) for part, count in self.images.items()})

    def part_of(self, dataset: Dataset) -> tuple[ImageRows, ImageRows, ImageRows]:
        """Return a dataset's images that this plan uses, in three parts: for statistics, calibration and tests.

        They are evenly spaced, as many as in the plan, and in their order.
        """
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
    """Estimator of the time that remains in a running evaluation of a model, in seconds.

    The estimate follows from the plan and from the speed so far.

    Args:
        plan: The images of each part of the work and their expected time.
        after: Expected time of what follows the last image, in seconds.
    """

    def __init__(self, plan: EvaluationPlan, after: float) -> None:
        self._plan = plan
        self._after = after
        self._done = dict.fromkeys(plan.images, 0)
        self._began = time.monotonic()

    def seconds_left(self, part: str, done: int) -> float:
        """Return the estimated remaining time of the model's evaluation, in seconds.

        ``done`` images of ``part`` are finished. The time of what follows the last image is included.
        """
        self._done[part] = done
        expected = sum(count * self._plan.seconds.get(name, 0.0) for name, count in self._done.items())
        slowness = (time.monotonic() - self._began) / expected if expected > 0 else 1.0
        return max(self._plan.total_seconds - expected, 0.0) * slowness + self._after


def _seconds_of_tiles(density: FeatureDensity, images: ImageRows) -> float:
    """Return the time of an image with the mean number of tiles, from that of a few tiles, in seconds."""
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
