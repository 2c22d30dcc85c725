"""Engine that runs a flow over pixels as a compiled OpenVINO graph on CPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snf_runtime.kinds import Precision
from snf_runtime.scoring.engines.base import Latents
from snf_runtime.scoring.engines.openvino_program import Program
from snf_runtime.scoring.layout import FlowLayout

Array = NDArray[np.float64]


class OpenVINOFlow:
    """Engine that runs a flow over pixels: in float32, 1x1 convolutions in ``precision``, log-det sums in float64."""

    name = "openvino"

    def __init__(self, layout: FlowLayout, program: Program) -> None:
        self._layout = layout
        self.program = program

    @property
    def precision(self) -> Precision:
        return self._layout.precision

    @property
    def tile(self) -> int:
        return self.program.tiling.tile

    @property
    def threads(self) -> int:
        return self.program.tiling.lanes

    def forward(self, y: Array) -> Latents:
        parts = dict(zip(self.program.outputs, self.program([y.astype(np.float32)]), strict=True))
        scales, log_dets, prior_log_dets, errors = [], [], [], []
        for index, level in enumerate(self._layout.levels):
            if ("latent", index) in parts:
                scales.append(parts["latent", index].astype(np.float64))
            slopes = parts.get(("log-slopes", index))
            prior = parts.get(("prior-log-slopes", index))
            nothing = np.zeros((len(y), *level.size))
            log_dets.append(nothing if slopes is None else _channel_sum(slopes))
            prior_log_dets.append(nothing if prior is None else _channel_sum(prior))
            ratio = parts.get(("reconstruction-errors", index), np.zeros((len(y), 0), dtype=np.float32))
            errors.append(ratio.astype(np.float64) * np.square(level.reconstruction_sizes))
        return Latents(scales, log_dets, prior_log_dets, errors)


def _channel_sum(slopes: NDArray[np.float32]) -> Array:
    total: Array = slopes.sum(1, dtype=np.float64)
    return total
