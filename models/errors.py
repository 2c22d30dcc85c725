"""Typed errors of the models package, each with a stable slug, a title, a kind and a text for the user."""

from __future__ import annotations

from enum import StrEnum


class ErrorKind(StrEnum):
    """The kind of an error, such as not found or invalid, from which HTTP status and exit code follow."""

    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    NO_SPACE = "no-space"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class ModelsError(Exception):
    """Base class of the errors of this package, each with a stable slug, a title and a text for the user.

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


class ImageError(ModelsError):
    """Raised for an image that cannot be decoded or scored; the slug names the reason."""

    title = "The image cannot be scored"
    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class ModelNotFound(ModelsError):
    """Raised for a model, version or alias that does not exist."""

    slug = "model-not-found"
    title = "No such model"
    kind = ErrorKind.NOT_FOUND


class AliasRequired(ModelsError):
    """Raised for an attempt to remove the alias ``live``, which every model has."""

    slug = "alias-required"
    title = "Every model has this alias"
    kind = ErrorKind.CONFLICT


class VersionInUse(ModelsError):
    """Raised for an attempt to remove a model version that an alias points at."""

    slug = "version-in-use"
    title = "The version is in use"
    kind = ErrorKind.CONFLICT


class ModelReadOnly(ModelsError):
    """Raised for an attempt to change a model that ships with the product."""

    slug = "model-read-only"
    title = "The model cannot be changed"
    kind = ErrorKind.CONFLICT


class CalibrationNotFound(ModelsError):
    """Raised for a calibration number that a model version does not have."""

    slug = "calibration-not-found"
    title = "No such calibration"
    kind = ErrorKind.NOT_FOUND


class InvalidName(ModelsError):
    """Raised for a name of a model, dataset or alias with a character or a length that is not allowed."""

    slug = "invalid-name"
    title = "The name is not valid"
    kind = ErrorKind.INVALID


class ArtifactError(ModelsError):
    """Raised for a stored model with a missing, damaged or foreign file; the detail names the file."""

    slug = "damaged-artifact"
    title = "The model's files are damaged"


class ArtifactRefused(ModelsError):
    """Raised for an uploaded archive that is not a model, or not a model that this service can load."""

    slug = "model-refused"
    title = "The upload is no model that can be served"
    kind = ErrorKind.INVALID


class FileNotInArtifact(ModelsError):
    """Raised for a file, such as ``card.md``, that a stored model does not have."""

    slug = "file-not-in-model"
    title = "The model has no such file"
    kind = ErrorKind.NOT_FOUND


class EngineUnavailable(ModelsError):
    """Raised for a scoring engine that cannot run on this machine, or cannot run this flow."""

    slug = "engine-unavailable"
    title = "The engine cannot run here"


class DatasetNotFound(ModelsError):
    """Raised for a dataset that does not exist on this machine."""

    slug = "dataset-not-found"
    title = "No such dataset"
    kind = ErrorKind.NOT_FOUND


class PresetNotFound(ModelsError):
    """Raised for a training preset that does not exist."""

    slug = "preset-not-found"
    title = "No such preset"
    kind = ErrorKind.INVALID


class DatasetUnfit(ModelsError):
    """Raised for a dataset whose images do not suit the model or the training preset that is to use them."""

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    kind = ErrorKind.INVALID


class DatasetRefused(ModelsError):
    """Raised for uploaded files that cannot become a dataset; the slug names the reason."""

    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    """Raised for a new dataset whose name is in use."""

    slug = "dataset-taken"
    title = "The dataset's name is taken"
    kind = ErrorKind.CONFLICT


class StorageFull(ModelsError):
    """Raised for files that do not fit on the disk, or into the quota of the datasets."""

    slug = "storage-full"
    title = "There is no room on the disk"
    kind = ErrorKind.NO_SPACE


class FolderTaken(ModelsError):
    """Raised for a training run whose output folder already holds another run."""

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    kind = ErrorKind.CONFLICT


class DeviceNotFound(ModelsError):
    """Raised for a training device, such as ``cuda:1``, that does not exist on this machine."""

    slug = "device-not-found"
    title = "The device is not there"
    kind = ErrorKind.INVALID


class RanksUnfit(ModelsError):
    """Raised for distributed training whose processes cannot train one flow together."""

    slug = "ranks-unfit"
    title = "The processes cannot train together"
    kind = ErrorKind.INVALID


class TrainingDiverged(ModelsError):
    """Raised for a training run with values that are not finite; the detail names the first cause."""

    slug = "training-diverged"
    title = "Training diverged"


class DamagedCheckpoints(ModelsError):
    """Raised for a training run without a checkpoint that can be read."""

    slug = "damaged-checkpoints"
    title = "The checkpoints are damaged"


class UninitializedModel(ModelsError):
    """Raised for the use of a flow before its data-dependent layers were initialised."""

    slug = "uninitialized-model"
    title = "The model has no weights yet"


class AlphaUnattainable(ModelsError):
    """Raised for a false-alarm rate below the smallest p-value that the calibration images can give.

    Args:
        alpha: Requested false-alarm rate.
        smallest: Smallest attainable false-alarm rate.
    """

    slug = "alpha-unattainable"
    title = "The false-alarm rate is too small for this model's calibration set"
    kind = ErrorKind.INVALID

    def __init__(self, alpha: float, smallest: float) -> None:
        # In full: a rate that is rounded down would be refused again.
        super().__init__(f"alpha = {alpha:g} asked, the smallest attainable is {smallest}")
        self.smallest = smallest


class NoLearnedInverse(ModelsError):
    """Raised when samples by the learned inverse are requested from a flow without one."""

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    kind = ErrorKind.INVALID


class GradientEvidenceUnavailable(ModelsError):
    """Raised for a verdict that uses gradients, with a calibration that has no gradient statistics.

    Such verdicts are requested with ``detail=full``.
    """

    slug = "detail-unsupported"
    title = "The model has no verdicts with gradient evidence"
    kind = ErrorKind.INVALID


class HeatMapUnsupported(ModelsError):
    """Raised for a heat map of a flow that mixes all pixels at once and so has no log-likelihood by pixel."""

    slug = "explain-unsupported"
    title = "This model has no heat map"
    kind = ErrorKind.INVALID


class ScoreNotFinite(ModelsError):
    """Raised for an image whose log-likelihood is not a finite number."""

    slug = "score-not-finite"
    title = "The image has no finite likelihood under this model"
    kind = ErrorKind.INVALID


class PlanDiffers(ModelsError):
    """Raised for joining a bulk job whose model or images differ from those of this machine."""

    slug = "plan-differs"
    title = "This machine has another model or other images"
    kind = ErrorKind.CONFLICT
