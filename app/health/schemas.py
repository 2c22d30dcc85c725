"""What the health calls answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.http.schemas import Answer


class Health(Answer):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Answer):
    """What the service can do now."""

    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, str] = Field(description="State by model name.")
    failed: dict[str, str] = Field(description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(description="Images waiting or in work, each counted once a draw, and how many may.")
