"""Additions and corrections to the OpenAPI document that FastAPI generates."""

from __future__ import annotations

from typing import Any


def located(description: str, what: str) -> dict[str, Any]:
    """Return the OpenAPI description of a response with a ``Location`` header, the path of a new resource."""
    location = {"description": f"Path of the {what}.", "schema": {"type": "string"}}
    return {"description": description, "headers": {"Location": location}}


def remove_null_parameters(document: dict[str, Any]) -> None:
    """Remove the null type of parameters in place: callers leave them out instead of sending null."""
    for calls in document["paths"].values():
        for operation in calls.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf", [])
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if len(kept) == len(choices):
        return schema
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    return others | kept[0] if len(kept) == 1 else others | {"anyOf": kept}


JOB: dict[str, Any] = {
    "id": "06f8m2q1x3z4c5v6b7n8m9k0j1",
    "type": "train",
    "status": "running",
    "queue": "train-cpu",
    "place_in_line": None,
    "waits_for": None,
    "dataset": "bottles",
    "model": "line-1",
    "preset": "snf-glow-small",
    "architecture": None,
    "parameters": {"max_steps": 2000},
    "promote": False,
    "device": "auto",
    "created_at": "2026-07-01T12:00:00Z",
    "started_at": "2026-07-01T12:00:01Z",
    "finished_at": None,
    "attempts": 1,
    "checkpoint_step": 400,
    "cancel_requested": False,
    "pause_requested": False,
    "retry_of": None,
    "estimate": None,
    "progress": {"step": 440, "steps": 2000, "fraction": 0.22, "images_per_second": 1850.5, "eta_seconds": 54},
    "metrics": {"bits_per_dim": 2.41},
    "error": None,
    "result": None,
    "links": {"self": "/v1/jobs/06f8m2q1x3z4c5v6b7n8m9k0j1"},
}
MODEL: dict[str, Any] = {
    "name": "line-1",
    "versions": [1, 2, 3],
    "aliases": {"live": 3, "champion": 2},
    "state": "ready",
    "reason": None,
    "unfit": [],
    "read_only": False,
    "architecture": "snf-glow-small",
    "kind": "density",
    "image_shape": [3, 64, 64],
    "fit": "crop",
    "test_bits_per_dim": 3.52,
    "size_bytes": 9241733,
    "drift_alarms": 0,
}
WORKER: dict[str, Any] = {
    "name": "host:17",
    "device": "cpu",
    "queues": ["train-cpu", "score"],
    "memory_bytes": 25769803776,
    "train_memory_bytes": None,
    "started_at": "2026-07-01T09:00:00Z",
    "state": "busy",
    "job": JOB["id"],
}
SCHEMAS: dict[str, Any] = {
    "CallerView": {"name": "line-1", "key": "5f3a90c1d2e4", "role": "score", "may": ["read", "score"]},
    "Health": {"status": "alive", "version": "0.1.0"},
    "JobList": {"jobs": [JOB], "next": None},
    "JobView": JOB,
    "ModelPage": {"models": [MODEL], "next": None},
    "Previews": {"job": JOB["id"], "samples": [{"step": 40, "url": f"/v1/jobs/{JOB['id']}/samples/40"}]},
    "WorkerList": {"workers": [WORKER]},
}
PARAMETERS = {"ref": "mnist-snf-glow", "name": "line-1", "source": "camera-2"}


def add_examples(document: dict[str, Any]) -> None:
    for name, example in SCHEMAS.items():
        document["components"]["schemas"][name]["examples"] = [example]
    for calls in document["paths"].values():
        for operation in calls.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in PARAMETERS:
                    parameter.setdefault("example", PARAMETERS[parameter["name"]])
