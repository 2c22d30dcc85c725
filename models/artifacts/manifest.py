"""The manifest of a stored model: a JSON file that describes the model without its weights.

The module does not import torch.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.artifacts.fitness import FitnessCheck, FitnessRecord
from models.errors import ArtifactError
from models.flows.architecture import Architecture
from models.images.provenance import Provenance, Split
from snf_runtime import kinds
from snf_runtime.images.preprocessing import Preprocessing

FILE = "manifest.json"
Precision = kinds.Precision


class _ManifestPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GridChoice(_ManifestPart):
    """Candidate grid size for a flow over image features, with the result of its best fit.

    It has the best shrinkages of the grid and the mean negative log-likelihood of held-out features.
    """

    grid: int = Field(ge=1, description="Cells along each side.")
    shrinkage: float = Field(ge=0, le=1)
    mean_shrinkage: float = Field(ge=0, le=1)
    held_out_nats: float = Field(description="Mean negative log-likelihood of held-out features, nats for each value.")


class FeatureStepsRecord(_ManifestPart):
    """Record of whether adding Glow steps (more flow layers) improved a flow over image features.

    It also states whether the steps were kept.

    The steps follow the local affine layer. The record states what they changed on held-out images.

    They are kept where the gain exceeds its standard error.
    """

    steps: int = Field(ge=1)
    updates: int = Field(ge=1, description="Optimiser steps.")
    held_out_images: int = Field(ge=2)
    gain: float = Field(
        description="Mean rise of the log-likelihood of held-out images in nats; of tiles, the mean of an image."
    )
    standard_error: float = Field(ge=0, description="Of the gain, in nats.")
    kept: bool


class FeatureFitRecord(_ManifestPart):
    """Record of how a flow over image features was fitted.

    It has every grid that was tried, the best first, and the choice for pooled features.

    All but the first fit, to all images, are without one fold each.
    """

    backbone: str
    grids: tuple[GridChoice, ...]
    pooled: GridChoice
    fits: int = Field(ge=1)
    steps: FeatureStepsRecord | None = Field(None, description="Null if no Glow steps were tried.")


class TrainingRecord(_ManifestPart):
    """Record of the training run that made a model.

    It has the dataset, settings, number of steps, duration and software versions.
    """

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
    """Mean negative log-likelihood of held-out images, the measure of a model's quality.

    Less is better.

    A density of pixels has it in bits per pixel value (bits/dim). Before scoring, one random number in [0, 1) is added
    to each pixel value (uniform dequantisation). The generator is seeded by the content of the image, so that the
    figures are reproducible. A density of features has it in nats an image alone, over its feature space.
    """

    validation_bits_per_dim: float | None = Field(description="Null for a density of features.")
    validation_nats: float | None = Field(None, description="Mean negative log-likelihood, nats an image.")
    test_bits_per_dim: float | None = Field(description="Null for a density of features, and without test images.")
    test_images: int = Field(ge=0)
    test_nats: float | None = Field(description="Null without test images.")
    reconstruction_error: float | None = Field(
        description="Largest ||I - R W|| over the layers, root mean square over white noise."
    )


class LogDets(_ManifestPart):
    """Precomputed log-determinants of flow layers that have the same log-determinant for every image.

    They are log|det dz/dx| in nats. Layers whose log-determinant depends on the image are left out.

    They are computed in float64 and stored with the SHA-256 of the weights that they belong to.
    """

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
    """Record of the calibration from which a model computes p-values.

    It has, among others, the images that were used and the smallest p-value.

    With more than one fold, both parts hold the same images: each fold is calibrated by the fit to the others.
    """

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
    """Record of whether a model's new p-value calibration became active in place of the previous one.

    A reason is given if the calibration did not become active, or if it became active because the calibration in use or
    the stored choice is damaged.
    """

    active: bool
    reason: str | None = Field(None, description="Why it did not, or that it replaced a damaged one.")


class CalibrationRecord(_ManifestPart):
    """Content of ``calibration.json``, the record of a calibration added to a published model.

    The calibration was made after the model was published.
    """

    format_version: Literal[1] = 1
    created: datetime
    job: str | None = None
    summary: CalibrationSummary
    sha256: str = Field(description="SHA-256 of the arrays.")
    activation: Activation | None = Field(None, description="Null in records of earlier versions.")


class PinnedSample(_ManifestPart):
    """Pixel digest and expected log-likelihood of an image that is stored with a model for self-checks.

    The image is scored again whenever the model is loaded. The log-likelihood is in nats.
    """

    image_sha256: str
    log_likelihood: float


class Manifest(_ManifestPart):
    """Content of ``manifest.json``, which describes a stored model.

    It has the layers, the training, the quality, and the SHA-256 of each other file.
    """

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
        """The quality checks, called fitness checks, that the model failed.

        A model with a failed check does not become live by itself. A fit model has none.
        """
        return () if self.fitness is None else self.fitness.failed


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json`` in the folder of a stored model, and return it as a ``Manifest``.

    Args:
        folder: The folder of the model.

    Raises:
        ArtifactError: The manifest cannot be read or is not valid; the text names the file.
    """
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
    """Return the last parts of a path for an error message, such as ``birds/3/card.md``.

    These are usually three parts: model, version and file.

    A file of a calibration or of a detection limit gets five parts: model, ``calibrations`` or ``limits``, version,
    number and file.
    """
    added = not {"calibrations", "limits"}.isdisjoint(path.parts[-4:-2])
    return "/".join(path.parts[-5 if added else -3 :])
