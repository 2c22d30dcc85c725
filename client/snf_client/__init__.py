"""Python client of the density scoring service: scores, samples, models, datasets and jobs.

>>> from snf_client import Client
>>> def first_p_value(folder: str) -> float:
...     with Client() as client:  # SNF_URL and SNF_API_KEY, or the service of this machine
...         job = client.jobs.train("mnist-mini", "first", preset="snf-glow-tiny", parameters={"max_steps": 200})
...         client.jobs.wait(job.id)
...         [image, *_] = client.score("first", [folder + "/1.png", folder + "/2.png"]).results
...     assert image.status == "ok"
...     return image.anomaly.p_value
"""

from __future__ import annotations

from snf_client.client import AsyncClient, Client
from snf_client.errors import (
    Busy,
    ClientError,
    Conflict,
    InvalidRequest,
    ModelChanged,
    NotAuthorized,
    NotFound,
    ProblemError,
    ServiceFailed,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from snf_client.images import heat_map_array, heat_map_png
from snf_client.job_events import (
    EndEvent,
    ErrorEvent,
    Event,
    LogEvent,
    MetricsEvent,
    StartedEvent,
    StateEvent,
    ValidationEvent,
)
from snf_client.retries import Retries

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Conflict",
    "EndEvent",
    "ErrorEvent",
    "Event",
    "InvalidRequest",
    "LogEvent",
    "MetricsEvent",
    "ModelChanged",
    "NotAuthorized",
    "NotFound",
    "ProblemError",
    "Retries",
    "ServiceFailed",
    "ServiceUnavailable",
    "StartedEvent",
    "StateEvent",
    "UnexpectedAnswer",
    "ValidationEvent",
    "heat_map_array",
    "heat_map_png",
]
