"""Typed errors of the models package, each with a slug, a title, a kind and a text.

Errors of scoring are imported from ``snf_runtime.errors``.
"""

from __future__ import annotations

from collections.abc import Sequence

from snf_runtime.errors import (
    AlphaUnattainable,
    ArtifactError,
    EngineUnavailable,
    ErrorKind,
    GradientEvidenceUnavailable,
    HeatMapUnsupported,
    ImageError,
    ModelsError,
    ScoreNotFinite,
    SizeNotCalibrated,
    unsupported_image,
)

__all__ = [
    "AlphaUnattainable",
    "ArtifactError",
    "EngineUnavailable",
    "ErrorKind",
    "GradientEvidenceUnavailable",
    "HeatMapUnsupported",
    "ImageError",
    "ModelsError",
    "ScoreNotFinite",
    "SizeNotCalibrated",
    "unsupported_image",
]


class ModelNotFound(ModelsError):
    """Raised for a model, model version or alias that does not exist, and for a malformed reference to one."""

    slug = "model-not-found"
    title = "No such model"
    kind = ErrorKind.NOT_FOUND


class NoLiveVersion(ModelsError):
    """Raised if a model is requested by name alone, but none of its versions has the alias ``live``.

    That is so if all of its versions failed the fitness checks.

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
    """Raised for an attempt to remove the alias ``live`` from a model version that is fit for use.

    The alias can only be moved to another version.
    """

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
    """Raised if a model version has no calibration with the given number.

    The number 0 is the calibration made in training.
    """

    slug = "calibration-not-found"
    title = "No such calibration"
    kind = ErrorKind.NOT_FOUND


class LimitNotFound(ModelsError):
    """Raised if a model version has no detection limit (smallest defects found) with the given number."""

    slug = "limit-not-found"
    title = "No such detection limit"
    kind = ErrorKind.NOT_FOUND


class InvalidName(ModelsError):
    """Raised if the name of a model, alias or dataset is not valid.

    A valid name has 1 to 64 of a-z, 0-9, dot, dash and underscore, and begins with a letter or digit.
    """

    slug = "invalid-name"
    title = "The name is not valid"
    kind = ErrorKind.INVALID


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


class RayUnavailable(EngineUnavailable):
    """Raised if a Ray cluster cannot be reached, has no room for a model, or fails.

    The cause may pass, so that a later attempt can succeed.
    """


class DatasetNotFound(ModelsError):
    """Raised if no dataset on this machine has the given name."""

    slug = "dataset-not-found"
    title = "No such dataset"
    kind = ErrorKind.NOT_FOUND


class PresetNotFound(ModelsError):
    """Raised if no training preset has the given name.

    A preset is a flow architecture with training settings.
    """

    slug = "preset-not-found"
    title = "No such preset"
    kind = ErrorKind.INVALID


class ArchitectureInvalid(ModelsError):
    """Raised if no flow can be built from a description of its architecture.

    Examples are an unknown layer, a wrong shape and too many weights.
    """

    slug = "architecture-invalid"
    title = "The architecture is not valid"
    kind = ErrorKind.INVALID


WHITENING_LAYERS = "an exact or self-normalizing 1x1 convolution"
"""The layers that ``whitening`` is for."""


class SettingUnsupported(ArchitectureInvalid):
    """Raised if a training setting needs a layer type that the flow does not have.

    Attributes:
        setting: The name of the setting.
    """

    def __init__(self, setting: str, layers: str) -> None:
        super().__init__(f"{setting}: expected a flow with {layers}, got one without")
        self.setting = setting


class DatasetUnfit(ModelsError):
    """Raised if a model or preset cannot use a dataset, for example because of its image size.

    Other causes are a wrong colour, too few images or unreadable files.
    """

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    kind = ErrorKind.INVALID


class DatasetRefused(ModelsError):
    """Raised if files cannot become a dataset, with a reason code ``slug`` such as ``unsafe-archive``."""

    kind = ErrorKind.INVALID

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    """Raised if a new dataset is given the name of an existing dataset."""

    slug = "dataset-taken"
    title = "The dataset's name is taken"
    kind = ErrorKind.CONFLICT


class StorageFull(ModelsError):
    """Raised if files do not fit on the disk or exceed the quota for datasets.

    The quota is the most bytes of all datasets together.
    """

    slug = "storage-full"
    title = "There is no room on the disk"
    kind = ErrorKind.NO_SPACE


class QuotaFull(StorageFull):
    """Raised if all datasets together need more bytes than their quota.

    The disk itself may still have room.
    """


class StorageReadOnly(ModelsError):
    """Raised if files cannot be written because the disk is read-only or write permission is missing."""

    slug = "storage-read-only"
    title = "The disk cannot be written"
    kind = ErrorKind.NO_SPACE


class FolderTaken(ModelsError):
    """Raised if the folder of a training run holds another run, finished or interrupted.

    That run differs in its dataset, preset, layers or settings, or is of another version of this program. It is also
    raised if the record of an interrupted run is damaged.
    """

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    kind = ErrorKind.CONFLICT


class DeviceNotFound(ModelsError):
    """Raised for a device other than ``cpu``, ``cuda`` and ``cuda:N``, or one that this machine does not have."""

    slug = "device-not-found"
    title = "The device is not there"
    kind = ErrorKind.INVALID


class RanksUnfit(ModelsError):
    """Raised if several processes (ranks) cannot train one model together.

    There are more processes than images in a batch, they start from different settings, data or steps, or their device
    is not ``cpu`` or ``cuda``.
    """

    slug = "ranks-unfit"
    title = "The processes cannot train together"
    kind = ErrorKind.INVALID


class TrainingDiverged(ModelsError):
    """Raised if training meets infinite or NaN values, or if the likelihood stays far below its first value.

    The detail names the cause.
    """

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
    """Raised if a flow is used before its normalisation layers are initialised.

    They get their values from a first batch or from a file.
    """

    slug = "uninitialized-model"
    title = "The model has no weights yet"


class NoLearnedInverse(ModelsError):
    """Raised if sampling asks for the learned inverse of a flow that has none.

    A learned inverse is approximate.
    """

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    kind = ErrorKind.INVALID


class PlanDiffers(ModelsError):
    """Raised if a process joins or continues a bulk scoring with a different model or different images."""

    slug = "plan-differs"
    title = "The scores are of another model or of other images"
    kind = ErrorKind.CONFLICT


class OutputTaken(ModelsError):
    """Raised if the output location of a bulk scoring holds files that do not belong to this scoring."""

    slug = "output-taken"
    title = "The output holds other files"
    kind = ErrorKind.CONFLICT


class PartFailed(ModelsError):
    """Raised if a part of the images of a bulk scoring job cannot be scored.

    Processes that score it or load the model failed or died again and again, its images differ in number from the plan,
    or its file was damaged each time.
    """

    slug = "part-failed"
    title = "A part of the images cannot be scored"


class SamplesUnsupported(ModelsError):
    """Raised if random images are requested from a model of image features instead of pixels.

    Features cannot be inverted to pixels.
    """

    slug = "samples-unsupported"
    title = "This model has no samples"
    kind = ErrorKind.INVALID


class BackboneMissing(ModelsError):
    """Raised if the feature network (backbone) of a model is not installed on this machine.

    The backbone is the frozen network that computes the features.
    """

    slug = "backbone-missing"
    title = "The backbone is not here"
    kind = ErrorKind.INVALID


class BackboneUnfit(ModelsError):
    """Raised if the files of a backbone (feature network) are damaged or do not match its description.

    Also raised if the description is not valid, or if another backbone already has the name.
    """

    slug = "backbone-unfit"
    title = "The backbone cannot be used"
    kind = ErrorKind.INVALID
