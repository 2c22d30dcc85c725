"""Import of OpenVINO, for all modules, without the telemetry that writes a client id and sends an event."""

from __future__ import annotations

import sys

# An entry of None makes every later import of the module raise ``ModuleNotFoundError``.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after telemetry is blocked
from openvino import opset13 as op  # noqa: E402 - as above
from openvino.frontend import FrontEndManager  # noqa: E402 - as above

__all__ = ["FrontEndManager", "op", "ov"]
