"""The manifest: a JSON file that describes a model without its weights, and its fitness to serve. Free of torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snf_client.schemas.calibrations import Deviation
from snf_client.schemas.datasets import Split
from snf_client.schemas.models import UnfitCode
from snf_models.errors import ArtifactError
from snf_models.flows.architecture import Architecture
from snf_models.images import Provenance
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.scoring import layout

Measure = Literal["pixels", "features", "validation", "training", "learned-inverse"]
"""What a check measures: the density of pixels, the density of features, the course of the training, or the inverse."""

MAX_INVERSE_ERROR = 0.5
"""Largest root mean square error in pixel values with which a learned inverse may give held-out images back."""
MAX_PLAIN = 10_000  # figures from here on, of flows that diverged, are written in scientific notation

_TESTS: dict[Measure, tuple[UnfitCode, Callable[[float, float], bool], str, str, str]] = {
    "pixels": (
        "hardly-trained", operator.lt, "below", "not below",
        "{found} bits/dim on held-out images, {side} the {limit} of independent pixels",
    ),
    "features": (
        "hardly-trained", operator.gt, "above", "not above",
        "the log-likelihood of held-out features is {found} nats a value, {side} the {limit} of one Gaussian for all "
        "places",
    ),
    "validation": (
        "diverged", operator.le, "no worse", "worse",
        "the last validation has {found} bits/dim, {side} than at the start with {limit}",
    ),
    "training": (
        "diverged", operator.le, "no worse", "worse",
        "the flow overfitted: training images have {found} bits/dim at the end, {side} than held-out images at the "
        "start with {limit}; the weights of the best validation are kept",
    ),
    "learned-inverse": (
        "learned-inverse-off", operator.le, "", "",
        "the learned inverse gives held-out images back with an error of {found} pixel values (root mean square), at "
        "most {exact:g} are allowed",
    ),
}  # fmt: skip
"""Reason code, test of figure and limit, words for a test that is passed or failed, and sentence, by measure."""


class FitnessCheck(BaseModel):
    """A figure measured when the model was made, and its limit in the same unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    measure: Measure
    found: float | None  # bits/dim, nats for each feature value, or pixel values; None if it is not finite
    limit: float

    @property
    def passed(self) -> bool:
        return self.found is not None and _TESTS[self.measure][1](self.found, self.limit)

    @property
    def code(self) -> UnfitCode:
        return _TESTS[self.measure][0]

    @property
    def sentence(self) -> str:
        """The result in words, without a full stop."""
        code, _, passed, failed, text = _TESTS[self.measure]
        found = "no finite number" if self.found is None else _brief(self.found)
        side = passed if self.passed else failed
        figures = text.format(found=found, side=side, limit=_brief(self.limit), exact=self.limit)
        return figures if self.passed else f"{code.replace('-', ' ')}: {figures}"


def _brief(number: float) -> str:
    return f"{number:.4f}" if abs(number) < MAX_PLAIN else f"{number:.3g}"


class FitnessRecord(BaseModel):
    """Results of all checks. A model that fails none may become live by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: tuple[FitnessCheck, ...]

    @property
    def failed(self) -> tuple[FitnessCheck, ...]:
        return tuple(check for check in self.checks if not check.passed)


def in_words(failed: Iterable[FitnessCheck]) -> str:
    return "; ".join(check.sentence for check in failed)


FILE = "manifest.json"
Precision = layout.Precision
Document = TypeVar("Document", bound=BaseModel)


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
        return () if self.fitness is None else self.fitness.failed


def read_manifest(folder: Path) -> Manifest:
    return read_json(folder / FILE, Manifest, "manifest")


def read_json(path: Path, schema: type[Document], noun: str) -> Document:
    """Read a JSON file of a stored model; raise ``ArtifactError``, which names it as no valid ``noun``."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        raise ArtifactError(f"{file_label(path)} is not a valid {noun}: {where}: {first['msg']}") from error


def file_label(path: Path) -> str:
    """Return the last parts of a path for an error, such as ``birds/3/card.md``."""
    added = not {"calibrations", "limits"}.isdisjoint(path.parts[-4:-2])
    return "/".join(path.parts[-5 if added else -3 :])
