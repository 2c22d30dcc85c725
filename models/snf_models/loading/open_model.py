"""Opening of a model for scoring, with checks of its files and of the score of its pinned image."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from snf_models.artifacts.files import CALIBRATION, WEIGHTS
from snf_models.artifacts.manifest import CalibrationSummary, file_label
from snf_models.errors import ArtifactError, ScoreNotFinite, UninitializedModel
from snf_models.loading.verification import (
    VerifiedModel,
    check_pinned_score,
    check_pinned_statistic,
    check_precision,
    score_tolerance,
    verify_model,
)
from snf_models.registry.calibrations import ARRAYS, load_added_calibration
from snf_models.scoring.opened_density import OpenedDensity
from snf_models.scoring.options import EngineOptions
from snf_models.threads import thread_count, torch_threads
from snf_runtime.anomaly.judged import verdicts
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.likelihood import score_images

if TYPE_CHECKING:
    from snf_models.loading.flow_model import FlowModel
    from snf_models.scoring.prepared.file import PreparedFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to score and judge images."""

    model: VerifiedModel  # with the calibration in use
    summary: CalibrationSummary
    options: EngineOptions  # with a precision
    opened: OpenedDensity
    trained: FlowModel | Callable[[], FlowModel]  # or a function that loads it when it is first needed


@dataclass(frozen=True)
class ModelOpener:
    """Opener of a verified model, from the cache of engines if that gives the stored score, else from its flows."""

    path: Path
    arrays: Path  # the file of the calibration
    model: VerifiedModel  # with the calibration in use
    summary: CalibrationSummary
    options: EngineOptions  # with a precision

    @classmethod
    def verified(cls, path: Path, calibration: Path | None, options: EngineOptions) -> Self:
        """Verify the files; raise ``ArtifactError``. The default precision is that of the calibration."""
        model = verify_model(path)
        summary, arrays = model.manifest.calibration, path / CALIBRATION
        if calibration is not None:
            added, summary = load_added_calibration(calibration, model.manifest.log_dets.weights_sha256)
            model, arrays = replace(model, calibration=added), calibration / ARRAYS
        return cls(path, arrays, model, summary, options.settled(summary.precision))

    def open(self) -> OpenModel:
        """Open the model; raise ``EngineUnavailable``, or ``ArtifactError`` if the pinned image gets another score."""
        prepared = self._prepared_file()
        cached = None if prepared is None else prepared.open()
        fault = ""
        if cached is not None:
            try:
                self._check(cached)
                return self._open(cached, lambda: self._load_trained_again(cached.density))
            except (ArtifactError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
                fault = str(error)
        try:
            trained = self._load_trained()
        except UninitializedModel as error:
            raise ArtifactError(f"{file_label(self.path / WEIGHTS)} gives no score: {error}") from error
        opened = trained.opened()
        self._check(opened)  # otherwise the fault is that of the model or its calibration
        if prepared is not None:
            if fault:
                prepared.discard(fault)
            prepared.keep(opened)
        return self._open(opened, trained)

    def _open(self, opened: OpenedDensity, trained: FlowModel | Callable[[], FlowModel]) -> OpenModel:
        return OpenModel(self.model, self.summary, self.options, opened, trained)

    def _prepared_file(self) -> PreparedFile | None:
        if self.options.cache is None or self.options.name == "torch" or self.options.device != "cpu":
            return None
        from snf_models.scoring.prepared.file import PreparedFile  # noqa: PLC0415 - OpenVINO takes time to load

        return PreparedFile.of(self.model.manifest, self.options)

    def _check(self, opened: OpenedDensity) -> None:
        """Raise ``ArtifactError`` unless a density gives the pinned image its stored score and statistic."""
        density, calibration, manifest = opened.density, self.model.calibration, self.model.manifest
        check_precision(self.arrays, density.precision, self.summary)
        try:
            pinned = score_images(density, self.model.pinned[:1])[0]
        except ScoreNotFinite as error:
            raise ArtifactError(f"{file_label(self.path / WEIGHTS)} gives no score: {error}") from error
        tolerance = score_tolerance(density.dimensions, manifest.pinned.log_likelihood, self.summary)
        check_pinned_score(self.path, pinned.log_likelihood, manifest, tolerance)
        try:
            statistic = verdicts(density, calibration, [pinned], None)[0].statistic
            _ = calibration.map_maxima
        except (ValueError, IndexError) as error:  # arrays that do not fit each other or this flow
            raise ArtifactError(f"{file_label(self.arrays)} does not fit the model: {error}") from error
        check_pinned_statistic(self.arrays, statistic, self.summary)

    def _load_trained(self) -> FlowModel:
        from snf_models.loading.flow_model import FlowModel  # noqa: PLC0415 - as above
        from snf_models.loading.load_flows import load_flows  # noqa: PLC0415 - torch takes a second to import

        with torch_threads(thread_count(self.options.threads)):
            return FlowModel(load_flows(self.model, self.path), self.options)

    def _load_trained_again(self, density: ImageDensity) -> FlowModel:
        """Return the flows of a density that was opened without them, from files that are verified again."""
        from snf_models.loading.flow_model import FlowModel  # noqa: PLC0415 - as above
        from snf_models.loading.load_flows import load_artifact  # noqa: PLC0415 - torch takes a second to import

        began = time.monotonic()
        with torch_threads(thread_count(self.options.threads)):
            artifact = load_artifact(self.path)
            if artifact.manifest != self.model.manifest:
                raise ArtifactError(f"{file_label(self.path)} has changed since the model was loaded")
            trained = FlowModel(artifact, self.options, density)
            _ = trained.pixels  # frozen by the threads of the options
        log.info("trained flows of %s loaded in %.2f s", file_label(self.path), time.monotonic() - began)
        return trained
