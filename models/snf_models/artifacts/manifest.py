"""The manifest: a JSON file that describes a model without its weights. Free of torch."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snf_models.artifacts.fitness import FitnessCheck, FitnessRecord
from snf_models.errors import ArtifactError
from snf_models.flows.architecture import Architecture
from snf_models.images.provenance import Provenance, Split
from snf_runtime import kinds
from snf_runtime.images.preprocessing import Preprocessing

FILE = "manifest.json"
Precision = kinds.Precision


class _ManifestPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GridChoice(_ManifestPart):
    """A grid of a flow over features, with its best fit."""

    grid: int = Field(ge=1, description="Cells along each side.")
    shrinkage: float = Field(ge=0, le=1)
    mean_shrinkage: float = Field(ge=0, le=1)
    held_out_nats: float = Field(description="Mean negative log-likelihood of held-out features, nats for each value.")


class FeatureStepsRecord(_ManifestPart):
    """Glow steps that were tried, and kept if their gain on held-out images exceeds its standard error."""

    steps: int = Field(ge=1)
    updates: int = Field(ge=1, description="Optimiser steps.")
    held_out_images: int = Field(ge=2)
    gain: float = Field(
        description="Mean rise of the log-likelihood of held-out images in nats; of tiles, the mean of an image."
    )
    standard_error: float = Field(ge=0, description="Of the gain, in nats.")
    kept: bool


class FeatureFitRecord(_ManifestPart):
    """How flows over features were fitted: all grids, the best first. Fits after the first lack one fold each."""

    backbone: str
    grids: tuple[GridChoice, ...]
    pooled: GridChoice
    fits: int = Field(ge=1)
    steps: FeatureStepsRecord | None = Field(None, description="Null if no Glow steps were tried.")


class TrainingRecord(_ManifestPart):
    preset: str
    config: dict[str, Any]
    dataset: str
    dataset_digest: str
    train_images: int = Field(ge=1)
    provenance: Provenance | None = None
    split: Split | None = None
    steps: int = Field(ge=0, description="0 for a model that is fitted in closed form.")
    best_step: int = Field(ge=0)
    seconds: float = Field(ge=0)
    validation_seconds: float | None = Field(
        None, ge=0, description="The part of `seconds` that validations took; null where it was not measured."
    )
    precision: str
    started_from_commit: str | None = None
    versions: dict[str, str] = {}
    job: str | None = None
    feature_fit: FeatureFitRecord | None = Field(None, description="How the flow over features was fitted.")
    imported: str | None = Field(
        None,
        description="Where the weights come from, if another program trained them; then `dataset` calibrates only.",
    )


class Evaluation(_ManifestPart):
    """Negative log-likelihood of held-out images; less is better. Dequantisation is seeded by each image."""

    validation_bits_per_dim: float | None = Field(description="Null for a density of features.")
    validation_nats: float | None = Field(None, description="Mean negative log-likelihood, nats an image.")
    test_bits_per_dim: float | None = Field(description="Null for a density of features, and without test images.")
    test_images: int = Field(ge=0)
    test_nats: float | None = Field(description="Null without test images.")
    reconstruction_error: float | None = Field(
        description="Largest ||I - R W|| over the layers, root mean square over white noise."
    )


class LogDets(_ManifestPart):
    """Log|det dz/dx| in nats of layers where it is the same for every image, computed in float64."""

    layers: dict[str, float]
    total: float
    weights_sha256: str


class Deviation(_ManifestPart):
    """Figures that summarise the differences between bfloat16 and float32 scores of a model's calibration images.

    They are the median, the 99.9 % quantile and the maximum of the absolute differences, in nats.

    ``worst_statistic`` is the maximum for the anomaly statistic, the other figures are for the log-likelihood.
    """

    images: int = Field(ge=1)
    median: float = Field(ge=0)
    quantile_999: float = Field(ge=0, description="99.9 % of the images deviate by less.")
    worst: float = Field(ge=0)
    worst_statistic: float = Field(ge=0)


class CalibrationSummary(_ManifestPart):
    """The calibration behind p-values. With several folds, both parts hold the same images."""

    dataset: str
    dataset_digest: str
    statistics_images: int = Field(ge=1)
    calibration_images: int = Field(ge=1)
    copies: int = Field(0, ge=0, description="Images without a rank of their own: copies of others. 0 where unknown.")
    tiles: tuple[int, int] | None = Field(None, description="Fewest and most tiles of a calibration image.")
    folds: int = Field(1, ge=1)
    suspect_share: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the most anomalous images that was left out of the fit."
    )
    folds_sha256: str | None = Field(
        None,
        description="Digest of the fold of every image; null for one fold and in calibrations of earlier versions.",
    )
    suspects_ranked: bool = Field(
        False, description="Whether those images give ranks all the same. False in calibrations of earlier versions."
    )
    smallest_p: float
    statistics_log_likelihood: float = Field(description="Mean over the statistics images, nats.")
    mean_log_likelihood: float = Field(description="Mean over the calibration images, nats.")
    engine: str = Field(description="The engine whose numbers these are; any other of this precision may use them.")
    precision: Precision
    weights_sha256: str
    pinned_statistic: float = Field(description="T of the pinned image; loading computes it again.")
    deviation: Deviation | None = Field(None, description="Where the precision is not float32.")


class Activation(_ManifestPart):
    """Whether a new calibration became active, with the reason if it did not or replaced a damaged one."""

    active: bool
    reason: str | None = Field(None, description="Why it did not, or that it replaced a damaged one.")


class CalibrationRecord(_ManifestPart):
    """Content of ``calibration.json`` of a calibration that was added to a published model."""

    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    summary: CalibrationSummary
    sha256: str = Field(description="SHA-256 of the arrays.")
    activation: Activation | None = Field(None, description="Null in records of earlier versions.")


class PinnedSample(_ManifestPart):
    """An image stored with a model, and its log-likelihood in nats, which is checked whenever the model is loaded."""

    image_sha256: str
    log_likelihood: float


class Manifest(_ManifestPart):
    """Content of ``manifest.json``."""

    format_version: Literal[2] = 2
    created: datetime
    architecture: Architecture
    preprocessing: Preprocessing
    training: TrainingRecord
    evaluation: Evaluation
    fitness: FitnessRecord | None = Field(None, description="Null for a model of an earlier version: it counts as fit.")
    log_dets: LogDets
    calibration: CalibrationSummary
    pinned: PinnedSample
    files: dict[str, str] = Field(description="SHA-256 of every other file of the artifact.")

    @property
    def unfit(self) -> tuple[FitnessCheck, ...]:
        """The failed fitness checks; none for a fit model."""
        return () if self.fitness is None else self.fitness.failed


def read_manifest(folder: Path) -> Manifest:
    """Read a manifest; raise ``ArtifactError``, which names the file."""
    path = folder / FILE
    label = file_label(path)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{label} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{label} is not a valid manifest: {where}: {first['msg']}") from error


def file_label(path: Path) -> str:
    """Return the last parts of a path for an error, such as ``birds/3/card.md``."""
    added = not {"calibrations", "limits"}.isdisjoint(path.parts[-4:-2])
    return "/".join(path.parts[-5 if added else -3 :])
