"""Scorer: a loaded model that scores images, detects anomalies, and draws heat maps and samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pickle import PicklingError
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snf_models.artifacts.files import CALIBRATION, WEIGHTS
from snf_models.artifacts.manifest import CalibrationSummary, Manifest, Precision, file_label
from snf_models.errors import ArtifactError, SamplesUnsupported, ScoreNotFinite, UninitializedModel
from snf_models.loading.verification import (
    ModelFiles,
    VerifiedModel,
    check_pinned_score,
    check_pinned_statistic,
    check_precision,
    score_tolerance,
    verify_model,
)
from snf_models.registry.calibrations import ARRAYS, load_added_calibration
from snf_models.scoring import EngineOptions
from snf_models.threads import thread_count, torch_threads
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.anomaly.detection import Detector
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.parallelism import Steps
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import parts_of

if TYPE_CHECKING:
    from snf_models.anomaly.calibrate import Progress
    from snf_models.anomaly.reference_images import ReferenceImages
    from snf_models.bijections.frozen import Inverse
    from snf_models.loading.prepared import PreparedFile
    from snf_models.loading.trained import Artifact, LoadedFlows
    from snf_models.score_rows import Columns

log = logging.getLogger(__name__)

NO_ORIGIN = (
    "expected a scorer that load_model returned, which is pickled as the place of its files; this one was made from "
    "an artifact in memory"
)
"""Why a scorer cannot be pickled."""
UNFIT = (ArtifactError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""Errors of a density from the cache that does not fit the model: it is opened from its flows instead."""


class Scorer(Detector):
    """A loaded model that scores images, detects anomalies and draws samples.

    Scores are exact log-likelihoods. Anomalies are explained by heat maps.

    It does not change after loading and is not thread-safe. It can be called on a dict of arrays. Pickled, it is the
    place of its files, from where it is loaded again. The trained flows are loaded when they are first needed: for
    samples and calibrations, but not for scores of a model that was opened on this machine before.

    Args:
        model: The verified model, with the calibration in use.
        summary: The summary of that calibration.
        options: Options of the engine, with a precision.
        density: The density, with the engine that runs it.
        trained: The trained flows, or a function that loads them when they are first needed.
        origin: The files that it was loaded from; None for a model in memory.

    Attributes:
        manifest: The manifest of the artifact.
        preprocessing: Shape of the images, and how other sizes and colours are treated.
        options: Options of the engine.
        calibration: The calibration in use.
        calibration_summary: The summary of the calibration in use.
        pinned: The images stored with the model, uint8 ``(n, C, H, W)``.
        density: The frozen density, with the engine that runs it.
        log_det_digest: SHA-256 of the weights that the stored log-dets belong to.
    """

    def __init__(
        self,
        model: VerifiedModel,
        summary: CalibrationSummary,
        options: EngineOptions,
        density: ImageDensity,
        trained: LoadedFlows | Callable[[], LoadedFlows],
        origin: ModelFiles | None = None,
    ) -> None:
        super().__init__(density, model.calibration)
        self.manifest: Manifest = model.manifest
        self.preprocessing: Preprocessing = self.manifest.preprocessing
        self.calibration: Calibration
        self.calibration_summary = summary
        self.pinned = model.pinned
        self.log_det_digest = self.manifest.log_dets.weights_sha256
        self.options = options
        self._trained = trained
        self._origin = origin
        self._turn, self._loading = Lock(), Lock()

    @classmethod
    def of(
        cls, artifact: Artifact, summary: CalibrationSummary | None = None, options: EngineOptions | None = None
    ) -> Scorer:
        """Return a scorer for an artifact in memory, by default with its own calibration; no stored score is checked.

        Raises ``EngineUnavailable`` if the engine of ``options`` cannot run here.
        """
        from snf_models.loading.trained import LoadedFlows  # noqa: PLC0415 - torch takes a second to import

        summary = summary or artifact.manifest.calibration
        options = _settled(options or EngineOptions(), summary.precision)
        trained = LoadedFlows(artifact, options)
        return cls(artifact, summary, options, trained.density, trained)

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

    @property
    def is_flow_loaded(self) -> bool:
        """Whether the trained flows are in memory; scoring with cached compiled graphs works without them."""
        return not callable(self._trained)

    @property
    def trained(self) -> LoadedFlows:
        """The model with its trained flows; the first access imports torch and loads them, which takes seconds."""
        with self._loading:
            if callable(self._trained):
                self._trained = self._trained()
            return self._trained

    @property
    def has_pixels(self) -> bool:
        """Whether the model has a density over pixels, so that images can be sampled."""
        return self.density.kind == "density"

    @property
    def has_learned_inverse(self) -> bool:
        """Whether random images can be drawn by the learned inverse R of the flow's layers."""
        pixels, _ = parts_of(self.density)
        return pixels is not None and pixels.frozen.has_learned_inverse

    def open_parallel_graphs(self) -> None:
        """Open in advance the compiled graphs for many images, which loading may have left for later."""
        for part in parts_of(self.density):
            _ = getattr(part and part.engine, "parallel", None)

    def require_pixels(self) -> None:
        """Raise ``SamplesUnsupported`` unless the model has a density over pixels, which sampling needs."""
        if not self.has_pixels:
            raise SamplesUnsupported("it is a density of features, which have no way back to pixels")

    def tolerance(self, log_likelihood: float) -> float:
        """Return the largest rounding error, in nats, allowed for a log-likelihood in the calibration's precision."""
        return score_tolerance(self.density.dimensions, log_likelihood, self.calibration_summary)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision = "float32"
    ) -> tuple[Calibration, CalibrationSummary]:
        """Compute a new calibration of the model from normal images, and return it with a summary.

        The calibration gives p-values to new images. The scorer does not change. Raises ``ScoreNotFinite`` if an image
        has no finite log-likelihood, and whatever ``progress`` raises to stop.
        """
        return self.trained.calibrate(reference, progress, precision)

    def sample(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact", first: int = 0
    ) -> NDArray[np.uint8]:
        """Draw ``n`` random images from the model's flow over pixels.

        Image i depends on the seed and ``first + i`` alone. Returns uint8 ``(n, C, H, W)``.

        Raises ``SamplesUnsupported`` for a model of features alone, and ``NoLearnedInverse`` for a flow without
        learned inverses.
        """
        return self.trained.sampler.sample(n, temperature, seed, inverse, first)

    def sample_steps(
        self, n: int, temperature: float = 1.0, seed: int = 0, inverse: Inverse = "exact"
    ) -> Steps[NDArray[np.uint8]]:
        """Draw as :meth:`sample` in a generator that yields between small groups, so that other work can run."""
        return self.trained.sampler.sample_steps(n, temperature, seed, inverse)


def load_model(path: Path, calibration: Path | None = None, options: EngineOptions | None = None) -> Scorer:
    """Load a model from its folder, verify its files, and check the score of a test image stored with it.

    Args:
        path: The folder of the artifact.
        calibration: The folder of a later calibration; None for the calibration of the artifact.
        options: Options of the engine. The default precision is that of the calibration.

    Raises:
        ArtifactError: A file is damaged, the calibration belongs to another model, or the pinned image has another
            score or statistic than the stored one.
        EngineUnavailable: The engine of ``options`` cannot run here.
    """
    asked, model = options or EngineOptions(), verify_model(path)
    summary, arrays = model.manifest.calibration, path / CALIBRATION
    if calibration is not None:
        added, summary = load_added_calibration(calibration, model.manifest.log_dets.weights_sha256)
        model, arrays = replace(model, calibration=added), calibration / ARRAYS
    options = _settled(asked, summary.precision)
    origin = ModelFiles.as_they_are(path, calibration, asked)
    prepared, fault = _prepared_file(model, options), ""
    cached = None if prepared is None else prepared.open()
    if cached is not None:
        try:
            _check(cached, model, summary, path, arrays)
            return Scorer(model, summary, options, cached, lambda: _load_trained(path, model, options, cached), origin)
        except UNFIT as error:
            fault = str(error)
    try:
        trained = _load_trained(path, model, options)
    except UninitializedModel as error:
        raise ArtifactError(f"{file_label(path / WEIGHTS)} gives no score: {error}") from error
    _check(trained.density, model, summary, path, arrays)  # otherwise the fault is that of the model or its calibration
    if prepared is not None:
        if fault:
            prepared.discard(fault)
        prepared.keep(trained.density)
    return Scorer(model, summary, options, trained.density, trained, origin)


def load_files(files: ModelFiles) -> Scorer:
    """Fetch missing files and load a scorer."""
    files.fetch()
    return load_model(files.path, files.calibration, files.options)


def _settled(options: EngineOptions, precision: Precision) -> EngineOptions:
    """Fill in threads and a missing precision; raise ``EngineUnavailable`` for a wrong ``OMP_NUM_THREADS``."""
    return replace(options, precision=options.precision or precision, threads=thread_count(options.threads))


def _prepared_file(model: VerifiedModel, options: EngineOptions) -> PreparedFile | None:
    if options.cache is None or options.name == "torch" or options.device != "cpu":
        return None
    from snf_models.loading.prepared import PreparedFile  # noqa: PLC0415 - OpenVINO takes time to load

    return PreparedFile(model.manifest, options)


def _check(density: ImageDensity, model: VerifiedModel, summary: CalibrationSummary, path: Path, arrays: Path) -> None:
    """Raise ``ArtifactError`` unless a density gives the pinned image its stored score and statistic."""
    check_precision(arrays, density.precision, summary)
    detector = Detector(density, model.calibration)
    try:
        pinned = detector.score(model.pinned[:1])[0]
    except ScoreNotFinite as error:
        raise ArtifactError(f"{file_label(path / WEIGHTS)} gives no score: {error}") from error
    tolerance = score_tolerance(density.dimensions, model.manifest.pinned.log_likelihood, summary)
    check_pinned_score(path, pinned.log_likelihood, model.manifest, tolerance)
    try:
        statistic = detector.verdicts([pinned])[0].statistic
        _ = model.calibration.map_maxima
    except (ValueError, IndexError) as error:  # arrays that do not fit each other or this flow
        raise ArtifactError(f"{file_label(arrays)} does not fit the model: {error}") from error
    check_pinned_statistic(arrays, statistic, summary)


def _load_trained(
    path: Path, model: VerifiedModel, options: EngineOptions, cached: ImageDensity | None = None
) -> LoadedFlows:
    """Load the trained flows; with a density that was opened without them, from files that are verified again."""
    from snf_models.loading.trained import LoadedFlows, load_artifact, load_flows  # noqa: PLC0415 - torch takes a second to import

    began = time.monotonic()
    with torch_threads(thread_count(options.threads)):
        if cached is None:
            return LoadedFlows(load_flows(model, path), options)
        artifact = load_artifact(path)
        if artifact.manifest != model.manifest:
            raise ArtifactError(f"{file_label(path)} has changed since the model was loaded")
        trained = LoadedFlows(artifact, options, cached)
        _ = trained.pixels  # frozen by the threads of the options
    log.info("trained flows of %s loaded in %.2f s", file_label(path), time.monotonic() - began)
    return trained
