from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from snf_app.http.schemas import Answer
from snf_app.jobs.schemas import CurvePoint, Validation
from snf_worker.jobs.runs import TrainingRun

RUN: dict[str, Any] = {
    "origin": "command",
    "model": "my-digits",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "parameters": {"max_steps": 200, "batch_size": 64, "learning_rate": 0.002},
    "device": "cpu",
    "retry_of": None,
    "id": "06f8m2q1x3z4c5v6b7n8m9k0j1",
    "state": "finished",
    "attempts": 1,
    "started": "2026-07-01T12:00:00Z",
    "ended": "2026-07-01T12:00:42Z",
    "steps": 200,
    "seconds": 21.4,
    "error": None,
    "result": {
        "ref": "my-digits:1",
        "live": True,
        "unfit": {},
        "architecture": "Glow, 2 levels of 4 steps, width 32, self-normalizing 1x1 convolutions",
        "best_step": 200,
        "validation_bits_per_dim": 2.31,
        "test_bits_per_dim": 2.33,
        "test_nats": 1266.2,
        "reconstruction_error": 0.0004,
    },
}


class RunList(Answer):
    """A page of training runs, newest first, with a cursor for the next page."""

    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [{"runs": [RUN], "next": None}]})

    runs: list[TrainingRun]
    next: str | None = Field(description="Value of `after` for the next page; null for the last page.")


class RunDetail(Answer):
    """A training run with its learning curve.

    A step that was repeated after an interruption occurs once in the curve.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "run": RUN,
                    "points": [
                        {
                            "step": 40,
                            "epoch": 6,
                            "time": "2026-07-01T12:00:02.125Z",
                            "attempt": 1,
                            "bits_per_dim": 2.41,
                            "reconstruction_error": 0.0012,
                            "learning_rate": 0.001,
                            "images_per_second": 1850.5,
                        }
                    ],
                    "validations": [
                        {"step": 40, "time": "2026-07-01T12:00:02.514Z", "attempt": 1, "bits_per_dim": 2.38}
                    ],
                    "links": {"self": "/v1/runs/06f8m2q1x3z4c5v6b7n8m9k0j1", "model": "/v1/models/my-digits:1"},
                }
            ]
        },
    )

    run: TrainingRun
    points: list[CurvePoint]
    validations: list[Validation]
    links: dict[str, str] = Field(description="The run, its model, and its job, which may be deleted already.")
