"""Scoring and judging of images: likelihood, verdict and heat map of each image together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np

from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.maps import MapReference, MapRegions, PixelMaps, of_pixels, of_places, standardise, tile_maps
from snf_runtime.anomaly.verdict import Verdict, VerdictReason
from snf_runtime.errors import HeatMapUnsupported, ImageError, SizeNotCalibrated
from snf_runtime.images.batch import Batch, TilePlan
from snf_runtime.images.preprocessing import FilePlacement
from snf_runtime.parallelism import Steps, finish
from snf_runtime.scoring.density import CHUNKS_WITHOUT_PAUSES, DensityPass, ImageDensity
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeatureDensity, FeaturePass
from snf_runtime.scoring.layout import Precision
from snf_runtime.scoring.likelihood import Likelihood, Observer, score_images, score_steps

Alphas: TypeAlias = float | Sequence[float | None] | None
"""False-alarm rate of all images, or of each image; None for the default of the calibration."""


@dataclass(frozen=True)
class Detection:
    """Result for one image: its exact log-likelihood, its anomaly verdict and, if requested, a heat map.

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

    def with_regions(self, threshold: float | None) -> Detection:
        """Return this result with the regions of its heat map, if it has one and there is a threshold."""
        if self.heat_map is None or threshold is None:
            return self
        regions = self.heat_map.regions(threshold)
        return replace(self, regions=regions, verdict=self.verdict.with_regions(regions))

    def in_file(self, placement: FilePlacement) -> Detection:
        """Return this result with boxes and areas, but not heat maps, in pixels of the upright original file."""
        regions = None if self.regions is None else self.regions.in_file(placement)
        return replace(self, regions=regions, verdict=self.verdict.in_file(placement))


@dataclass(frozen=True)
class FileVerdict:
    """Result for one image judged by an exported model: its log-likelihood and anomaly verdict.

    Attributes:
        name: Path of the file; "image" and its number from 0 for other sources.
        log_likelihood: Exact log-density of the pixels plus uniform noise, or of the features, in nats.
        bits_per_dim: The same in bits for each pixel value; None for a density of features.
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        statistic: The statistic that the p-value is the rank of, in nats.
        is_anomaly: Whether the p-value is at most ``alpha``.
        alpha: The false-alarm rate of the verdict.
        threshold: The smallest statistic in nats that is flagged at ``alpha``; None for a calibration of several folds.
        reasons: What contributed most, the strongest first. Boxes are in pixels of the upright file.
        regions: The regions of the anomaly map in pixels of the upright file; None where they were not asked for, or
            the calibration has no threshold for them.
        notes: What was done to the file, in words.
    """

    name: str
    log_likelihood: float
    bits_per_dim: float | None
    p_value: float
    score: float
    statistic: float
    is_anomaly: bool
    alpha: float
    threshold: float | None
    reasons: tuple[VerdictReason, ...]
    regions: MapRegions | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NotJudged:
    """An image that could not be judged, with the error that explains why.

    Attributes:
        name: Path of the file; "image" and its number from 0 for other sources.
        error: What is wrong with it, such as ``undecodable-image``; the codes of the service.
        detail: The same in words.
    """

    name: str
    error: str
    detail: str


class Detector:
    """Detector of anomalies by one model, which scores and judges images for every way in. It is not thread-safe.

    Args:
        density: The density of the model, with the engine that runs it.
        calibration: The calibration, which gives p-values and verdicts.
    """

    def __init__(self, density: ImageDensity, calibration: Calibration) -> None:
        self.density = density
        self.calibration = calibration

    def score(self, images: Batch, draws: int = 1) -> list[Likelihood]:
        """Return each image's exact log-likelihood, in nats; raise ``ScoreNotFinite`` if one is not finite."""
        return score_images(self.density, images, draws)

    def score_each(self, images: Batch, draws: int = 1) -> list[Likelihood | ImageError]:
        """Return for each image its exact log-likelihood, or an error object.

        The error is a ``ScoreNotFinite`` object for a log-likelihood that is infinite or NaN, and a
        ``SizeNotCalibrated`` object for an image with fewer or more tiles than the calibration images.

        Args:
            images: Images, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a model of tiles.
            draws: Dequantisation draws that a log-likelihood is averaged over.

        Returns:
            N results; an image without a score has its error in its place.
        """
        return finish(self.score_steps(images, draws, chunk_size=CHUNKS_WITHOUT_PAUSES * self.density.chunk_size))

    def score_steps(
        self, images: Batch, draws: int = 1, *, chunk_size: int | None = None, observe: Observer | None = None
    ) -> Steps[list[Likelihood | ImageError]]:
        """Score as :meth:`score_each` in a generator that yields between chunks, so that other work can run."""
        errors = self.size_errors(images)
        if errors:
            images = [image for index, image in enumerate(images) if index not in errors]
        scored = iter((yield from score_steps(self.density, images, draws, chunk_size, observe)))
        count = len(images) + len(errors)
        return [errors[index] if index in errors else next(scored) for index in range(count)]

    def detect(
        self, images: Batch, alpha: Alphas = None, draws: int = 1, *, explain: bool = False
    ) -> list[Detection | ImageError]:
        """Return the log-likelihood and the anomaly verdict of each image.

        A verdict has the p-value of the image, and whether it is flagged as an anomaly.

        Args:
            images: Images, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a model of tiles.
            alpha: False-alarm rate of the verdicts, or of the verdict on each image; None for the default.
            draws: Dequantisation draws that a log-likelihood is averaged over.
            explain: Whether to add heat maps.

        Returns:
            N results; an image that is not judged has its error in its place.

        Raises:
            AlphaUnattainable: The calibration has too few images for a false-alarm rate.
            HeatMapUnsupported: The model has no heat maps.
        """
        chunk_size = CHUNKS_WITHOUT_PAUSES * self.density.chunk_size
        return finish(self.detect_steps(images, alpha, draws, explain=explain, chunk_size=chunk_size))

    def detect_steps(
        self,
        images: Batch,
        alpha: Alphas = None,
        draws: int = 1,
        *,
        explain: bool = False,
        chunk_size: int | None = None,
    ) -> Steps[list[Detection | ImageError]]:
        """Detect as :meth:`detect` in a generator that yields between chunks, so that other work can run."""
        maps: list[PixelMaps] = []
        observe: Observer | None = None
        if explain:
            reference = self.require_spatial()
            observe = lambda density_pass, evidence: maps.extend(self._maps(reference, density_pass, evidence))  # noqa: E731
        scored = yield from self.score_steps(images, draws, chunk_size=chunk_size, observe=observe)
        alphas = alpha if isinstance(alpha, Sequence) else [alpha] * len(scored)
        verdicts: dict[int, Verdict] = {}
        # Many verdicts at the same alpha cost little more than a single verdict.
        for rate in dict.fromkeys(alphas):
            likelihoods = {
                index: score
                for index, (score, own) in enumerate(zip(scored, alphas, strict=True))
                if own == rate and not isinstance(score, ImageError)
            }
            verdicts.update(zip(likelihoods, self.verdicts(list(likelihoods.values()), rate), strict=True))
        # An image of a size that is not judged was not passed through the model, and has no map.
        rest = iter(maps)
        shown = [None if isinstance(score, SizeNotCalibrated) else next(rest, None) for score in scored]
        return [
            score
            if isinstance(score, ImageError)
            else Detection(score, verdicts[index], shown[index]).with_regions(
                self.calibration.map_threshold(verdicts[index].alpha)
            )
            for index, score in enumerate(scored)
        ]

    def verdicts(self, likelihoods: Sequence[Likelihood], alpha: float | None = None) -> list[Verdict]:
        """Return the anomaly verdict on each image from its log-likelihood, which this detector computed.

        Raises ``AlphaUnattainable`` if the calibration has too few images for the false-alarm rate ``alpha``.
        """
        if not likelihoods:
            return []
        evidence = Evidence.join([likelihood.evidence for likelihood in likelihoods])
        return self.calibration.judge(evidence, self.density.statistics, self.density.image_shape[1:], alpha)

    def heat_maps(self, images: Batch) -> list[PixelMaps]:
        """Return a heat map for each image, which shows how much each pixel adds to the log-likelihood.

        The values are given in nats and as z-scores. Maps of images of several tiles may be smaller than the image
        (:attr:`PixelMaps.scale`). Raises ``HeatMapUnsupported`` if the layers mix all pixels at once.
        """
        reference, maps = self.require_spatial(), list[PixelMaps]()
        for start, density_pass in self.density.passes(images):
            if density_pass is not None:
                group = images[start : start + len(density_pass)]
                needed = self.calibration.has_features
                evidence = self.density.evidence(group, density_pass) if needed else None
                maps += self._maps(reference, density_pass, evidence)
        return maps

    def require_spatial(self) -> MapReference:
        """Return the statistics of normal images that heat maps need, or raise ``HeatMapUnsupported``.

        They are means and deviations by pixel or place, in nats.
        """
        if self.calibration.pixels is None:
            raise HeatMapUnsupported(
                "its layers mix all pixels of the image at once, so that no likelihood belongs to a single pixel"
            )
        return self.calibration.pixels

    def size_errors(self, images: Batch) -> dict[int, SizeNotCalibrated]:
        """Return the errors of images of sizes that the calibration cannot judge, by index."""
        if not (isinstance(self.density, FeatureDensity) and self.density.tiled):
            return {}
        errors = {index: size_error(self.calibration, self.density.plan(image)) for index, image in enumerate(images)}
        return {index: error for index, error in errors.items() if error is not None}

    def _maps(self, reference: MapReference, density_pass: DensityPass, evidence: Evidence | None) -> list[PixelMaps]:
        """Return the heat maps of a group; ``evidence`` may be None for a calibration without features."""
        features = None
        if self.calibration.has_features:
            assert evidence is not None
            assert evidence.features is not None
            features = self.calibration.feature_maps(evidence.features)
        if self.density.tiled:
            assert isinstance(density_pass, FeaturePass)
            assert features is not None
            return tile_maps(density_pass, reference, features)
        nats = density_pass.compared_maps()
        z = standardise(nats, reference)
        size = self.density.image_shape[1:]
        anomaly = of_pixels(z) if features is None else [of_places(places, size) for places in features]
        return [PixelMaps(*of_image) for of_image in zip(nats, z, anomaly, strict=True)]


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


@dataclass(frozen=True)
class StoredEvidence:
    """Stored statistics of a scored image, by which any calibration of the same weights judges it again."""

    evidence: Evidence
    alpha: float | None  # None: the calibration's default
    precision: Precision

    @classmethod
    def of(cls, evidence: Evidence, alpha: float | None, precision: Precision) -> Self:
        """Copy evidence, without white level: a view would keep the whole batch in memory."""
        return cls(replace(evidence, white_levels=None)[np.arange(len(evidence))], alpha, precision)

    @property
    def nbytes(self) -> int:
        return self.evidence.nbytes


def rejudge(calibration: Calibration, stored: Sequence[StoredEvidence]) -> list[bool | None]:
    """Return whether each image is anomalous; None where its rate is not attainable, or its size not calibrated."""
    if not stored:
        return []
    p = calibration.p_values(Evidence.join([image.evidence for image in stored]))
    verdicts: list[bool | None] = []
    for p_value, image in zip(p, stored, strict=True):
        alpha = calibration.default_alpha if image.alpha is None else image.alpha
        plans = () if image.evidence.features is None else image.evidence.features.plans or ()
        refused = alpha < calibration.smallest_p or any(size_error(calibration, plan) for plan in plans)
        verdicts.append(None if refused else bool(p_value <= alpha))
    return verdicts
