"""Results for scored images: log-likelihood, anomaly verdict and heat map of each image together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.pixel_contributions import PixelMaps
from snf_runtime.anomaly.regions import MapRegions
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.errors import ScoreNotFinite
from snf_runtime.images.placement import FilePlacement
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.evidence import Evidence
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


Judgement: TypeAlias = JudgedImage | ScoreNotFinite
"""The result for one image: its likelihood and verdict, or the error of an image without a finite likelihood."""


def judge_by(
    density: ImageDensity,
    calibration: Calibration,
    scored: Sequence[Likelihood | ScoreNotFinite],
    alphas: Sequence[float | None],
    heat_maps: Sequence[PixelMaps] | None = None,
) -> list[Judgement]:
    """Return each scored image's log-likelihood together with its anomaly verdict by a calibration.

    Regions are added to an image with a heat map, if the calibration has a threshold for it. An image without a finite
    likelihood keeps its error.

    Args:
        density: The density that gave the scores.
        calibration: Its calibration.
        scored: The likelihood or the error of N images.
        alphas: The false-alarm rate of each of the N images; None for the default of the calibration.
        heat_maps: The heat maps of the N images.

    Raises:
        AlphaUnattainable: The calibration has too few images for a false-alarm rate.
    """
    judged = judge_scored(scored, alphas, partial(verdicts, density, calibration), heat_maps)
    limit = calibration.map_threshold
    return [one if isinstance(one, ScoreNotFinite) else one.with_regions(limit(one.verdict.alpha)) for one in judged]


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
    scored: Sequence[Likelihood | ScoreNotFinite],
    alphas: Sequence[float | None],
    judge: Callable[[Sequence[Likelihood], float | None], Sequence[Verdict]],
    heat_maps: Sequence[PixelMaps] | None = None,
) -> list[Judgement]:
    """Return a result for each image: its log-likelihood, with its anomaly verdict from the function ``judge``.

    An image without a finite likelihood keeps its error.

    Args:
        scored: The likelihood or the error of N images.
        alphas: The false-alarm rate of each of the N images; None for the default of the calibration.
        judge: A function that returns the verdicts on some likelihoods at one false-alarm rate.
        heat_maps: The heat maps of the N images.

    Returns:
        N results, in the order of ``scored``.
    """
    verdicts: dict[int, Verdict] = {}
    # Many verdicts at the same alpha cost little more than a single verdict.
    for alpha in dict.fromkeys(alphas):
        likelihoods = {
            index: score
            for index, (score, own_alpha) in enumerate(zip(scored, alphas, strict=True))
            if own_alpha == alpha and not isinstance(score, ScoreNotFinite)
        }
        verdicts.update(zip(likelihoods, judge(list(likelihoods.values()), alpha), strict=True))
    maps: Sequence[PixelMaps | None] = heat_maps or [None] * len(scored)
    return [
        score if isinstance(score, ScoreNotFinite) else JudgedImage(score, verdicts[index], maps[index])
        for index, score in enumerate(scored)
    ]
