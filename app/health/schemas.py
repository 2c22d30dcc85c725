"""Answers of the health and readiness endpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.http.schemas import Answer


class Health(Answer):
    """Answer of the liveness check: the process runs."""

    status: Literal["alive"]


class Readiness(Answer):
    """Whether the service can score, and the state of each model and of the queue."""

    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, str] = Field(description="State by model name.")
    failed: dict[str, str] = Field(description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(
        description="Images in the queue or in work, each counted once per draw, and its capacity."
    )
