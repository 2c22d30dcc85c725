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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from snf_client.jobs import (
        EndEvent,
        ErrorEvent,
        Event,
        LogEvent,
        MetricsEvent,
        StartedEvent,
        StateEvent,
        ValidationEvent,
    )
    from snf_client.transport import Retries

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

_MODULES = ("errors", "images", "jobs", "transport", "client")


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``snf_client.schemas`` loads neither httpx nor NumPy."""
    if name in __all__:
        for module in map(import_module, (f"{__name__}.{module}" for module in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
