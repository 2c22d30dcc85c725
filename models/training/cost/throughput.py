"""Measured training speed of a machine. The module does not import PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.atomic_files import write_atomically

if TYPE_CHECKING:
    from models.training.cost.operation_counter import Work

log = logging.getLogger(__name__)


class Throughput(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    flops_per_second: float = Field(gt=0, description="In float32; float64 counts twice.")
    low_precision_flops_per_second: float = Field(gt=0, description="Of networks that compute in bfloat16.")
    bytes_per_second: float = Field(gt=0, description="Read and written by operations.")
    calls_per_second: float = Field(gt=0, description="Operations that PyTorch starts.")
    disk_bytes_per_second: float = Field(gt=0, description="Of files written durably.")
    start_seconds: float = Field(ge=0, description="From the start of a training process until its code is loaded.")

    def seconds(self, work: Work) -> float:
        return (
            work.flops / self.flops_per_second
            + work.low_precision_flops / self.low_precision_flops_per_second
            + work.bytes / self.bytes_per_second
            + work.calls / self.calls_per_second
        )


ASSUMED = Throughput(
    flops_per_second=2.1e11,
    low_precision_flops_per_second=6.8e11,
    bytes_per_second=5.2e10,
    calls_per_second=1.2e5,
    disk_bytes_per_second=3e8,
    start_seconds=2.0,
)
"""A machine with two cores of an AMD EPYC with AVX-512 and bfloat16: the reference of every slowdown."""


def stored_throughput(path: Path) -> Throughput | None:
    """Return None if the file is missing or damaged."""
    try:
        return Throughput.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("the measured speed in %s cannot be read: %s", path.name, error)
        return None


def store_throughput(path: Path, throughput: Throughput) -> None:
    write_atomically(path, (throughput.model_dump_json(indent=1) + "\n").encode())
