"""Scorer: a loaded model that scores images, detects anomalies, and draws heat maps and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import PicklingError
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snf_models.artifacts.manifest import CalibrationSummary, Manifest, Precision
from snf_models.errors import HeatMapUnsupported, ImageError, SamplesUnsupported
from snf_models.loading.model_files import ModelFiles
from snf_models.loading.open_model import ModelOpener, OpenModel
from snf_models.loading.verification import exact_tolerance, score_tolerance
from snf_models.scoring.opened_density import open_waves
from snf_models.scoring.options import EngineOptions
from snf_runtime.anomaly.calibration import Calibration, MapReference
from snf_runtime.anomaly.heat_map_pass import HeatMaps, heat_map_steps
from snf_runtime.anomaly.judged import Judgement, judge_by, verdicts, with_errors, without_other_sizes
from snf_runtime.anomaly.pixel_contributions import PixelMaps
from snf_runtime.anomaly.verdict import Verdict
from snf_runtime.images.batch import Batch
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.scoring.density import WITHOUT_PAUSES
from snf_runtime.scoring.likelihood import Likelihood, Observer, score_images, score_steps
from snf_runtime.steps import Steps, finish

if TYPE_CHECKING:
    from snf_models.anomaly.calibrate import Progress
    from snf_models.anomaly.reference_images import ReferenceImages
    from snf_models.bijections.frozen import Inverse
    from snf_models.features.flows import TrainedFlows
    from snf_models.loading.flow_model import FlowModel
    from snf_models.loading.load_flows import Artifact
    from snf_models.score_rows import Columns
    from snf_models.scoring.flow_density import FlowDensity

NO_ORIGIN = (
    "expected a scorer that Scorer.load returned, which is pickled as the place of its files; this one was made from "
    "an artifact in memory"
)
"""Why a scorer cannot be pickled."""
Alphas = float | Sequence[float | None] | None
"""False-alarm rate of all images, or of each image; None for the default of the calibration."""


class Scorer:
    """A loaded model that scores images, detects anomalies and draws samples.

    Scores are exact log-likelihoods. Anomalies are explained by heat maps.

    It does not change after loading and is not thread-safe. It can be called on a dict of arrays. Pickled, it is the
    place of its files, from where it is loaded again. The trained flows are loaded when they are first needed: for
    samples and calibrations, but not for scores of a model that was opened on this machine before.

    Args:
        source: The model, open for scoring.

    Attributes:
        manifest: The manifest of the artifact.
        preprocessing: Shape of the images, and how other sizes and colours are treated.
        options: Options of the engine.
        calibration: The calibration in use.
        calibration_summary: The summary of the calibration in use.
        smallest_p: The smallest p-value that the calibration can give.
        default_alpha: The false-alarm rate of verdicts if none is given.
        pinned: The images stored with the model, uint8 ``(n, C, H, W)``.
        density: The frozen density, with the engine that runs it.
        engine_name: The name of the engine.
        precision: The arithmetic of the engine.
        tile: The number of images that the engine computes at once.
        log_det_total: Sum of the stored data-independent log-dets, in nats.
        log_det_digest: SHA-256 of the weights that the stored log-dets belong to.
        statistics: The names of the whole-image statistics, in order.
        dimensions: The number of values that a log-likelihood is a density of: D = C·H·W pixel values of an image, or
            the features of an image or a tile.
        has_learned_inverse: Whether random images can be drawn by the learned inverse R of the flow's layers.
    """

    def __init__(self, source: OpenModel) -> None:
        self.manifest: Manifest = source.model.manifest
        self.preprocessing: Preprocessing = self.manifest.preprocessing
        self.calibration: Calibration = source.model.calibration
        self.calibration_summary = source.summary
        self.pinned = source.model.pinned
        self.log_det_digest = self.manifest.log_dets.weights_sha256
        self.options = source.options
        self.density = source.opened.density
        self.statistics = self.density.statistics
        self.engine_name = self.density.engine_name
        self.precision = self.density.precision
        self.tile = self.density.tile
        self.dimensions = self.density.dimensions
        self.has_learned_inverse = source.opened.has_learned_inverse
        self.smallest_p = self.calibration.smallest_p
        self.default_alpha = self.calibration.default_alpha
        self.log_det_total = self.density.constant_log_det
        self._trained = source.trained
        self._origin: ModelFiles | None = None
        self._turn, self._loading = Lock(), Lock()

    @classmethod
    def of(
        cls, artifact: Artifact, summary: CalibrationSummary | None = None, options: EngineOptions | None = None
    ) -> Scorer:
        """Return a scorer for a trained model whose artifact (weights and calibration) is already in memory.

        The stored score of its test image is not checked.

        Args:
            artifact: The loaded artifact.
            summary: The summary of the artifact's calibration; None for that of the manifest.
            options: Options of the engine. The default precision is that of the calibration.

        Raises:
            EngineUnavailable: The engine of ``options`` cannot run here.
        """
        from snf_models.loading.flow_model import FlowModel  # noqa: PLC0415 - torch takes a second to import

        summary = summary or artifact.manifest.calibration
        options = (options or EngineOptions()).settled(summary.precision)
        trained = FlowModel(artifact, options)
        return cls(OpenModel(artifact, summary, options, trained.opened(), trained))

    def exact_tolerance(self, log_likelihood: float) -> float:
        """Return the largest rounding error, in nats, allowed for an exact log-likelihood computed in float32.

        It bounds the difference from the float64 score, or from the score on another machine.
        """
        return exact_tolerance(self.dimensions, log_likelihood)

    def tolerance(self, log_likelihood: float) -> float:
        """Return the largest rounding error, in nats, allowed for a log-likelihood in the calibration's precision."""
        return score_tolerance(self.dimensions, log_likelihood, self.calibration_summary)

    @classmethod
    def load(cls, path: Path, calibration: Path | None = None, options: EngineOptions | None = None) -> Scorer:
        """Load a model from its folder, verify its files, and check the score of a test image stored with it.

        Args:
            path: The folder of the artifact.
            calibration: The folder of a later calibration; None for the calibration of the artifact.
            options: Options of the engine.

        Raises:
            ArtifactError: A file is damaged, the calibration belongs to another model, or the pinned image has another
                score or statistic than the stored one.
            EngineUnavailable: The engine of ``options`` cannot run here.
        """
        options = options or EngineOptions()
        scorer = cls(ModelOpener.verified(path, calibration, options).open())
        scorer._origin = ModelFiles.as_they_are(path, calibration, options)
        return scorer

    def open_waves(self) -> None:
        """Load or compile in advance the OpenVINO graphs for waves (runs that split many images over threads)."""
        open_waves(self.density)

    @property
    def has_trained(self) -> bool:
        """Whether the trained flows are in memory; scoring with cached compiled graphs works without them."""
        return not callable(self._trained)

    @property
    def trained(self) -> FlowModel:
        """The model with its trained flows; the first access imports torch and loads them, which takes seconds."""
        with self._loading:
            if callable(self._trained):
                self._trained = self._trained()
            return self._trained

    @property
    def flows(self) -> TrainedFlows:
        """The trained flow over pixels, flows over features, or both, in evaluation mode; do not modify them."""
        return self.trained.flows

    @property
    def pixels(self) -> FlowDensity | None:
        """The object that computes pixel likelihoods by the trained flow; None if the model uses only features."""
        return self.trained.pixels if self.has_pixels else None

    @property
    def has_pixels(self) -> bool:
        """Whether the model has a density over pixels, so that images can be sampled."""
        return self.density.kind == "density"

    def __reduce__(self) -> tuple[Callable[[ModelFiles], Scorer], tuple[ModelFiles]]:
        if self._origin is None:
            raise PicklingError(NO_ORIGIN)
        return load_files, (self._origin,)

    def __call__(self, batch: Columns, alpha: float | None = None) -> dict[str, Any]:
        """Judge the images of a batch of columns; see :func:`snf_models.score_rows.score_columns`.

        An image that cannot be scored is a row with its error. Calls of several threads wait for each other.
        """
        from snf_models.score_rows import score_columns  # noqa: PLC0415 - pyarrow takes a third of a second to import

        with self._turn:
            return score_columns(self, batch, alpha)

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
        return finish(self.score_steps(images, draws, at_once=WITHOUT_PAUSES * self.at_once))

    def score_steps(
        self, images: Batch, draws: int = 1, *, at_once: int | None = None, observe: Observer | None = None
    ) -> Steps[list[Likelihood | ImageError]]:
        """Return a generator that computes log-likelihoods of images in small groups, with pauses for other work.

        It yields between groups of ``at_once`` images or tiles, and returns log-likelihoods or errors.
        """
        images, errors = without_other_sizes(self.density, self.calibration, images)
        scored = yield from score_steps(self.density, images, draws, at_once, observe)
        return with_errors(scored, errors)

    def require_spatial(self) -> MapReference:
        """Return the statistics of normal images that heat maps need, or raise ``HeatMapUnsupported``.

        They are means and deviations by pixel or place, in nats. If there are none, raises ``HeatMapUnsupported``.
        """
        if self.calibration.pixels is None:
            raise HeatMapUnsupported(
                "its layers mix all pixels of the image at once, so that no likelihood belongs to a single pixel"
            )
        return self.calibration.pixels

    def heat_maps(self, images: Batch) -> list[PixelMaps]:
        """Return a heat map for each image, which shows how much each pixel adds to the log-likelihood.

        The values are given in nats and as z-scores.

        Maps of images of several tiles may be smaller than the image (:attr:`PixelMaps.scale`). Raises
        ``HeatMapUnsupported`` if the layers mix all pixels at once.
        """
        return finish(heat_map_steps(self.density, self.calibration, self.require_spatial(), images))

    def judge_each(
        self, images: Batch, alpha: Alphas = None, draws: int = 1, *, explain: bool = False
    ) -> list[Judgement]:
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
        groups = WITHOUT_PAUSES * self.at_once
        return finish(self.judge_steps(images, alpha, draws, explain=explain, at_once=groups))

    def judge_steps(
        self,
        images: Batch,
        alpha: Alphas = None,
        draws: int = 1,
        *,
        explain: bool = False,
        at_once: int | None = None,
    ) -> Steps[list[Judgement]]:
        """Return a generator that scores and judges images in small groups, with pauses for other work.

        It yields between the groups, and returns the log-likelihoods and verdicts at the end.
        """
        maps, observe = None, None
        if explain:
            heat_maps = HeatMaps(self.density, self.calibration, self.require_spatial())
            maps, observe = heat_maps.maps, heat_maps.add
        scored = yield from self.score_steps(images, draws, at_once=at_once, observe=observe)
        alphas = alpha if isinstance(alpha, Sequence) else [alpha] * len(scored)
        return judge_by(self.density, self.calibration, scored, alphas, maps)

    def anomaly(self, likelihood: Likelihood, alpha: float | None = None) -> Verdict:
        """Return the anomaly verdict on one image from its log-likelihood.

        The verdict has a p-value, and whether the image is flagged. This scorer must have computed the log-likelihood.
        """
        return self.anomalies([likelihood], alpha)[0]

    def anomalies(self, likelihoods: Sequence[Likelihood], alpha: float | None = None) -> list[Verdict]:
        """Return the anomaly verdict on each image from its log-likelihood.

        A verdict has a p-value, and whether the image is flagged. This scorer must have computed the log-likelihoods.

        Raises ``AlphaUnattainable`` if the calibration has too few images for the false-alarm rate ``alpha``.
        """
        return verdicts(self.density, self.calibration, likelihoods, alpha)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision = "float32"
    ) -> tuple[Calibration, CalibrationSummary]:
        """Compute a new calibration of the model from normal images, and return it with a summary.

        The calibration gives p-values to new images. The scorer does not change. Raises ``ScoreNotFinite`` if an image
        has no finite log-likelihood, and whatever ``progress`` raises to stop.
        """
        return self.trained.calibrate(reference, progress, precision)

    @property
    def at_once(self) -> int:
        """Number of images or tiles that a long computation processes between two pauses for other work."""
        return self.density.at_once

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw ``n`` random images from the model's flow over pixels.

        Returns uint8 ``(n, C, H, W)``; see :meth:`Sampler.sample`.

        Raises ``SamplesUnsupported`` for a model of features alone.
        """
        return self.trained.sampler.sample(n, temperature, seed, inverse, first)

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Return a generator that draws random images in small groups, with pauses for other work.

        It yields between the groups, and returns all images at the end, uint8 ``(n, C, H, W)``.

        Raises ``SamplesUnsupported`` for a model of features alone.
        """
        return self.trained.sampler.sample_steps(n, temperature, seed, inverse)

    def sample_continuous(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.float64]:
        """Draw ``n`` random images from the model, without rounding their pixel values to whole numbers.

        The images are those of :meth:`sample` before rounding, float64 ``(n, C, H, W)``.
        """
        return self.trained.sampler.sample_continuous(n, temperature, seed, inverse, first)

    def require_pixels(self) -> None:
        """Raise ``SamplesUnsupported`` unless the model has a density over pixels, which sampling needs."""
        if not self.has_pixels:
            raise SamplesUnsupported("it is a density of features, which have no way back to pixels")


def load_files(files: ModelFiles) -> Scorer:
    """Fetch missing files and load a scorer."""
    files.fetch()
    return Scorer.load(files.path, files.calibration, files.options)
