"""The OpenVINO library without its telemetry. Every module of the project imports it from here.

Needs the extra ``cpu``.

``import openvino`` imports ``openvino_telemetry`` where it is installed, which writes a lasting client id into the
user's home and sends an event to an analytics host. Without that module OpenVINO uses a stub of its own.
"""

from __future__ import annotations

import sys

# An entry of None makes every later import of the module raise ``ModuleNotFoundError``.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after its telemetry is out of reach
from openvino import opset13 as op  # noqa: E402 - as above

__all__ = ["op", "ov"]
