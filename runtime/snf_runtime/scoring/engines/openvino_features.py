"""Engine that runs a backbone and the flows over its features as one compiled OpenVINO graph on CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.preprocessing import Pixels
from snf_runtime.kinds import Precision
from snf_runtime.scoring.engines.openvino_program import Program

Array = NDArray[np.float64]


class OpenVINOFeatureEngine:
    """Engine that computes features and runs flows over them, in float32 from 8-bit pixels to ||z||²."""

    name = "openvino"
    precision: Precision = "float32"

    def __init__(self, program: Program) -> None:
        self.program = program

    @property
    def tile(self) -> int:
        return self.program.tiling.tile

    @property
    def threads(self) -> int:
        return self.program.tiling.lanes

    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² at places ``(N, fits, rows, columns)`` and of pooled features ``(N, fits, groups)``."""
        places, pooled = self.program([images])
        return places.astype(np.float64), pooled.astype(np.float64)
