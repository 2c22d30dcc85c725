"""Options of the engines; commands import them before their work is known, so without torch, NumPy or Pillow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

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

    def settled(self, precision: Precision) -> Self:
        """Fill in threads and a missing precision; raise ``EngineUnavailable`` for a wrong ``OMP_NUM_THREADS``."""
        from snf_models.threads import thread_count  # noqa: PLC0415 - settings have options in processes that score nothing

        return replace(self, precision=self.precision or precision, threads=thread_count(self.threads))
