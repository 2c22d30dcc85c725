"""Import of the OpenVINO library without its telemetry. All modules import OpenVINO from here.

``import openvino`` imports ``openvino_telemetry`` if it is installed, which writes a client id
into the user's home folder and sends an event to an analytics host. Without that module OpenVINO uses a stub.
"""

from __future__ import annotations

import sys

# An entry of None makes every later import of the module raise ``ModuleNotFoundError``.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after telemetry is blocked
from openvino import opset13 as op  # noqa: E402 - as above
from openvino.frontend import FrontEndManager  # noqa: E402 - as above

__all__ = ["FrontEndManager", "op", "ov"]
