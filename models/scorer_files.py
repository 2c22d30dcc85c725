"""The files of a scorer: their verification, the opening of its density, and the check of the stored score."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from models.anomaly.calibration_file import load_added_calibration
from models.artifacts.files import CALIBRATION, WEIGHTS
from models.artifacts.manifest import CalibrationSummary, file_label
from models.errors import ArtifactError, GradientEvidenceUnavailable, ScoreNotFinite, UninitializedModel
from models.registry.calibrations import ARRAYS
from models.scorer import Scorer, with_precision
from models.scoring.opened_density import OpenedDensity
from models.scoring.options import EngineOptions
from models.threads import thread_count, torch_threads
from models.verification import (
    VerifiedModel,
    check_pinned_score,
    check_pinned_statistic,
    check_precision,
    verify_model,
)
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.density import ImageDensity

if TYPE_CHECKING:
    from models.scoring.prepared.file import PreparedFile
    from models.trained_model import TrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorerFiles:
    """The verified files of a model, from which a scorer is opened.

    The density is opened from what is kept in the cache of engines, where the model was opened before by the same
    software on this machine. Otherwise, or if that gives another score or statistic than the stored ones, it is opened
    from the trained flows and kept.

    Attributes:
        path: The folder of the artifact.
        arrays: The file of the calibration.
        model: The verified model, with the calibration in use.
        summary: The summary of that calibration.
        options: Options of the engine, with a precision.
    """

    path: Path
    arrays: Path
    model: VerifiedModel
    summary: CalibrationSummary
    options: EngineOptions

    @classmethod
    def verified(cls, path: Path, calibration: Path | None, options: EngineOptions) -> Self:
        """Return the files of a model, after checks of their digests; see :meth:`models.scorer.Scorer.load`."""
        model = verify_model(path)
        summary, arrays = model.manifest.calibration, path / CALIBRATION
        if calibration is not None:
            added, summary = load_added_calibration(calibration, model.manifest.log_dets.weights_sha256)
            model, arrays = replace(model, calibration=added), calibration / ARRAYS
        return cls(path, arrays, model, summary, with_precision(options, summary))

    def open(self) -> Scorer:
        """Return the scorer, after its score and statistic of the pinned image are compared with the stored ones.

        Raises:
            ArtifactError: They differ, or files do not fit each other.
            EngineUnavailable: The engine of the options cannot run here.
        """
        prepared = self._prepared_file()
        found = None if prepared is None else prepared.open()
        if prepared is not None and found is not None:
            density = found.density
            try:
                return self._checked(found, lambda: self._load_trained_again(density))
            except (ArtifactError, RuntimeError) as error:
                prepared.discard(str(error))
        try:
            trained = self._load_trained()
        except UninitializedModel as error:
            raise ArtifactError(f"{file_label(self.path / WEIGHTS)} gives no score: {error}") from error
        opened = trained.opened()
        scorer = self._checked(opened, trained)
        if prepared is not None:
            prepared.keep(opened)
        return scorer

    def _prepared_file(self) -> PreparedFile | None:
        if self.options.cache is None or self.options.name == "torch" or self.options.device != "cpu":
            return None
        from models.scoring.prepared.file import PreparedFile  # noqa: PLC0415 - OpenVINO takes time to load

        return PreparedFile.of(self.model.manifest, self.options)

    def _checked(self, opened: OpenedDensity, trained: TrainedModel | Callable[[], TrainedModel]) -> Scorer:
        """Return the scorer of a density that gives the pinned image its stored score and statistic."""
        scorer = Scorer(self.model, self.summary, self.options, opened, trained)
        check_precision(self.arrays, scorer.precision, self.summary)
        try:
            pinned = scorer.score(self.model.pinned[:1])[0]
        except ScoreNotFinite as error:
            raise ArtifactError(f"{file_label(self.path / WEIGHTS)} gives no score: {error}") from error
        manifest = self.model.manifest
        check_pinned_score(self.path, pinned.log_likelihood, manifest, scorer.tolerance(manifest.pinned.log_likelihood))
        try:
            statistic = scorer.anomaly(pinned).statistic
            _ = scorer.calibration.map_maxima
            check_gradients(scorer.calibration, opened.gradient_weights)
        except (ValueError, IndexError) as error:  # arrays that do not fit each other or this flow
            raise ArtifactError(f"{file_label(self.arrays)} does not fit the model: {error}") from error
        check_pinned_statistic(self.arrays, statistic, self.summary)
        return scorer

    def _load_trained(self) -> TrainedModel:
        from models.loading import load_flows  # noqa: PLC0415 - torch takes a second to import
        from models.trained_model import TrainedModel  # noqa: PLC0415 - as above

        with torch_threads(thread_count(self.options.threads)):
            return TrainedModel(load_flows(self.model, self.path), self.options)

    def _load_trained_again(self, density: ImageDensity) -> TrainedModel:
        """Return the trained flows of a density that was opened without them, from files that are verified again."""
        from models.loading import load_artifact  # noqa: PLC0415 - torch takes a second to import
        from models.trained_model import TrainedModel  # noqa: PLC0415 - as above

        began = time.monotonic()
        with torch_threads(thread_count(self.options.threads)):
            artifact = load_artifact(self.path)
            if artifact.manifest != self.model.manifest:
                raise ArtifactError(f"{file_label(self.path)} has changed since the model was loaded")
            trained = TrainedModel(artifact, self.options, density)
        log.info("trained flows of %s loaded in %.2f s", file_label(self.path), time.monotonic() - began)
        return trained


def check_gradients(calibration: Calibration, weights: int | None) -> None:
    """Check that the arrays of a calibration for gradient evidence, if it has them, are those of a flow.

    Args:
        calibration: The calibration.
        weights: The number of weights of the flow with gradients; None for a model with features.

    Raises:
        GradientEvidenceUnavailable: The model has features.
        ValueError: They are those of another flow.
    """
    if not calibration.has_gradients:
        return
    if weights is None:
        raise GradientEvidenceUnavailable("a model with features has none")
    found = 0 if calibration.fisher is None else len(calibration.fisher)
    if found != weights:
        raise ValueError(f"expected {weights} squared gradients, got {found}")
