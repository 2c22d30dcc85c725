"""Typed errors of the models package, each with a slug, a title, a kind and a text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from models.attainable import unattainable


class ErrorKind(StrEnum):
    """The kind of an error, such as not found or invalid; it decides the HTTP status and the exit code."""

    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    BUSY = "busy"
    NO_SPACE = "no-space"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


def _new_error(kind: type[ModelsError], arguments: tuple[Any, ...]) -> ModelsError:
    """Return an error of a class as pickle makes it: its attributes come afterwards."""
    return kind.__new__(kind, *arguments)


class ModelsError(Exception):
    """Base class of the errors of this package, with a slug such as ``model-not-found``, a title and a detail text.

    Attributes:
        slug: Stable name of the error, the same in every release.
        title: Short text, the same for every error of a slug.
        kind: What a caller can do about it.
        detail: Text for the user: what was expected, and what came.
    """

    slug = "models-error"
    title = "The request cannot be served"
    kind = ErrorKind.FAILED

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes: other processes get the same error, however many arguments its class takes."""
        return _new_error, (type(self), self.args), self.__dict__


class ImageError(ModelsError):
    """Raised for an image that cannot be decoded or scored; the slug gives the reason, such as ``file-too-large``."""

    title = "The image cannot be scored"
    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


def unsupported_image(detail: str) -> ImageError:
    """Return the error for a file that is sound, but of a kind that is not read."""
    return ImageError("unsupported-image", "The image is of an unsupported kind", detail)


class ModelNotFound(ModelsError):
    """Raised for a model, model version or alias that does not exist, and for a malformed reference to one."""

    slug = "model-not-found"
    title = "No such model"
    kind = ErrorKind.NOT_FOUND


class NoLiveVersion(ModelsError):
    """Raised for the plain name of a model of which no version is live, because all of them are unfit.

    Args:
        detail: Text for the user.
        unfit: Why the newest version is unfit: a code such as ``hardly-trained`` and a sentence for each reason.
    """

    slug = "no-live-version"
    title = "The model has no live version"
    kind = ErrorKind.CONFLICT

    def __init__(self, detail: str, unfit: Sequence[tuple[str, str]]) -> None:
        super().__init__(detail)
        self.unfit = tuple(unfit)


class AliasRequired(ModelsError):
    """Raised for an attempt to remove the alias ``live`` from a fit version: it can only be moved."""

    slug = "alias-required"
    title = "The alias cannot be removed"
    kind = ErrorKind.CONFLICT


class VersionInUse(ModelsError):
    """Raised for an attempt to remove a model version while an alias such as ``live`` points at it."""

    slug = "version-in-use"
    title = "The version is in use"
    kind = ErrorKind.CONFLICT


class ModelReadOnly(ModelsError):
    """Raised for an attempt to remove a model, or a version of one, that ships with the product."""

    slug = "model-read-only"
    title = "The model cannot be changed"
    kind = ErrorKind.CONFLICT


class CalibrationNotFound(ModelsError):
    """Raised for a calibration number that the model version does not have; 0 is the one made in training."""

    slug = "calibration-not-found"
    title = "No such calibration"
    kind = ErrorKind.NOT_FOUND


class LimitNotFound(ModelsError):
    """Raised for the number of a detection limit that was not measured for the model version."""

    slug = "limit-not-found"
    title = "No such detection limit"
    kind = ErrorKind.NOT_FOUND


class InvalidName(ModelsError):
    """Raised for a name that is not 1 to 64 of a-z, 0-9, dot, dash and underscore with a letter or digit first."""

    slug = "invalid-name"
    title = "The name is not valid"
    kind = ErrorKind.INVALID


class ArtifactError(ModelsError):
    """Raised for a model on disk with a file that is missing, damaged or of another model; the detail names it."""

    slug = "damaged-artifact"
    title = "The model's files are damaged"


class ArtifactRefused(ModelsError):
    """Raised for an uploaded archive that holds no model, or a model that this service cannot load."""

    slug = "model-refused"
    title = "The upload is no model that can be served"
    kind = ErrorKind.INVALID


class FileNotInArtifact(ModelsError):
    """Raised for a request for a file, such as ``card.md``, that a stored model does not have."""

    slug = "file-not-in-model"
    title = "The model has no such file"
    kind = ErrorKind.NOT_FOUND


class EngineUnavailable(ModelsError):
    """Raised for a scoring engine, such as OpenVINO, that cannot run on this machine or cannot run this model."""

    slug = "engine-unavailable"
    title = "The engine cannot run here"


class RayUnavailable(EngineUnavailable):
    """Raised where a Ray cluster cannot be reached or has no room for a model; it may be there again later."""


class DatasetNotFound(ModelsError):
    """Raised for a name that no built-in or uploaded dataset on this machine has."""

    slug = "dataset-not-found"
    title = "No such dataset"
    kind = ErrorKind.NOT_FOUND


class PresetNotFound(ModelsError):
    """Raised for an unknown name of a training preset, a flow architecture with training settings."""

    slug = "preset-not-found"
    title = "No such preset"
    kind = ErrorKind.INVALID


class ArchitectureInvalid(ModelsError):
    """Raised for a description of a flow that cannot be built: an unknown layer, a wrong shape, too many weights."""

    slug = "architecture-invalid"
    title = "The architecture is not valid"
    kind = ErrorKind.INVALID


class DatasetUnfit(ModelsError):
    """Raised for a dataset that a model or preset cannot use: wrong size or colour, too few images, unreadable."""

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    kind = ErrorKind.INVALID


class DatasetRefused(ModelsError):
    """Raised for an upload that cannot become a dataset; the slug gives the reason, such as ``unsafe-archive``."""

    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    """Raised for the creation of a dataset under a name that another dataset already has."""

    slug = "dataset-taken"
    title = "The dataset's name is taken"
    kind = ErrorKind.CONFLICT


class StorageFull(ModelsError):
    """Raised where files do not fit on the disk, or exceed the quota, the most bytes of all datasets together."""

    slug = "storage-full"
    title = "There is no room on the disk"
    kind = ErrorKind.NO_SPACE


class QuotaFull(StorageFull):
    """Raised where the datasets exceed their quota, while the disk itself may have room."""


class StorageReadOnly(ModelsError):
    """Raised where the disk is mounted read-only, or this process may not write to the folder."""

    slug = "storage-read-only"
    title = "The disk cannot be written"
    kind = ErrorKind.NO_SPACE


class FolderTaken(ModelsError):
    """Raised for a training run whose output folder holds a finished run of another dataset, preset or settings."""

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    kind = ErrorKind.CONFLICT


class DeviceNotFound(ModelsError):
    """Raised for a device other than ``cpu``, ``cuda`` and ``cuda:N``, or one that this machine does not have."""

    slug = "device-not-found"
    title = "The device is not there"
    kind = ErrorKind.INVALID


class RanksUnfit(ModelsError):
    """Raised where processes cannot train one flow together: too many for a batch, or with different settings."""

    slug = "ranks-unfit"
    title = "The processes cannot train together"
    kind = ErrorKind.INVALID


class TrainingDiverged(ModelsError):
    """Raised where training meets infinite or NaN values or a worse likelihood; the detail names the cause."""

    slug = "training-diverged"
    title = "Training diverged"


class DamagedCheckpoints(ModelsError):
    """Raised where none of the checkpoint files of a training run can be read."""

    slug = "damaged-checkpoints"
    title = "The checkpoints are damaged"


class SingularLayer(ModelsError):
    """Raised where a layer of a flow has no inverse in float64; the detail names the layer."""

    slug = "singular-layer"
    title = "A layer of the flow has no inverse"


class UninitializedModel(ModelsError):
    """Raised for the use of a flow before its normalisation layers got values, from a first batch or from a file."""

    slug = "uninitialized-model"
    title = "The model has no weights yet"


class AlphaUnattainable(ModelsError):
    """Raised for a false-alarm rate below 1 / (n + 1), the smallest p-value that n calibration images can give.

    Args:
        alpha: Requested false-alarm rate.
        smallest: Smallest attainable false-alarm rate.
    """

    slug = "alpha-unattainable"
    title = "The false-alarm rate is too small for this model's calibration set"
    kind = ErrorKind.INVALID

    def __init__(self, alpha: float, smallest: float) -> None:
        super().__init__(unattainable(alpha, round(1 / smallest) - 1))
        self.smallest = smallest


class NoLearnedInverse(ModelsError):
    """Raised for a request to sample by the learned (approximate) inverse of a flow that has none."""

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    kind = ErrorKind.INVALID


class GradientEvidenceUnavailable(ModelsError):
    """Raised for a verdict with gradients if the model's calibration has no gradients of normal images.

    Such verdicts are requested with ``detail=full``.
    """

    slug = "detail-unsupported"
    title = "The model has no verdicts with gradient evidence"
    kind = ErrorKind.INVALID


class HeatMapUnsupported(ModelsError):
    """Raised for a heat map of a flow that mixes all pixels at once, so that no pixel has its own log-likelihood."""

    slug = "explain-unsupported"
    title = "This model has no heat map"
    kind = ErrorKind.INVALID


class ScoreNotFinite(ModelsError):
    """Raised for an image whose log-likelihood is infinite or NaN, as the arithmetic of the flow overflowed."""

    slug = "score-not-finite"
    title = "The image has no finite likelihood under this model"
    kind = ErrorKind.INVALID


class PlanDiffers(ModelsError):
    """Raised where a process joins or continues a bulk scoring, but its model or its images are not those of it."""

    slug = "plan-differs"
    title = "The scores are of another model or of other images"
    kind = ErrorKind.CONFLICT


class OutputTaken(ModelsError):
    """Raised for a location that is to get the parts of a bulk scoring, and holds other files."""

    slug = "output-taken"
    title = "The output holds other files"
    kind = ErrorKind.CONFLICT


class PartFailed(ModelsError):
    """Raised where a part of a bulk scoring cannot be scored: its process failed, or died again and again."""

    slug = "part-failed"
    title = "A part of the images cannot be scored"


class SamplesUnsupported(ModelsError):
    """Raised when random images are requested from a density of features, which has no pixels to invert to."""

    slug = "samples-unsupported"
    title = "This model has no samples"
    kind = ErrorKind.INVALID


class BackboneMissing(ModelsError):
    """Raised for a backbone, the frozen network of a feature model, that is not installed on this machine."""

    slug = "backbone-missing"
    title = "The backbone is not here"
    kind = ErrorKind.INVALID


class BackboneUnfit(ModelsError):
    """Raised for a backbone whose files are damaged, or that cannot be used as its description says."""

    slug = "backbone-unfit"
    title = "The backbone cannot be used"
    kind = ErrorKind.INVALID
