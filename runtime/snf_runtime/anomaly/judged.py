"""Results for scored images: log-likelihood, anomaly verdict and heat map of each image together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.pixel_contributions import PixelMaps
from snf_runtime.anomaly.regions import MapRegions
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.errors import ImageError, SizeNotCalibrated
from snf_runtime.images.batch import Batch
from snf_runtime.images.placement import FilePlacement
from snf_runtime.images.tiles import TilePlan
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.likelihood import Likelihood


@dataclass(frozen=True)
class JudgedImage:
    """The results for one image: its exact log-likelihood, its anomaly verdict and, if requested, a heat map.

    Attributes:
        likelihood: The log-likelihood, in nats, with its terms.
        verdict: The p-value and the decision at the false-alarm rate asked for.
        heat_map: The contribution of each pixel, where heat maps were asked for.
        regions: The regions of the heat map at the false-alarm rate of the verdict; None without a heat map, or where
            the calibration has no threshold for it.
    """

    likelihood: Likelihood
    verdict: Verdict
    heat_map: PixelMaps | None = None
    regions: MapRegions | None = None

    def with_regions(self, threshold: float | None) -> JudgedImage:
        """Return this result together with the image regions where the anomaly map is at or above a threshold.

        The reasons of the verdict get the boxes of the regions that they belong to. The result is unchanged without a
        heat map or a threshold.
        """
        if self.heat_map is None or threshold is None:
            return self
        regions = self.heat_map.regions(threshold)
        return replace(self, regions=regions, verdict=self.verdict.with_regions(regions))

    def in_file(self, placement: FilePlacement) -> JudgedImage:
        """Return this result with all boxes and areas converted to pixels of the original file.

        The coordinates are those of the upright file. Heat maps stay as they are.
        """
        regions = None if self.regions is None else self.regions.in_file(placement)
        return replace(self, regions=regions, verdict=self.verdict.in_file(placement))


Judgement: TypeAlias = JudgedImage | ImageError
"""The result for one image: its likelihood and verdict, or the error of an image that is not judged."""


def judge_by(
    density: ImageDensity,
    calibration: Calibration,
    scored: Sequence[Likelihood | ImageError],
    alphas: Sequence[float | None],
    heat_maps: Sequence[PixelMaps] | None = None,
) -> list[Judgement]:
    """Return each scored image's log-likelihood together with its anomaly verdict by a calibration.

    Regions are added to an image with a heat map, if the calibration has a threshold for it. An image with an error
    keeps it.

    Args:
        density: The density that gave the scores.
        calibration: Its calibration.
        scored: The likelihood or the error of N images.
        alphas: The false-alarm rate of each of the N images; None for the default of the calibration.
        heat_maps: The heat maps of the images that were passed through the model.

    Raises:
        AlphaUnattainable: The calibration has too few images for a false-alarm rate.
    """
    judged = judge_scored(scored, alphas, partial(verdicts, density, calibration), heat_maps)
    limit = calibration.map_threshold
    return [one if isinstance(one, ImageError) else one.with_regions(limit(one.verdict.alpha)) for one in judged]


def verdicts(
    density: ImageDensity, calibration: Calibration, likelihoods: Sequence[Likelihood], alpha: float | None
) -> list[Verdict]:
    """Return an anomaly verdict for each image, based on the statistics in the image's ``Likelihood`` object.

    Evidence, the statistics of an image, is part of the likelihoods that ``density`` computes.

    Raises:
        AlphaUnattainable: The calibration has too few images for the false-alarm rate ``alpha``.
        ValueError: A likelihood has no evidence.
    """
    evidence = [likelihood.evidence for likelihood in likelihoods if likelihood.evidence is not None]
    if len(evidence) < len(likelihoods):
        raise ValueError("expected likelihoods from this density, got some without evidence")
    if not evidence:
        return []
    return calibration.judge(Evidence.join(evidence), density.statistics, density.image_shape[1:], alpha)


def judge_scored(
    scored: Sequence[Likelihood | ImageError],
    alphas: Sequence[float | None],
    judge: Callable[[Sequence[Likelihood], float | None], Sequence[Verdict]],
    heat_maps: Sequence[PixelMaps] | None = None,
) -> list[Judgement]:
    """Return a result for each image: its log-likelihood, with its anomaly verdict from the function ``judge``.

    An image with an error keeps it.

    Args:
        scored: The likelihood or the error of N images.
        alphas: The false-alarm rate of each of the N images; None for the default of the calibration.
        judge: A function that returns the verdicts on some likelihoods at one false-alarm rate.
        heat_maps: The heat maps of the images that were passed through the model.

    Returns:
        N results, in the order of ``scored``.
    """
    verdicts: dict[int, Verdict] = {}
    # Many verdicts at the same alpha cost little more than a single verdict.
    for alpha in dict.fromkeys(alphas):
        likelihoods = {
            index: score
            for index, (score, own_alpha) in enumerate(zip(scored, alphas, strict=True))
            if own_alpha == alpha and not isinstance(score, ImageError)
        }
        verdicts.update(zip(likelihoods, judge(list(likelihoods.values()), alpha), strict=True))
    # An image of a size that is not judged was not passed through the model, and has no map.
    maps = iter(heat_maps or ())
    shown = [None if isinstance(score, SizeNotCalibrated) else next(maps, None) for score in scored]
    return [
        score if isinstance(score, ImageError) else JudgedImage(score, verdicts[index], shown[index])
        for index, score in enumerate(scored)
    ]


def size_error(calibration: Calibration, plan: TilePlan) -> SizeNotCalibrated | None:
    """Return the error of an image that has fewer or more tiles than the calibration images, or None.

    The largest of many places is larger than the largest of few, so that ranks hold for the sizes of the calibration
    images alone.
    """
    counts = calibration.tile_counts
    if counts is None or counts[0] <= len(plan) <= counts[1]:
        return None
    fewest, most = counts.tolist()
    return SizeNotCalibrated(
        f"expected {fewest if fewest == most else f'{fewest} to {most}'} tile(s) of {plan.side} pixels, as the "
        f"calibration images have, got {len(plan)} ({plan.width}x{plan.height} pixels): calibrate the model on images "
        "of this size, or send images of those sizes"
    )


def without_other_sizes(
    density: ImageDensity, calibration: Calibration, images: Batch
) -> tuple[Batch, dict[int, SizeNotCalibrated]]:
    """Return the images of sizes that a calibration can judge, and the errors of the others by their index.

    All images can be judged by a model without tiles, and by a calibration of an earlier version.
    """
    if not (isinstance(density, FeatureDensity) and density.tiled):
        return images, {}
    errors = {index: size_error(calibration, density.plan(image)) for index, image in enumerate(images)}
    found = {index: error for index, error in errors.items() if error is not None}
    return [image for index, image in enumerate(images) if index not in found] if found else images, found


def with_errors(
    scored: Sequence[Likelihood | ImageError], errors: Mapping[int, SizeNotCalibrated]
) -> list[Likelihood | ImageError]:
    """Return scores with the errors of :func:`without_other_sizes` in their places among them."""
    rest = iter(scored)
    return [errors[index] if index in errors else next(rest) for index in range(len(scored) + len(errors))]
