"""Engine that runs a backbone and the flows over its features as one compiled OpenVINO graph on CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.preprocessing import Pixels
from snf_runtime.kinds import Precision
from snf_runtime.scoring.engines.openvino_program import Program

Array = NDArray[np.float64]


class OpenVINOFeatureEngine:
    """Engine that computes image features with a backbone network and runs flows over them, all with OpenVINO.

    It computes in float32, from 8-bit pixels to ||z||² at each place.

    Args:
        program: The program of the graph.

    Attributes:
        program: The program.
    """

    name = "openvino"
    precision: Precision = "float32"

    def __init__(self, program: Program) -> None:
        self.program = program

    @property
    def tile(self) -> int:
        """The number of images that each CPU thread computes in one run of the compiled graph."""
        return self.program.tiling.tile

    @property
    def threads(self) -> int:
        """The number of CPU threads that the engine computes with."""
        return self.program.tiling.lanes

    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return the squared norms of feature latents for each image, under each separate fit of the flow.

        Fit 0 is to all training images; each other fit leaves a part of them out.

        They are ||z||² at each place and for each group of pooled features.

        Returns:
            Arrays ``(N, fits, rows, columns)`` and ``(N, fits, groups)``.
        """
        places, pooled = self.program([images])
        return places.astype(np.float64), pooled.astype(np.float64)
