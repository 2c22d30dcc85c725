"""Scorer: a loaded model that scores images, judges them, draws heat maps and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from pickle import PicklingError
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anomaly.calibration_file import load_added_calibration
from models.anomaly.fitting.calibrate import Progress, calibrate
from models.anomaly.fitting.reference_images import ReferenceImages
from models.anomaly.gradients.passes import GradientPasses, add_gradients
from models.anomaly.gradients.probe import GradientProbe, tile_of
from models.artifacts.files import CALIBRATION, WEIGHTS
from models.artifacts.manifest import CalibrationSummary, Manifest, Precision, file_label
from models.bijections.frozen import Inverse
from models.errors import (
    ArtifactError,
    GradientEvidenceUnavailable,
    HeatMapUnsupported,
    SamplesUnsupported,
    ScoreNotFinite,
    UninitializedModel,
)
from models.flows.flow import Flow
from models.loading import (
    NO_ORIGIN,
    SLACK,
    Artifact,
    check_pinned_score,
    check_pinned_statistic,
    check_precision,
    exact_tolerance,
    load_artifact,
)
from models.model_files import ModelFiles
from models.registry.calibrations import ARRAYS
from models.score_rows.columns import Columns, score_columns
from models.scoring.flow_density import FlowDensity, pixels_of
from models.scoring.open_density import open_density
from models.scoring.options import EngineOptions
from models.scoring.sampling import Sampler
from snf_runtime.anomaly.calibration import Calibration, MapReference, Verdict
from snf_runtime.anomaly.heat_map import PixelMaps
from snf_runtime.anomaly.heat_map_pass import heat_map_steps, tiled_heat_map_steps
from snf_runtime.anomaly.judged import Judgement, judge_by, verdicts
from snf_runtime.images.batch import Batch, stacked
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.scoring.density import CHUNK, ImageDensity
from snf_runtime.scoring.likelihood import Likelihood, score_images, score_steps
from snf_runtime.steps import Steps, finish, step_size

Alphas = float | Sequence[float | None] | None
"""False-alarm rate of all images, or of each image; None for the default of the calibration."""


class Scorer:
    """A loaded model that gives images exact log-likelihoods, anomaly verdicts and heat maps, and draws samples.

    It does not change after loading and is not thread-safe. It can be called on a dict of arrays. Pickled, it is the
    place of its files, from where it is loaded again.

    Args:
        artifact: The loaded artifact.
        summary: The summary of the artifact's calibration; None for that of the manifest.
        options: Options of the engine. The default precision is that of the calibration.

    Attributes:
        manifest: The manifest of the artifact.
        preprocessing: Shape of the images, and how other sizes and colours are treated.
        options: Options of the engine.
        calibration: The calibration in use.
        calibration_summary: The summary of the calibration in use.
        smallest_p: The smallest p-value that the calibration can give.
        default_alpha: The false-alarm rate of verdicts if none is given.
        pinned: The images stored with the model, uint8 ``(n, C, H, W)``.
        flows: The trained flow or flows in evaluation mode; do not modify them.
        density: The frozen density, with the engine that runs it.
        pixels: The density of pixels; None for a model of features alone.
        engine_name: The name of the engine.
        precision: The arithmetic of the engine.
        tile: The number of images that the engine computes at once.
        log_det_total: Sum of the stored data-independent log-dets, in nats.
        log_det_digest: SHA-256 of the weights that the stored log-dets belong to.
        statistics: The names of the whole-image statistics, in order.
        dimensions: The number of values that a log-likelihood is a density of: D = C·H·W pixel values of an image, or
            the features of an image or a tile.

    Raises:
        EngineUnavailable: The engine of ``options`` cannot run here.
    """

    def __init__(
        self, artifact: Artifact, summary: CalibrationSummary | None = None, options: EngineOptions | None = None
    ) -> None:
        self.manifest: Manifest = artifact.manifest
        self.preprocessing: Preprocessing = artifact.manifest.preprocessing
        self.calibration: Calibration = artifact.calibration
        self.calibration_summary: CalibrationSummary = summary or artifact.manifest.calibration
        self.pinned = artifact.pinned
        self.log_det_digest = self.manifest.log_dets.weights_sha256
        self.flows = artifact.flow
        options = options or EngineOptions()
        self.options: EngineOptions = replace(
            options, precision=options.precision or self.calibration_summary.precision
        )
        self.density = self._density_in(self.options.precision)
        self.pixels = pixels_of(self.density)
        self.statistics = self.density.statistics
        self.engine_name = self.density.engine_name
        self.precision = self.density.precision
        self.tile = self.density.tile
        _, self._height, self._width = self.preprocessing.shape
        self.dimensions = self.density.dimensions
        self.smallest_p = self.calibration.smallest_p
        self.default_alpha = self.calibration.default_alpha
        self.log_det_total = self.density.constant_log_det
        self._origin: ModelFiles | None = None
        self._turn = Lock()

    def exact_tolerance(self, log_likelihood: float) -> float:
        """Return how far a score in float32 may be from that in float64, or on another machine, in nats."""
        return exact_tolerance(self.dimensions, log_likelihood)

    def tolerance(self, log_likelihood: float) -> float:
        """Return how far a score in the precision of the calibration may be from that in float64, in nats."""
        deviation = self.calibration_summary.deviation
        return self.exact_tolerance(log_likelihood) + (0.0 if deviation is None else SLACK * deviation.worst)

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
        artifact = load_artifact(path)
        summary = None
        if calibration is not None:
            arrays, summary = load_added_calibration(calibration, artifact.manifest.log_dets.weights_sha256)
            artifact = replace(artifact, calibration=arrays)
        arrays_path = path / CALIBRATION if calibration is None else calibration / ARRAYS
        try:
            scorer = cls(artifact, summary, options)
            check_precision(arrays_path, scorer.precision, scorer.calibration_summary)
            pinned = scorer.score(artifact.pinned[:1])[0]
        except (UninitializedModel, ScoreNotFinite) as error:
            raise ArtifactError(f"{file_label(path / WEIGHTS)} gives no score: {error}") from error
        tolerance = scorer.tolerance(artifact.manifest.pinned.log_likelihood)
        check_pinned_score(path, pinned.log_likelihood, artifact.manifest, tolerance)
        try:
            statistic = scorer.anomaly(pinned).statistic
            _ = scorer.calibration.map_maxima
            if scorer.calibration.has_gradients:
                _ = scorer._fisher
        except (ValueError, IndexError) as error:  # arrays that do not fit each other or this flow
            raise ArtifactError(f"{file_label(arrays_path)} does not fit the model: {error}") from error
        check_pinned_statistic(arrays_path, statistic, scorer.calibration_summary)
        scorer._origin = ModelFiles.as_they_are(path, calibration, options or EngineOptions())
        return scorer

    def __reduce__(self) -> tuple[Callable[[ModelFiles], Scorer], tuple[ModelFiles]]:
        if self._origin is None:
            raise PicklingError(NO_ORIGIN)
        return load_files, (self._origin,)

    def __call__(self, batch: Columns, alpha: float | None = None) -> dict[str, Any]:
        """Judge the images of a batch of columns; see :func:`models.score_rows.columns.score_columns`.

        An image that cannot be scored is a row with its error. Calls of several threads wait for each other.
        """
        with self._turn:
            return score_columns(self, batch, alpha)

    def score(self, images: Batch, draws: int = 1) -> list[Likelihood]:
        """Return the exact log-likelihood of each image. Raises ``ScoreNotFinite`` if one is not finite."""
        return score_images(self.density, images, draws)

    def score_each(
        self, images: Batch, draws: int = 1, *, gradients: bool = False
    ) -> list[Likelihood | ScoreNotFinite]:
        """Return the exact log-likelihood of each image, or a ``ScoreNotFinite`` object where it is infinite or NaN.

        Args:
            images: Images, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a model of tiles.
            draws: Dequantisation draws that a log-likelihood is averaged over.
            gradients: Whether to add gradient evidence for verdicts, from a backward pass.

        Returns:
            N results; an image whose log-likelihood is not finite has its error in its place.

        Raises:
            GradientEvidenceUnavailable: The calibration has no gradient evidence.
        """
        return finish(self.score_steps(images, draws, gradients=gradients, at_once=CHUNK))

    def score_steps(
        self, images: Batch, draws: int = 1, *, gradients: bool = False, at_once: int | None = None
    ) -> Steps[list[Likelihood | ScoreNotFinite]]:
        """Return a generator that computes log-likelihoods and yields after every ``at_once`` images or tiles."""
        if gradients:
            self.calibration.check_alpha(None, gradients=True)
        size = at_once or self.at_once
        scored = yield from score_steps(self.density, images, draws, size)
        if not (gradients and scored):
            return scored
        features, size = [], tile_of(self._height * self._width)
        for start in range(0, len(images), size):
            yield
            features.append(self._gradient_passes.features(stacked(images[start : start + size]), self._fisher))
        return add_gradients(scored, np.concatenate(features))

    @cached_property
    def _gradient_passes(self) -> GradientPasses:
        if not isinstance(self.flows, Flow):
            raise GradientEvidenceUnavailable("a model with features has none")
        return GradientPasses(GradientProbe(self.flows), self.log_det_digest)

    @cached_property
    def _fisher(self) -> list[Tensor]:
        fisher = self.calibration.fisher
        return self._gradient_passes.split(np.zeros(0, np.float32) if fisher is None else fisher)

    def require_spatial(self) -> MapReference:
        """Return the per-pixel mean and deviation of normal images' log-likelihoods. Raises ``HeatMapUnsupported``."""
        if self.calibration.pixels is None:
            raise HeatMapUnsupported(
                "its layers mix all pixels of the image at once, so that no likelihood belongs to a single pixel"
            )
        return self.calibration.pixels

    def heat_maps(self, images: Batch, *, gradients: bool = False) -> list[PixelMaps]:
        """Return heat maps of each image: what each pixel adds to the log-likelihood, in nats and as a z-score.

        With ``gradients``, the norm of the gradient at each pixel is added. Maps of images of several tiles may be
        smaller than the image (:attr:`PixelMaps.scale`). Raises ``HeatMapUnsupported`` if the layers mix all pixels at
        once.
        """
        return finish(self.heat_map_steps(images, gradients=gradients))

    def heat_map_steps(self, images: Batch, *, gradients: bool = False) -> Steps[list[PixelMaps]]:
        """Return a generator that computes heat maps, yields None between groups of images, and returns all maps."""
        reference = self.require_spatial()
        if self.preprocessing.tiled:
            return tiled_heat_map_steps(self.density, self.calibration, reference, images, self.at_once)
        size = tile_of(self._height * self._width) if gradients else self.at_once
        slopes = self._gradient_passes.maps if gradients else None
        return heat_map_steps(self.density, self.calibration, reference, images, size, slopes)

    def judge_each(
        self, images: Batch, alpha: Alphas = None, draws: int = 1, *, gradients: bool = False, explain: bool = False
    ) -> list[Judgement]:
        """Return for each image its exact log-likelihood, its p-value, and whether it is flagged as an anomaly.

        Args:
            images: Images, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a model of tiles.
            alpha: False-alarm rate of the verdicts, or of the verdict on each image; None for the default.
            draws: Dequantisation draws that a log-likelihood is averaged over.
            gradients: Whether verdicts include gradient evidence, from a backward pass.
            explain: Whether to add heat maps.

        Returns:
            N results; an image whose log-likelihood is not finite has its error in its place.

        Raises:
            AlphaUnattainable: The calibration has too few images for a false-alarm rate.
            GradientEvidenceUnavailable: The calibration has no gradient evidence.
            HeatMapUnsupported: The model has no heat maps.
        """
        return finish(self.judge_steps(images, alpha, draws, gradients=gradients, explain=explain, at_once=CHUNK))

    def judge_steps(
        self,
        images: Batch,
        alpha: Alphas = None,
        draws: int = 1,
        *,
        gradients: bool = False,
        explain: bool = False,
        at_once: int | None = None,
    ) -> Steps[list[Judgement]]:
        """Return a generator that computes log-likelihoods and verdicts, yields between groups, and returns them."""
        scored = yield from self.score_steps(images, draws, gradients=gradients, at_once=at_once)
        maps = None
        if explain:
            yield
            maps = yield from self.heat_map_steps(images, gradients=gradients)
        alphas = alpha if isinstance(alpha, Sequence) else [alpha] * len(scored)
        return judge_by(self.density, self.calibration, scored, alphas, maps)

    def anomaly(self, likelihood: Likelihood, alpha: float | None = None) -> Verdict:
        """Return the p-value of an image and whether it is flagged, from its log-likelihood computed by this scorer."""
        return self.anomalies([likelihood], alpha)[0]

    def anomalies(self, likelihoods: Sequence[Likelihood], alpha: float | None = None) -> list[Verdict]:
        """Return p-value and verdict for each image, from the log-likelihoods that this scorer computed for them.

        Raises ``AlphaUnattainable`` if the calibration has too few images for the false-alarm rate ``alpha``.
        """
        return verdicts(self.density, self.calibration, likelihoods, alpha)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision = "float32"
    ) -> tuple[Calibration, CalibrationSummary]:
        """Measure normal images with this model; return the calibration, which gives p-values, and its summary.

        The scorer does not change. Raises ``ScoreNotFinite`` if an image has no finite log-likelihood, and whatever
        ``progress`` raises to stop.
        """
        density = self._density_in(precision)
        precise = None if precision == "float32" else self._density_in("float32")
        flow = self.flows if isinstance(self.flows, Flow) else None
        return calibrate(density, reference, self.pinned[0], progress, flow=flow, precise=precise)

    def _density_in(self, precision: Precision | None) -> ImageDensity:
        if precision is not None and "density" in vars(self) and precision == self.precision:
            return self.density
        options = replace(self.options, precision=precision)
        manifest = self.manifest
        return open_density(self.flows, manifest.architecture, manifest.log_dets.layers, self.log_det_digest, options)

    @property
    def at_once(self) -> int:
        """The number of images, or of tiles, that a long computation processes before its thread may do other work."""
        return step_size(self.density.step_pixels, self.options.threads or torch.get_num_threads())

    @property
    def has_learned_inverse(self) -> bool:
        """Whether random images can be drawn by the learned inverse R of the flow's layers."""
        return self.pixels is not None and self.pixels.frozen.has_learned_inverse

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw random images from the flow over pixels, uint8 ``(n, C, H, W)``; see :meth:`Sampler.sample`.

        Raises ``SamplesUnsupported`` for a model of features alone.
        """
        return self._sampler.sample(n, temperature, seed, inverse, first)

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Draw images as a generator that yields between groups of images and returns uint8 ``(n, C, H, W)``.

        Raises ``SamplesUnsupported`` for a model of features alone.
        """
        return self._sampler.sample_steps(n, temperature, seed, inverse)

    def sample_continuous(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.float64]:
        """Draw dequantised images as :meth:`sample` does, float64 ``(n, C, H, W)``, before rounding to pixels."""
        return self._sampler.sample_continuous(n, temperature, seed, inverse, first)

    def require_pixels(self) -> FlowDensity:
        """Return the density of pixels, from which samples are drawn. Raises ``SamplesUnsupported`` without one."""
        if self.pixels is None:
            raise SamplesUnsupported("it is a density of features, which have no way back to pixels")
        return self.pixels

    @cached_property
    def _sampler(self) -> Sampler:
        pixels = self.require_pixels()
        return Sampler(pixels.engine, pixels.frozen, self.options.threads)


def load_files(files: ModelFiles) -> Scorer:
    """Return the loaded model of some files, which are fetched and compared first; see :meth:`Scorer.load`."""
    files.fetch()
    return Scorer.load(files.path, files.calibration, files.options)
