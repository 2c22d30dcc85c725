from __future__ import annotations

from typing import Literal

from pydantic import Field

from snf_app.http.schemas import Answer

ServiceStatus = Literal["ready", "loading", "draining", "failed", "stuck"]


class Health(Answer):
    """Answer of `/healthz`: the version of the running service.

    The status is always `alive`, which means that the process runs.
    """

    status: Literal["alive"]
    version: str = Field(description="Version of the service.", examples=["0.1.0"])


class Readiness(Answer):
    """Answer of `/readyz`: whether the service can score images.

    It also tells which models failed to load, and how full the queue is.
    """

    status: ServiceStatus
    reason: str | None = Field(None, description="Why a service is `stuck`, else null.")
    models: dict[str, str] = Field(description="State by model name.")
    failed: dict[str, str] = Field(description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(
        description="Images in the queue or in work, each counted once per draw, and its capacity."
    )
