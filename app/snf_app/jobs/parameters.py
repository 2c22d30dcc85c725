"""The parameters of each job type, and their schemas in the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from snf_app.http.errors import field_problem, invalid_fields
from snf_client.schemas.base import NAME_PATTERN, JobType
from snf_client.schemas.evaluations import EvaluationParameters
from snf_client.schemas.jobs import CalibrationParameters, ScoringParameters
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendParameters
from snf_models.training.config import TrainingConfig

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
PREFIX = "#/components/schemas/"
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


def add_schemas(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    kinds: list[tuple[type[BaseModel], Literal["validation"]]] = [(kind, "validation") for kind in PARAMETERS.values()]
    schemas |= models_json_schema(kinds, ref_template=f"{PREFIX}{{model}}")[1]["$defs"]
    references = {job_type: {"$ref": PREFIX + kind.__name__} for job_type, kind in PARAMETERS.items()}
    for name in REQUESTS:
        request = schemas[name]
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
