"""Typed errors, each with a slug, a title, a kind and a text. Those of scoring are in ``snf_runtime.errors``."""

# ruff: noqa: PLC0414 - the errors of scoring are also errors of this module
from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from snf_runtime.errors import AlphaUnattainable as AlphaUnattainable
from snf_runtime.errors import ArtifactError as ArtifactError
from snf_runtime.errors import EngineUnavailable as EngineUnavailable
from snf_runtime.errors import ErrorKind as ErrorKind
from snf_runtime.errors import HeatMapUnsupported as HeatMapUnsupported
from snf_runtime.errors import ImageError as ImageError
from snf_runtime.errors import ModelsError as ModelsError
from snf_runtime.errors import ScoreNotFinite as ScoreNotFinite
from snf_runtime.errors import SizeNotCalibrated as SizeNotCalibrated
from snf_runtime.errors import unsupported_image as unsupported_image

CONFLICT, INVALID, NOT_FOUND = ErrorKind.CONFLICT, ErrorKind.INVALID, ErrorKind.NOT_FOUND
NO_SPACE, UNAVAILABLE = ErrorKind.NO_SPACE, ErrorKind.UNAVAILABLE


WHITENING_LAYERS = "an exact or self-normalizing 1x1 convolution"


class ArchitectureInvalid(
    ModelsError, slug="architecture-invalid", title="The architecture is not valid", kind=INVALID
):
    """No flow can be built from the description of an architecture."""


class SettingUnsupported(ArchitectureInvalid):
    """A training setting needs a layer type that the flow does not have."""

    def __init__(self, setting: str, layers: str) -> None:
        super().__init__(f"{setting}: expected a flow with {layers}, got one without")
        self.setting = setting


class DeviceNotFound(ModelsError, slug="device-not-found", title="The device is not there", kind=INVALID):
    """A device other than ``cpu``, ``cuda`` and ``cuda:N``, or one that this machine does not have."""


class RanksUnfit(ModelsError, slug="ranks-unfit", title="The processes cannot train together", kind=INVALID):
    """Processes cannot train together: too few images in a batch, different starts, or an unsuitable device."""


class UninitializedModel(ModelsError, slug="uninitialized-model", title="The model has no weights yet"):
    """The normalisation layers have not got their values from a first batch or a file."""


class ModelNotFound(ModelsError, slug="model-not-found", title="No such model", kind=NOT_FOUND):
    """No such model, version or alias, as ``part`` says, or a malformed reference."""

    def __init__(self, detail: str, part: Literal["name", "version", "alias"] = "name") -> None:
        super().__init__(detail)
        self.part = part


class NoLiveVersion(ModelsError, slug="no-live-version", title="The model has no live version", kind=CONFLICT):
    """A model without the alias ``live``, as all versions are ``unfit``, by code and sentence."""

    def __init__(self, detail: str, unfit: Sequence[tuple[str, str]]) -> None:
        super().__init__(detail)
        self.unfit = tuple(unfit)


class AliasRequired(ModelsError, slug="alias-required", title="The alias cannot be removed", kind=CONFLICT):
    """The alias ``live`` of a fit version can only be moved."""


class TooManyAliases(ModelsError, slug="too-many-aliases", title="The model has too many aliases", kind=CONFLICT):
    """A model has as many aliases as are allowed."""


class VersionInUse(ModelsError, slug="version-in-use", title="The version is in use", kind=CONFLICT):
    """Raised for an attempt to remove a model version while an alias such as ``live`` points at it."""


class ModelReadOnly(ModelsError, slug="model-read-only", title="The model cannot be changed", kind=CONFLICT):
    """A model that ships with the product cannot be removed."""


class CalibrationNotFound(ModelsError, slug="calibration-not-found", title="No such calibration", kind=NOT_FOUND):
    """No such calibration of the version."""


class LimitNotFound(ModelsError, slug="limit-not-found", title="No such detection limit", kind=NOT_FOUND):
    """No such detection limit of the version."""


class InvalidName(ModelsError, slug="invalid-name", title="The name is not valid", kind=INVALID):
    """A name of a model, alias or dataset breaks :data:`snf_models.naming.NAME_RULE`."""


class ArtifactRefused(
    ModelsError, slug="model-refused", title="The upload is no model that can be served", kind=INVALID
):
    """An upload is no model, or one that this service cannot load."""


class FileNotInArtifact(ModelsError, slug="file-not-in-model", title="The model has no such file", kind=NOT_FOUND):
    """The model lacks this file, or no model has it."""


class RayUnavailable(EngineUnavailable):
    """A Ray cluster cannot be reached, has no room or fails; a later attempt may succeed."""


class DatasetNotFound(ModelsError, slug="dataset-not-found", title="No such dataset", kind=NOT_FOUND):
    """No such dataset, or one that was deleted meanwhile."""


class PresetNotFound(ModelsError, slug="preset-not-found", title="No such preset", kind=INVALID):
    """No such preset."""


class DatasetUnfit(ModelsError, slug="dataset-unfit", title="The dataset does not fit", kind=INVALID):
    """A model or preset cannot use a dataset, for example because of its image size."""


class DatasetRefused(ModelsError, kind=INVALID):
    """Files cannot become a dataset, for a reason ``slug`` such as ``unsafe-archive``."""

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError, slug="dataset-taken", title="The dataset's name is taken", kind=CONFLICT):
    """Another dataset has this name."""


class StorageFull(ModelsError, slug="storage-full", title="There is no room on the disk", kind=NO_SPACE):
    """There is no room on the disk, or in a quota."""


class QuotaFull(StorageFull):
    """Datasets need more bytes than their quota; the disk may have room."""


class StorageReadOnly(ModelsError, slug="storage-read-only", title="The disk cannot be written", kind=NO_SPACE):
    """The disk is read-only, or write permission is missing."""


class FolderTaken(ModelsError, slug="folder-taken", title="The folder belongs to another training run", kind=CONFLICT):
    """The folder holds another training run, or the damaged record of one."""


class TrainingDiverged(ModelsError, slug="training-diverged", title="Training diverged"):
    """Infinite or NaN values, or a likelihood that stays far below its first value."""


class DamagedCheckpoints(ModelsError, slug="damaged-checkpoints", title="The checkpoints are damaged"):
    """No checkpoint of the training run can be read."""


class SingularLayer(ModelsError, slug="singular-layer", title="A layer of the flow has no inverse"):
    """A layer has no inverse in float64; the detail names it."""


class NoLearnedInverse(ModelsError, slug="no-learned-inverse", title="The model has no learned inverse", kind=INVALID):
    """Sampling asks for the learned inverse of a flow that has none."""


class PlanDiffers(
    ModelsError, slug="plan-differs", title="The scores are of another model or of other images", kind=CONFLICT
):
    """A process continues a bulk scoring with another model or other images."""


class OutputTaken(ModelsError, slug="output-taken", title="The output holds other files", kind=CONFLICT):
    """The output of a bulk scoring holds other files."""


class PartFailed(ModelsError, slug="part-failed", title="A part of the images cannot be scored"):
    """A part of a bulk scoring failed again and again."""


class SamplesUnsupported(ModelsError, slug="samples-unsupported", title="This model has no samples", kind=INVALID):
    """Features cannot be inverted to images."""


class BackboneMissing(ModelsError, slug="backbone-missing", title="The backbone is not here", kind=INVALID):
    """The backbone of a model is not installed here."""


class BackboneUnfit(ModelsError, slug="backbone-unfit", title="The backbone cannot be used", kind=INVALID):
    """The files of a backbone are damaged or do not match its description."""


class LocationRefused(ModelsError, slug="location-refused", title="The location cannot be used", kind=INVALID):
    """A location is malformed, forbidden or of a scheme that is not supported, or its settings are wrong."""


class FileUnreadable(LocationRefused):
    """A single file cannot be read; others may be readable."""


class LocationNotFound(ModelsError, slug="location-not-found", title="There is nothing at the location", kind=INVALID):
    """There is no file or folder at the location."""


class LocationUnavailable(
    ModelsError, slug="location-unavailable", title="The location cannot be reached", kind=UNAVAILABLE
):
    """The server or disk fails or does not answer."""


class FileChanged(ModelsError, slug="file-changed", title="The file has changed", kind=CONFLICT):
    """The expected version of a file can no longer be read."""


class Interrupted(Exception):
    """``should_stop`` ended a training run, which the next run resumes from its checkpoint."""
