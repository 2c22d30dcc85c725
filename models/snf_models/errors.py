"""Typed errors, each with a slug, a title, a kind and a text. Those of scoring are in ``snf_runtime.errors``."""

from __future__ import annotations

from collections.abc import Sequence

from snf_models.bijections.errors import (
    WHITENING_LAYERS,
    ArchitectureInvalid,
    DeviceNotFound,
    RanksUnfit,
    SettingUnsupported,
    UninitializedModel,
)
from snf_runtime.errors import (
    AlphaUnattainable,
    ArtifactError,
    EngineUnavailable,
    ErrorKind,
    HeatMapUnsupported,
    ImageError,
    ModelsError,
    ScoreNotFinite,
    SizeNotCalibrated,
    unsupported_image,
)

__all__ = [
    "WHITENING_LAYERS",
    "AlphaUnattainable",
    "ArchitectureInvalid",
    "ArtifactError",
    "DeviceNotFound",
    "EngineUnavailable",
    "ErrorKind",
    "HeatMapUnsupported",
    "ImageError",
    "ModelsError",
    "RanksUnfit",
    "ScoreNotFinite",
    "SettingUnsupported",
    "SizeNotCalibrated",
    "UninitializedModel",
    "unsupported_image",
]


class ModelNotFound(ModelsError):
    """No such model, version or alias, or a malformed reference."""

    slug = "model-not-found"
    title = "No such model"
    kind = ErrorKind.NOT_FOUND


class NoLiveVersion(ModelsError):
    """A model without the alias ``live``, as all versions are ``unfit``, by code and sentence."""

    slug = "no-live-version"
    title = "The model has no live version"
    kind = ErrorKind.CONFLICT

    def __init__(self, detail: str, unfit: Sequence[tuple[str, str]]) -> None:
        super().__init__(detail)
        self.unfit = tuple(unfit)


class AliasRequired(ModelsError):
    """The alias ``live`` of a fit version can only be moved."""

    slug = "alias-required"
    title = "The alias cannot be removed"
    kind = ErrorKind.CONFLICT


class VersionInUse(ModelsError):
    """Raised for an attempt to remove a model version while an alias such as ``live`` points at it."""

    slug = "version-in-use"
    title = "The version is in use"
    kind = ErrorKind.CONFLICT


class ModelReadOnly(ModelsError):
    """A model that ships with the product cannot be removed."""

    slug = "model-read-only"
    title = "The model cannot be changed"
    kind = ErrorKind.CONFLICT


class CalibrationNotFound(ModelsError):
    slug = "calibration-not-found"
    title = "No such calibration"
    kind = ErrorKind.NOT_FOUND


class LimitNotFound(ModelsError):
    slug = "limit-not-found"
    title = "No such detection limit"
    kind = ErrorKind.NOT_FOUND


class InvalidName(ModelsError):
    """A name of a model, alias or dataset breaks :data:`snf_models.naming.NAME_RULE`."""

    slug = "invalid-name"
    title = "The name is not valid"
    kind = ErrorKind.INVALID


class ArtifactRefused(ModelsError):
    """An upload is no model, or one that this service cannot load."""

    slug = "model-refused"
    title = "The upload is no model that can be served"
    kind = ErrorKind.INVALID


class FileNotInArtifact(ModelsError):
    slug = "file-not-in-model"
    title = "The model has no such file"
    kind = ErrorKind.NOT_FOUND


class RayUnavailable(EngineUnavailable):
    """A Ray cluster cannot be reached, has no room or fails; a later attempt may succeed."""


class DatasetNotFound(ModelsError):
    slug = "dataset-not-found"
    title = "No such dataset"
    kind = ErrorKind.NOT_FOUND


class PresetNotFound(ModelsError):
    slug = "preset-not-found"
    title = "No such preset"
    kind = ErrorKind.INVALID


class DatasetUnfit(ModelsError):
    """A model or preset cannot use a dataset, for example because of its image size."""

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    kind = ErrorKind.INVALID


class DatasetRefused(ModelsError):
    """Files cannot become a dataset, for a reason ``slug`` such as ``unsafe-archive``."""

    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    slug = "dataset-taken"
    title = "The dataset's name is taken"
    kind = ErrorKind.CONFLICT


class StorageFull(ModelsError):
    """There is no room on the disk, or in a quota."""

    slug = "storage-full"
    title = "There is no room on the disk"
    kind = ErrorKind.NO_SPACE


class QuotaFull(StorageFull):
    """Datasets need more bytes than their quota; the disk may have room."""


class StorageReadOnly(ModelsError):
    """The disk is read-only, or write permission is missing."""

    slug = "storage-read-only"
    title = "The disk cannot be written"
    kind = ErrorKind.NO_SPACE


class FolderTaken(ModelsError):
    """The folder holds another training run, or the damaged record of one."""

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    kind = ErrorKind.CONFLICT


class TrainingDiverged(ModelsError):
    """Infinite or NaN values, or a likelihood that stays far below its first value."""

    slug = "training-diverged"
    title = "Training diverged"


class DamagedCheckpoints(ModelsError):
    slug = "damaged-checkpoints"
    title = "The checkpoints are damaged"


class SingularLayer(ModelsError):
    """A layer has no inverse in float64; the detail names it."""

    slug = "singular-layer"
    title = "A layer of the flow has no inverse"


class NoLearnedInverse(ModelsError):
    """Sampling asks for the learned inverse of a flow that has none."""

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    kind = ErrorKind.INVALID


class PlanDiffers(ModelsError):
    """A process continues a bulk scoring with another model or other images."""

    slug = "plan-differs"
    title = "The scores are of another model or of other images"
    kind = ErrorKind.CONFLICT


class OutputTaken(ModelsError):
    """The output of a bulk scoring holds other files."""

    slug = "output-taken"
    title = "The output holds other files"
    kind = ErrorKind.CONFLICT


class PartFailed(ModelsError):
    """A part of a bulk scoring failed again and again."""

    slug = "part-failed"
    title = "A part of the images cannot be scored"


class SamplesUnsupported(ModelsError):
    """Features cannot be inverted to images."""

    slug = "samples-unsupported"
    title = "This model has no samples"
    kind = ErrorKind.INVALID


class BackboneMissing(ModelsError):
    """The backbone of a model is not installed here."""

    slug = "backbone-missing"
    title = "The backbone is not here"
    kind = ErrorKind.INVALID


class BackboneUnfit(ModelsError):
    """The files of a backbone are damaged or do not match its description."""

    slug = "backbone-unfit"
    title = "The backbone cannot be used"
    kind = ErrorKind.INVALID


class LocationRefused(ModelsError):
    """A location is malformed, forbidden or of a scheme that is not supported, or its settings are wrong."""

    slug = "location-refused"
    title = "The location cannot be used"
    kind = ErrorKind.INVALID


class FileUnreadable(LocationRefused):
    """A single file cannot be read; others may be readable."""


class LocationNotFound(ModelsError):
    slug = "location-not-found"
    title = "There is nothing at the location"
    kind = ErrorKind.INVALID


class LocationUnavailable(ModelsError):
    """The server or disk fails or does not answer."""

    slug = "location-unavailable"
    title = "The location cannot be reached"
    kind = ErrorKind.UNAVAILABLE


class FileChanged(ModelsError):
    """The expected version of a file can no longer be read."""

    slug = "file-changed"
    title = "The file has changed"
    kind = ErrorKind.CONFLICT


class Interrupted(Exception):
    """``should_stop`` ended a training run, which the next run resumes from its checkpoint."""
