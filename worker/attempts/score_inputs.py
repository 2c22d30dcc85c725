"""Inputs of a bulk scoring job. This module does not import torch."""

from dataclasses import dataclass

from models.bulk.plan import BulkPlan
from models.bulk.sources import DatasetImages, chosen_part_size
from models.datasets.image_source import ImageSource
from models.loading.model_files import ModelFiles, content_digest
from models.naming import parse_ref
from models.registry.registry import Registry
from snf_runtime.anomaly.conformal import attainable_alpha
from worker.attempts.attempt import JobSpec
from worker.settings import Settings


@dataclass(frozen=True)
class ScoreInputs:
    """Inputs of a bulk scoring job."""

    model: ModelFiles  # with the calibration that was active when the job was queued
    images: DatasetImages  # as handed to other processes
    source: ImageSource  # opened in this process
    plan: BulkPlan  # without the engine


def score_inputs(spec: JobSpec, settings: Settings) -> ScoreInputs:
    """Return the inputs of a bulk scoring job; raise ``ModelsError`` if the model or dataset cannot be used."""
    registry = Registry(settings.registry_dir)
    name, version = registry.locate(parse_ref(spec.model))
    parameters = {name: value for name, value in spec.parameters.items() if value is not None and name != "output"}
    number = parameters.get("calibration")
    number = registry.calibrations(name, version).active() if number is None else number
    calibrated = registry.with_calibration(name, version, number)
    manifest = calibrated.manifest
    images = DatasetImages(spec.dataset, settings.data_dir, settings.datasets_dir)
    source = images.open(manifest.preprocessing)
    chosen = {
        "alpha": attainable_alpha(None, calibrated.calibration_summary.smallest_p),
        "images_per_part": chosen_part_size(source),
    }
    options = settings.job_engine_options
    plan = BulkPlan(
        model=spec.model,
        weights_sha256=manifest.log_dets.weights_sha256,
        kind=manifest.architecture.kind,
        dataset=spec.dataset,
        source_digest=source.digest,
        count=source.count,
        model_sha256=content_digest(calibrated.path, calibrated.calibration_path),
        precision=options.precision or calibrated.calibration_summary.precision,
        **(chosen | parameters | {"calibration": number}),
    )
    model = ModelFiles(calibrated.path, calibrated.calibration_path, options)
    return ScoreInputs(model, images, source, plan)
