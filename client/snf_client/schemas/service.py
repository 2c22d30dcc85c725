"""State of the service and its workers, and the caller of a request."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from snf_client.schemas.base import ResponseModel, Role


class CallerView(ResponseModel):
    """Name, id and roles of the API key that a request carries, as the answer of `/v1/me`."""

    name: str = Field(description="Name of the key; `anyone` where the service has no keys.")
    key: str | None = Field(description="Id of the key; null without one.")
    role: Role = Field(description="Role of the key; admin without one.")
    may: list[Role] = Field(description="Roles that `role` includes.")


ServiceStatus = Literal["ready", "loading", "draining", "failed", "stuck"]


class Health(ResponseModel):
    """Answer of `/healthz`: the version of the running service."""

    status: Literal["alive"]
    version: str = Field(description="Version of the service.")


class Readiness(ResponseModel):
    """Answer of `/readyz`: whether the service can score images."""

    status: ServiceStatus
    reason: str | None = Field(None, description="Why a service is `stuck`, else null.")
    models: dict[str, str] = Field(description="State by model name.")
    failed: dict[str, str] = Field(description="Reason by model version that could not be loaded.")
    jobs: Literal["ok", "degraded"] = Field(description="`degraded` while the job store does not answer.")
    queue: dict[str, int] = Field(
        description="Images in the queue or in work, each counted once per draw, and its capacity."
    )


class WorkerView(ResponseModel):
    """A running worker process, with its device (CPU or GPU), its job queues and its current job."""

    name: str
    device: str
    queues: list[str]
    memory_bytes: int | None = Field(description="Memory of its machine or container.")
    train_memory_bytes: int | None = Field(
        description="Most memory that a training may use (`SNF_TRAIN_MEMORY_BYTES`); null: no limit."
    )
    started_at: datetime
    state: Literal["idle", "busy", "not-receiving"] = Field(
        description="`not-receiving`: jobs wait that do not reach the worker; it reconnects, then restarts."
    )
    job: str | None = Field(description="Id of the job that it runs.")


class WorkerList(ResponseModel):
    """All running worker processes, which execute the background jobs, sorted by name."""

    workers: list[WorkerView]
