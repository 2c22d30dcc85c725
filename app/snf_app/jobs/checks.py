"""Checks that jobs can succeed, by what is on the disk, and their parameters in OpenAPI."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from snf_app.datasets.service import entries
from snf_app.http.errors import Problem, field_problem, invalid, invalid_fields, problem_of
from snf_app.http.openapi import REFERENCE
from snf_client.schemas.base import NAME_PATTERN, JobType
from snf_client.schemas.calibrations import CalibrationParameters
from snf_client.schemas.datasets import DatasetEntry
from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.jobs import JobDataset, JobDatasets, JobDraft, JobRequest, ScoringParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendParameters
from snf_client.schemas.training import ImageOptions, TrainingConfig
from snf_models.anomaly.reference_images import as_seen, check_shape, check_summary
from snf_models.artifacts.manifest import Manifest
from snf_models.bulk.plan import MAX_PARTS, require_scorable
from snf_models.datasets import DatasetStore, DatasetSummary, count_images, summarize
from snf_models.errors import (
    AlphaUnattainable,
    ArchitectureInvalid,
    ArtifactError,
    BackboneMissing,
    BackboneUnfit,
    DatasetNotFound,
    DatasetUnfit,
    LocationRefused,
    ModelNotFound,
    ModelsError,
    PresetNotFound,
    SettingUnsupported,
)
from snf_models.evaluation.checks import check_anomalous, check_masks, check_normals
from snf_models.flows.architecture import Architecture, features_of
from snf_models.limits.good_images import check_unused
from snf_models.locations.location import allowed_location
from snf_models.naming import parse_ref
from snf_models.pipeline.architecture_file import find_recipe
from snf_models.pipeline.presets import TrainingRecipe
from snf_models.recommendation.rule import check_train_images
from snf_models.registry.calibrations import OWN
from snf_models.registry.registry import ModelVersion, Registry
from snf_runtime.anomaly.calibration import attainable_alpha
from snf_worker.settings import Settings

PARAMETERS: dict[JobType, type[BaseModel]] = {
    "train": TrainingConfig,
    "score": ScoringParameters,
    "calibrate": CalibrationParameters,
    "evaluate": EvaluationParameters,
    "limit": LimitParameters,
    "recommend": RecommendParameters,
}


TRAINING_ONLY = ("preset", "architecture", "promote", "device")
"""Members of a job request that no type but a training has."""
CONVERTED: dict[type, tuple[str, ...]] = {
    bool: ("int_type", "float_type"),
    str: ("int_type", "float_type", "bool_type"),
    int: ("bool_type",),
    float: ("bool_type",),
}
"""Errors of strict validation that the service has too, by the type of the value."""
REQUESTS = ("JobRequest", "JobDraft")
"""Requests with the ``type`` of a job and its ``parameters``, which are validated after the request itself."""


def refuse_conversions(kind: type[BaseModel], parameters: Mapping[str, Any]) -> None:
    """Raise 422 for parameters that pydantic would convert, such as "5" for 5; others pass, valid or not."""
    try:
        kind.model_validate_json(json.dumps(parameters), strict=True)
    except ValidationError as error:
        # Other errors may be those of strictness alone, as 5.0 for 5.
        wrong = [item for item in error.errors() if item["type"] in CONVERTED.get(type(item["input"]), ())]
        if not wrong:
            return
        raise invalid_fields([field_problem(item, ("body", "parameters")) for item in wrong]) from error


def add_rules(document: dict[str, Any]) -> None:
    """Add what the type of a job means for its parameters and other members, in place."""
    references = {job_type: {"$ref": REFERENCE.format(model=kind.__name__)} for job_type, kind in PARAMETERS.items()}
    for name in REQUESTS:
        request = document["components"]["schemas"][name]
        described = request["properties"]["parameters"]["description"]
        request["properties"]["parameters"] = {"anyOf": [*references.values()], "description": described}
        request["allOf"] = [
            {"if": {"properties": {"type": {"const": job_type}}}, "then": _rule(job_type, reference, request)}
            for job_type, reference in references.items()
        ]


def _rule(job_type: JobType, parameters: dict[str, str], request: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a job request of one type: its parameters, and which other members it needs or lacks."""
    members: dict[str, Any] = {"parameters": parameters}
    if job_type == "train":
        both = {"required": ["preset", "architecture"], "properties": {"architecture": {"type": "object"}}}
        # A draft, which has no dataset, needs no name yet.
        named = {"model": {"pattern": NAME_PATTERN}} if "dataset" in request["required"] else {}
        return {"properties": members | named, "required": list(named), "not": both}
    members |= {name: False for name in TRAINING_ONLY if name in request["properties"]}
    if job_type == "recommend":
        return {
            "properties": members | {"model": {"type": "null"} if "anyOf" in request["properties"]["model"] else False}
        }
    rule: dict[str, Any] = {"properties": members | {"model": {"type": "string"}}, "required": ["model"]}
    if job_type == "evaluate":
        against = {"required": ["against"], "properties": {"against": {"minItems": 1}}}
        corruptions = {"required": ["corruptions"], "properties": {"corruptions": {"const": True}}}
        rule["required"].append("parameters")
        rule["allOf"] = [{"properties": {"parameters": {"anyOf": [against, corruptions]}}}]
    return rule


def read_parameters(request: JobRequest) -> BaseModel:
    """Validate the parameters of a job; raise 422 for them and for a field that only trainings have."""
    for name in TRAINING_ONLY:
        if name in request.model_fields_set:
            raise invalid(f"/body/{name}", f"a job of type {request.type} has no {name}")
    kind = PARAMETERS[request.type]
    refuse_conversions(kind, request.parameters)
    try:
        return kind.model_validate(request.parameters)
    except ValidationError as error:
        problems = [field_problem(item, ("body", "parameters"), kind.model_fields) for item in error.errors()]
        raise invalid_fields(problems) from error


@contextmanager
def _invalid(pointer: str, *errors: type[ModelsError]) -> Iterator[None]:
    """Answer errors of some kinds as those of a part of the request."""
    try:
        yield
    except errors as error:
        raise invalid(pointer, error.detail) from error


DATASET = "/body/dataset"  # pointer of errors that another dataset may cure
OF_DATASETS = (DatasetNotFound, DatasetUnfit)
NORMAL_IMAGES = ("calibrate", "evaluate", "limit")  # types of jobs that take images which are normal for their model
WITHOUT_MODEL = ("train", "recommend")


@dataclass(frozen=True)
class JobChecks:
    """Checks that jobs can succeed, by what is on the disk. They raise 422."""

    settings: Settings
    registry: Registry
    datasets: DatasetStore

    def check_training(
        self, request: JobRequest
    ) -> tuple[TrainingRecipe, Architecture, TrainingConfig, DatasetSummary]:
        """Return a training's recipe, architecture, settings and dataset."""
        if request.architecture is not None and "preset" in request.model_fields_set:
            raise invalid("/body/preset", "expected a preset or an architecture, got both")
        with _invalid("/body/preset", PresetNotFound), _invalid("/body/architecture", ArchitectureInvalid):
            recipe = find_recipe(request.preset, request.architecture)
        refuse_conversions(TrainingConfig, request.parameters)
        try:
            config = recipe.config(request.parameters)
        except ValidationError as error:
            found = [field_problem(item, ("body", "parameters"), recipe.parameters) for item in error.errors()]
            raise invalid_fields(found) from error
        with _invalid(DATASET, DatasetNotFound):
            dataset = summarize(request.dataset, self.settings.data_dir, self.datasets, config)
        try:
            with (
                _invalid(DATASET, DatasetUnfit),
                _invalid("/body/parameters/backbone", BackboneMissing, BackboneUnfit),
            ):
                architecture = recipe.architecture_for(dataset.image_shape, config, self.settings.backbones_dir)
        except ArchitectureInvalid as error:
            setting = error.setting if isinstance(error, SettingUnsupported) else None
            pointer = f"/body/parameters/{setting}" if setting in request.parameters else "/body/architecture"
            raise invalid(pointer, error.detail) from error
        return recipe, architecture, config, dataset

    def check_recommendation(self, request: JobRequest) -> None:
        parameters = read_parameters(request)
        assert isinstance(parameters, RecommendParameters)
        if request.model:
            raise invalid("/body/model", "a job of type recommend has no model")
        with _invalid(DATASET, *OF_DATASETS):
            images = ImageOptions.model_validate(parameters.image_settings)
            summary = summarize(request.dataset, self.settings.data_dir, self.datasets, images)
            check_train_images(request.dataset, summary.train)

    def check_model_job(self, request: JobRequest) -> tuple[str, int | None]:
        """Return the model of another job, as ``name:version``, and the number of its calibration, if it uses one."""
        if not request.model:
            raise invalid("/body/model", f"expected a model, as a job of type {request.type} works with one")
        parameters = read_parameters(request)
        if isinstance(parameters, CalibrationParameters):
            version = self.find_calibrated(request.model, OWN)
            self._check_calibration(request.dataset, parameters, version.manifest)
            return f"{version.name}:{version.version}", None
        assert isinstance(parameters, ScoringParameters | EvaluationParameters | LimitParameters)
        version = self.find_calibrated(request.model, parameters.calibration)
        try:
            attainable_alpha(parameters.alpha, version.calibration_summary.smallest_p)
        except AlphaUnattainable as error:
            raise problem_of(error, "/body/parameters/alpha") from error
        match parameters:
            case ScoringParameters():
                self._check_scoring(request.dataset, parameters, version)
            case EvaluationParameters():
                self._check_evaluation(request.dataset, parameters, version)
            case LimitParameters():
                with _invalid(DATASET, *OF_DATASETS):
                    check_unused(request.dataset, version.manifest, version.calibration_summary)
                    shape = self._summary(request.dataset, version.manifest).image_shape
                    check_shape(request.dataset, shape, version.manifest.preprocessing)
        return f"{version.name}:{version.version}", version.calibration

    def _check_scoring(self, dataset: str, parameters: ScoringParameters, version: ModelVersion) -> None:
        data_dir, store = self.settings.data_dir, self.datasets
        with _invalid(DATASET, *OF_DATASETS):
            count = count_images(dataset, data_dir, store)
            require_scorable(dataset, version.manifest.preprocessing, data_dir, store)
        parts = 1 if parameters.images_per_part is None else math.ceil(count / parameters.images_per_part)
        if parts > MAX_PARTS:
            raise invalid(
                "/body/parameters/images_per_part",
                f"expected at most {MAX_PARTS} parts, got {parts} for {count} images; choose a larger number",
            )
        if parameters.output is not None:
            try:
                allowed_location(parameters.output, self.settings.allowed_locations, self.settings.home)
            except LocationRefused as error:
                raise problem_of(error, "/body/parameters/output") from error

    def _check_calibration(self, dataset: str, parameters: CalibrationParameters, manifest: Manifest) -> None:
        if parameters.precision != "float32" and features_of(manifest.architecture) is not None:
            raise invalid("/body/parameters/precision", "expected float32 for a model with features")
        with _invalid(DATASET, *OF_DATASETS):
            check_summary(dataset, self._summary(dataset, manifest), manifest)

    def _check_evaluation(self, dataset: str, parameters: EvaluationParameters, version: ModelVersion) -> None:
        place = parameters.adapt, self.settings.data_dir, self.datasets
        preprocessing = version.manifest.preprocessing
        with _invalid(DATASET, *OF_DATASETS):
            used = (version.manifest.training.dataset, version.calibration_summary.dataset)
            check_normals(dataset, used, preprocessing, *place)
        for index, other in enumerate(parameters.against):
            with _invalid(f"/body/parameters/against/{index}", *OF_DATASETS):
                check_anomalous(other, dataset, preprocessing, *place)
        for other, masks in parameters.masks.items():
            with _invalid(f"/body/parameters/masks/{other}", *OF_DATASETS):
                check_masks(self.datasets, masks)

    def _summary(self, dataset: str, manifest: Manifest) -> DatasetSummary:
        """Summarize a dataset as a model sees it."""
        try:
            return summarize(dataset, self.settings.data_dir, self.datasets, as_seen(manifest.preprocessing))
        except DatasetUnfit as error:
            # The advice is about parameters of a training, which do not help with a trained model.
            raise DatasetUnfit(error.detail.partition("; set ")[0]) from error

    def find_calibrated(self, ref: str, calibration: int | None) -> ModelVersion:
        """Return a version whose manifest and calibration, by default the active one, were read."""
        with _invalid("/body/model", ModelNotFound, ArtifactError):
            name, number = self.registry.locate(parse_ref(ref))
            calibrations = self.registry.calibrations(name, number)
            if calibration is not None and calibration not in calibrations.numbers():
                known = ", ".join(map(str, calibrations.numbers()))
                raise invalid("/body/parameters/calibration", f"{name}:{number} has calibrations {known}")
            used = calibrations.active() if calibration is None else calibration
            version = self.registry.with_calibration(name, number, used)
            _ = version.manifest, version.calibration_summary
        return version

    def dataset_choices(self, draft: JobDraft) -> JobDatasets:
        """Return all datasets, each that a job cannot use with a reason; raise 422 for a job that none makes valid."""
        version = None
        if draft.type not in WITHOUT_MODEL:
            if draft.model is None:
                raise invalid("/body/model", "expected a model, as a job of this type works with one")
            version = self.find_calibrated(draft.model, None)
        datasets = [self._checked(draft, entry, version) for entry in entries(self.datasets, self.settings.data_dir)]
        return JobDatasets(datasets=datasets, suggested=_suggested(draft, version, datasets))

    def _checked(self, draft: JobDraft, entry: DatasetEntry, version: ModelVersion | None) -> JobDataset:
        given = draft.model_dump(exclude_unset=True, exclude={"model"} if draft.model is None else None)
        named = {"model": "new"} if draft.type == "train" else {}
        request = JobRequest(**(named | given), dataset=entry.name)
        checks: dict[JobType, Callable[[JobRequest], object]] = {
            "train": self.check_training,
            "recommend": self.check_recommendation,
        }
        problem = entry.problem or _refusal(lambda: checks.get(request.type, self.check_model_job)(request))

        def check_as_anomalies() -> None:
            if version is not None and draft.type == "evaluate":
                # That they differ from the normal images is left to the reader, who knows which these are.
                place = bool(draft.parameters.get("adapt")), self.settings.data_dir, self.datasets
                check_anomalous(entry.name, "", version.manifest.preprocessing, *place)

        return JobDataset(
            name=entry.name,
            images=entry.images,
            image_shape=entry.image_shape,
            problem=problem,
            problem_as_anomalies=entry.problem or _refusal(check_as_anomalies),
            note=None if problem else _note(draft, entry, version),
        )


def _refusal(check: Callable[[], object]) -> str | None:
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
