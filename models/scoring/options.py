"""What an engine may be told. Free of torch, so that a service can start before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.artifacts.manifest import Precision

EngineName = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class EngineOptions:
    """How frozen flows are run; nothing of it changes a score by more than the rounding of its precision.

    ``name``: "auto" is OpenVINO on a CPU where it is installed and knows every step of the flow, else torch.
    ``precision``: None is that of the calibration in use. ``device``: as torch names it. ``threads``: of the CPU; None
    is every core. ``cache``: folder of compiled flows and measured tiles; None compiles anew and measures nothing.
    """

    name: EngineName = "auto"
    precision: Precision | None = None
    device: str = "cpu"
    threads: int | None = None
    cache: Path | None = None
