"""Scoring with trained flows: freezing, engines, exact log-likelihoods, statistics of images, and sampling.

The options of the engines are here, as commands import them without torch, NumPy or Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from snf_models.artifacts.manifest import Precision

EngineName = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class EngineOptions:
    """Options for running a flow."""

    name: EngineName = "auto"  # auto: OpenVINO if it supports all steps on a CPU, else torch
    precision: Precision | None = None  # None: of the calibration in use
    device: str = "cpu"  # in torch's notation
    threads: int | None = None  # None: all cores
    cache: Path | None = None  # None: no cache, no measurement
    backbones: Path | None = None  # None: of the environment
