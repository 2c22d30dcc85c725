"""Options of the backends that run flows, such as device and CPU threads.

Commands and workers import this module before their work is known, so it imports no torch, NumPy or Pillow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from models.threads import thread_count

if TYPE_CHECKING:
    from models.artifacts.manifest import Precision

EngineName = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class EngineOptions:
    """Options for running a flow: backend, number format, device, CPU threads and cache folder.

    Attributes:
        name: The engine. "auto" is OpenVINO if it supports all steps of the flow on a CPU, else torch.
        precision: Arithmetic of the coupling networks; None for that of the calibration in use.
        device: The device in torch's notation, "cpu" or "cuda:N".
        threads: Threads on the CPU; None for all cores.
        cache: Folder for compiled flows and measured tile sizes; None for no cache and no measurement.
        backbones: Folder of the backbones of feature models; None for that of the environment.
    """

    name: EngineName = "auto"
    precision: Precision | None = None
    device: str = "cpu"
    threads: int | None = None
    cache: Path | None = None
    backbones: Path | None = None

    def settled(self, precision: Precision) -> Self:
        """Return a copy of these engine options in which a missing thread count or precision is filled in.

        The number of threads is set, and ``precision`` is used if these options have none.

        Raises:
            EngineUnavailable: They leave the threads to ``OMP_NUM_THREADS``, which is wrong.
        """
        return replace(self, precision=self.precision or precision, threads=thread_count(self.threads))
