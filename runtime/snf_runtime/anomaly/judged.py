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
        """Return this result with the regions of its heat map, if it has one and there is a threshold."""
        if self.heat_map is None or threshold is None:
            return self
        regions = self.heat_map.regions(threshold)
        return replace(self, regions=regions, verdict=self.verdict.with_regions(regions))

    def in_file(self, placement: FilePlacement) -> JudgedImage:
        """Return this result with boxes and areas, but not heat maps, in pixels of the upright original file."""
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
    """Join the scores with their verdicts and regions; raise ``AlphaUnattainable`` if a rate is too small."""
    judged = judge_scored(scored, alphas, partial(verdicts, density, calibration), heat_maps)
    limit = calibration.map_threshold
    return [one if isinstance(one, ImageError) else one.with_regions(limit(one.verdict.alpha)) for one in judged]


def verdicts(
    density: ImageDensity, calibration: Calibration, likelihoods: Sequence[Likelihood], alpha: float | None
) -> list[Verdict]:
    """Return a verdict for each likelihood; ``ValueError`` if one has no evidence."""
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
    """Join each score with its verdict by ``judge``, called once for each false-alarm rate."""
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
    """Return an error for a number of tiles outside the calibration's: ranks of maxima hold for its sizes alone."""
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
    """Return the images of sizes that the calibration can judge, and the errors of the others by index."""
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
