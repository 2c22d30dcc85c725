from __future__ import annotations

from collections.abc import Callable

from snf_app.datasets.views import entries
from snf_app.http.errors import Problem, invalid
from snf_app.jobs.model_job_checks import CHECKS, check_recommendation, find_calibrated
from snf_app.jobs.planning import check_training
from snf_client.schemas.datasets import DatasetEntry
from snf_client.schemas.jobs import JobDataset, JobDatasets, JobDraft, JobRequest
from snf_models.datasets import DatasetStore
from snf_models.errors import DatasetNotFound, DatasetUnfit
from snf_models.evaluation.checks import check_anomalous
from snf_models.registry.registry import ModelVersion, Registry
from snf_worker.settings import Settings

DATASET = "/body/dataset"
"""Pointer of errors that another dataset may cure."""
NORMAL_IMAGES = ("calibrate", "evaluate", "limit")
"""Types of jobs that take images which are normal for their model."""
WITHOUT_MODEL = ("train", "recommend")


def dataset_choices(draft: JobDraft, settings: Settings, registry: Registry, store: DatasetStore) -> JobDatasets:
    """Return all datasets, each that the job cannot use with a reason; raise 422 for a job that none makes valid."""
    if draft.type not in WITHOUT_MODEL and draft.model is None:
        raise invalid("/body/model", "expected a model, as a job of this type works with one")
    version = None if draft.type in WITHOUT_MODEL else find_calibrated(registry, draft.model or "", None)
    datasets = [
        _checked(draft, entry, version, settings, registry, store) for entry in entries(store, settings.data_dir)
    ]
    return JobDatasets(datasets=datasets, suggested=_suggested(draft, version, datasets))


def _checked(
    draft: JobDraft,
    entry: DatasetEntry,
    version: ModelVersion | None,
    settings: Settings,
    registry: Registry,
    store: DatasetStore,
) -> JobDataset:
    given = draft.model_dump(exclude_unset=True, exclude={"model"} if draft.model is None else None)
    named = {"model": "new"} if draft.type == "train" else {}
    request = JobRequest(**(named | given), dataset=entry.name)

    def check() -> None:
        if request.type == "train":
            check_training(request, settings.data_dir, store, settings.backbones_dir)
        elif request.type == "recommend":
            check_recommendation(request, settings.data_dir, store)
        else:
            CHECKS[request.type](request, registry, settings.data_dir, store)

    def check_as_anomalies() -> None:
        if version is not None and draft.type == "evaluate":
            # That they differ from the normal images is left to the reader, who knows which these are.
            adapt = bool(draft.parameters.get("adapt"))
            check_anomalous(entry.name, "", version.manifest.preprocessing, adapt, settings.data_dir, store)

    problem = entry.problem or _refusal(check)
    return JobDataset(
        name=entry.name,
        images=entry.images,
        image_shape=entry.image_shape,
        problem=problem,
        problem_as_anomalies=entry.problem or _refusal(check_as_anomalies),
        note=None if problem else _note(draft, entry, version),
    )


def _refusal(check: Callable[[], None]) -> str | None:
    """Return why a check refuses a dataset, or None; raise what another dataset would not cure."""
    try:
        check()
    except (DatasetUnfit, DatasetNotFound) as error:
        return error.detail
    except Problem as problem:
        errors = problem.errors or []
        if not errors or any(error.pointer != DATASET for error in errors):
            raise
        return "; ".join(error.detail for error in errors)
    return None


def _note(draft: JobDraft, entry: DatasetEntry, version: ModelVersion | None) -> str | None:
    """Return what to know before a dataset of normal images is chosen: which part is used, or that it may not suit."""
    if version is None or draft.type not in NORMAL_IMAGES:
        return None
    trained_on = version.manifest.training.dataset
    if entry.name not in (trained_on, version.calibration_summary.dataset):
        advice = "choose it only if such images are normal for this model"
        foreign = f"built-in images, and the model was trained on {trained_on}: {advice}"
        return None if entry.origin == "stored" else foreign
    left_out = f"the {entry.statistics + entry.calibration} images that training left out are used"
    notes = {
        "calibrate": f"the model was trained on it: only {left_out}" if entry.name == trained_on else None,
        "evaluate": f"the model was made of it: only its {entry.test} test images are used",
        "limit": "the model was made of it: only images of the part that fitted its statistics get defects",
    }
    return notes[draft.type]


def _suggested(draft: JobDraft, version: ModelVersion | None, datasets: list[JobDataset]) -> str | None:
    """Return the dataset of the calibration in use or of the training; only a user can say which others are normal."""
    if draft.type not in ("evaluate", "limit") or version is None:
        return None
    usable = {dataset.name for dataset in datasets if dataset.problem is None}
    related = (version.calibration_summary.dataset, version.manifest.training.dataset)
    return next((name for name in related if name in usable), None)
