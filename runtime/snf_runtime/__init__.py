"""Scores and verdicts of images without torch: the code that the service runs, and a runner of exported models."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snf_runtime.anomaly.detection import FileVerdict, NotJudged
    from snf_runtime.exported.model import Model

# OpenVINO's telemetry writes a client id and sends an event: an entry of None makes its import fail.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["FileVerdict", "Model", "NotJudged"]


def __getattr__(name: str) -> Any:
    """Return a public class, imported late: the model needs OpenVINO, and most modules of the package do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from snf_runtime.exported import model  # noqa: PLC0415 - as said above

    return getattr(model, name)
