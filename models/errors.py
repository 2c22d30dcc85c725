"""Typed errors of the models package; the service turns them into problem details, the command line into messages."""

from __future__ import annotations


class ModelsError(Exception):
    """Base of all errors a caller can act on: stable ``slug``, ``title``, ``status`` in HTTP's terms, ``detail``."""

    slug = "models-error"
    title = "The request cannot be served"
    status = 500

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ImageError(ModelsError):
    """An image that cannot be scored; the slug says in which of several ways."""

    title = "The image cannot be scored"
    status = 422

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class ModelNotFound(ModelsError):
    """No such model, version or alias."""

    slug = "model-not-found"
    title = "No such model"
    status = 404


class AliasRequired(ModelsError):
    """The alias that every model has cannot be taken away."""

    slug = "alias-required"
    title = "Every model has this alias"
    status = 409


class VersionInUse(ModelsError):
    """A version that an alias points at cannot be removed."""

    slug = "version-in-use"
    title = "The version is in use"
    status = 409


class ModelReadOnly(ModelsError):
    """A model that ships with the product cannot be changed."""

    slug = "model-read-only"
    title = "The model cannot be changed"
    status = 409


class CalibrationNotFound(ModelsError):
    """No calibration of this number of a model version."""

    slug = "calibration-not-found"
    title = "No such calibration"
    status = 404


class InvalidName(ModelsError):
    """A name of a model, dataset or alias that breaks the rule of names (``models.naming``)."""

    slug = "invalid-name"
    title = "The name is not valid"
    status = 422


class ArtifactError(ModelsError):
    """A damaged or foreign artifact; the detail names the file."""

    slug = "damaged-artifact"
    title = "The model's files are damaged"
    status = 500


class ArtifactRefused(ModelsError):
    """An uploaded archive that is no model, or none that can be served."""

    slug = "model-refused"
    title = "The upload is no model that can be served"
    status = 422


class FileNotInArtifact(ModelsError):
    """A file was asked for that a model does not have."""

    slug = "file-not-in-model"
    title = "The model has no such file"
    status = 404


class EngineUnavailable(ModelsError):
    """The engine that was asked for cannot run here, or not this flow."""

    slug = "engine-unavailable"
    title = "The engine cannot run here"
    status = 500


class DatasetNotFound(ModelsError):
    """No dataset of this name on this machine."""

    slug = "dataset-not-found"
    title = "No such dataset"
    status = 404


class PresetNotFound(ModelsError):
    """No preset of this name."""

    slug = "preset-not-found"
    title = "No such preset"
    status = 422


class DatasetUnfit(ModelsError):
    """A dataset that this model or preset cannot be trained on."""

    slug = "dataset-unfit"
    title = "The dataset does not fit"
    status = 422


class DatasetRefused(ModelsError):
    """Files that cannot become a dataset as a whole; the slug says in which of several ways."""

    status = 422

    def __init__(self, slug: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.slug = slug
        self.title = title


class DatasetTaken(ModelsError):
    """A dataset of this name is there already."""

    slug = "dataset-taken"
    title = "The dataset's name is taken"
    status = 409


class StorageFull(ModelsError):
    """The disk, or the part of it that datasets may take, has no room for what is to be written."""

    slug = "storage-full"
    title = "There is no room on the disk"
    status = 507


class FolderTaken(ModelsError):
    """A folder of a training run that holds another run."""

    slug = "folder-taken"
    title = "The folder belongs to another training run"
    status = 409


class DeviceNotFound(ModelsError):
    """No such device to train on."""

    slug = "device-not-found"
    title = "The device is not there"
    status = 422


class RanksUnfit(ModelsError):
    """Processes that cannot train one flow together."""

    slug = "ranks-unfit"
    title = "The processes cannot train together"
    status = 422


class TrainingDiverged(ModelsError):
    """Training produced values that are not finite; the detail names the first cause found."""

    slug = "training-diverged"
    title = "Training diverged"
    status = 500


class DamagedCheckpoints(ModelsError):
    """No checkpoint of a run can be read any more."""

    slug = "damaged-checkpoints"
    title = "The checkpoints are damaged"
    status = 500


class UninitializedModel(ModelsError):
    """A model was used before it had weights."""

    slug = "uninitialized-model"
    title = "The model has no weights yet"
    status = 500


class AlphaUnattainable(ModelsError):
    """A false-alarm rate below what the calibration set can attain."""

    slug = "alpha-unattainable"
    title = "The false-alarm rate is too small for this model's calibration set"
    status = 422

    def __init__(self, alpha: float, smallest: float) -> None:
        # In full: rounded down, the rate that is named here would be refused again.
        super().__init__(f"alpha = {alpha:g} asked, the smallest attainable is {smallest}")
        self.smallest = smallest


class NoLearnedInverse(ModelsError):
    """Samples by the learned inverse were asked of a model that has none."""

    slug = "no-learned-inverse"
    title = "The model has no learned inverse"
    status = 422


class GradientEvidenceUnavailable(ModelsError):
    """The calibration in use has no gradient evidence, which ``detail=full`` needs."""

    slug = "detail-unsupported"
    title = "The model has no verdicts with gradient evidence"
    status = 422


class HeatMapUnsupported(ModelsError):
    """A flow whose layers mix all pixels at once has no heat maps."""

    slug = "explain-unsupported"
    title = "This model has no heat map"
    status = 422


class ScoreNotFinite(ModelsError):
    """The flow gave a likelihood that is not a finite number."""

    slug = "score-not-finite"
    title = "The image has no finite likelihood under this model"
    status = 422


class PlanDiffers(ModelsError):
    """Model or images here are not those of the bulk job that was to be helped with."""

    slug = "plan-differs"
    title = "This machine has another model or other images"
    status = 409
