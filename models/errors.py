"""Typed errors of the models package, each with a stable slug, a title, a kind and a text for the user."""

from __future__ import annotations

from enum import StrEnum


class ErrorKind(StrEnum):
    """The kind of an error, which decides on the HTTP status and on the exit code of the command line."""

    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    NO_SPACE = "no-space"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


class ModelsError(Exception):
    """Base class of the errors of the models package.

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
    """An image that cannot be scored; the slug names the reason."""

    title = "The image cannot be scored"
    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class ModelNotFound(ModelsError):
    """A model, version or alias that does not exist."""

    slug = "model-not-found"
    title = "No such model"
    kind = ErrorKind.NOT_FOUND


class AliasRequired(ModelsError):
    """The alias ``live`` cannot be removed, because every model has it."""

    slug = "alias-required"
    title = "Every model has this alias"
    kind = ErrorKind.CONFLICT


class VersionInUse(ModelsError):
    """A version cannot be removed while an alias points at it."""

    slug = "version-in-use"
    title = "The version is in use"
    kind = ErrorKind.CONFLICT


class ModelReadOnly(ModelsError):
    """A model that ships with the product cannot be changed."""

    slug = "model-read-only"
    title = "The model cannot be changed"
    kind = ErrorKind.CONFLICT


class CalibrationNotFound(ModelsError):
    """A model version has no calibration of this number."""

    slug = "calibration-not-found"
    title = "No such calibration"
    kind = ErrorKind.NOT_FOUND


class InvalidName(ModelsError):
    """A name of a model, dataset or alias with a character or a length that is not allowed."""

    slug = "invalid-name"
    title = "The name is not valid"
    kind = ErrorKind.INVALID


class ArtifactError(ModelsError):
    """A file of a model is damaged or not ours; the detail names the file."""

    slug = "damaged-artifact"
    title = "The model's files are damaged"


class ArtifactRefused(ModelsError):
    """An uploaded archive is not a model, or not one that this service can load."""

    slug = "model-refused"
    title = "The upload is no model that can be served"
    kind = ErrorKind.INVALID


class FileNotInArtifact(ModelsError):
    """A model does not have the requested file."""

    slug = "file-not-in-model"
    title = "The model has no such file"
    kind = ErrorKind.NOT_FOUND


class EngineUnavailable(ModelsError):
    """The requested scoring engine cannot run on this machine, or cannot run this flow."""

    slug = "engine-unavailable"
    title = "The engine cannot run here"


class DatasetNotFound(ModelsError):
    """A dataset that does not exist on this machine."""

    slug = "dataset-not-found"
    title = "No such dataset"
    kind = ErrorKind.NOT_FOUND


class PresetNotFound(ModelsError):
    """A training preset that does not exist."""

    slug = "preset-not-found"
    title = "No such preset"
    kind = ErrorKind.INVALID


class DatasetUnfit(ModelsError):
    """A dataset does not suit the model or preset that was chosen for it."""

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    kind = ErrorKind.INVALID


class DatasetRefused(ModelsError):
    """Uploaded files cannot become a dataset; the slug names the reason."""

    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    """A dataset of this name already exists."""

    slug = "dataset-taken"
    title = "The dataset's name is taken"
    kind = ErrorKind.CONFLICT


class StorageFull(ModelsError):
    """The disk, or the quota of the datasets, has no space for the files to be written."""

    slug = "storage-full"
    title = "There is no room on the disk"
    kind = ErrorKind.NO_SPACE


class FolderTaken(ModelsError):
    """The folder of a training run already holds another run."""

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    kind = ErrorKind.CONFLICT


class DeviceNotFound(ModelsError):
    """The requested training device does not exist on this machine."""

    slug = "device-not-found"
    title = "The device is not there"
    kind = ErrorKind.INVALID


class RanksUnfit(ModelsError):
    """The processes of a distributed training cannot train one flow together."""

    slug = "ranks-unfit"
    title = "The processes cannot train together"
    kind = ErrorKind.INVALID


class TrainingDiverged(ModelsError):
    """Training produced values that are not finite; the detail names the first cause."""

    slug = "training-diverged"
    title = "Training diverged"


class DamagedCheckpoints(ModelsError):
    """No checkpoint of a training run can be read."""

    slug = "damaged-checkpoints"
    title = "The checkpoints are damaged"


class UninitializedModel(ModelsError):
    """A flow was used before its data-dependent layers were initialised."""

    slug = "uninitialized-model"
    title = "The model has no weights yet"


class AlphaUnattainable(ModelsError):
    """The requested false-alarm rate is below the smallest p-value of the calibration set.

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
    """Samples by the learned inverse were requested from a model that was trained without it."""

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    kind = ErrorKind.INVALID


class GradientEvidenceUnavailable(ModelsError):
    """The calibration in use has no gradient evidence, which ``detail=full`` needs."""

    slug = "detail-unsupported"
    title = "The model has no verdicts with gradient evidence"
    kind = ErrorKind.INVALID


class HeatMapUnsupported(ModelsError):
    """A flow whose layers mix all pixels at once has no heat maps."""

    slug = "explain-unsupported"
    title = "This model has no heat map"
    kind = ErrorKind.INVALID


class ScoreNotFinite(ModelsError):
    """The log-likelihood of an image is not a finite number."""

    slug = "score-not-finite"
    title = "The image has no finite likelihood under this model"
    kind = ErrorKind.INVALID


class PlanDiffers(ModelsError):
    """The model or the images on this machine are not those of the bulk job that it should assist."""

    slug = "plan-differs"
    title = "This machine has another model or other images"
    kind = ErrorKind.CONFLICT
