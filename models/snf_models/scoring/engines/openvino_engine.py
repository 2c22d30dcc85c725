"""Engine that runs a flow as compiled OpenVINO graphs on CPUs, from pixels to latents and back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snf_models.bijections.frozen import Inverse
from snf_models.scoring.engines.compiled_cache import open_program
from snf_models.scoring.engines.openvino_graph import forward_graph, inverse_graph, supports_inverse
from snf_models.scoring.engines.torch_engine import TorchEngine
from snf_models.scoring.frozen import FrozenFlow
from snf_runtime.scoring.engines.openvino_flow import OpenVINOFlow
from snf_runtime.scoring.engines.openvino_program import Program

Array = NDArray[np.float64]


class OpenVINOEngine(OpenVINOFlow):
    """OpenVINO engine of a flow and its inverse; an inverse without a graph is run by :class:`TorchEngine`."""

    def __init__(
        self,
        frozen: FrozenFlow,
        threads: int | None = None,
        cache: Path | None = None,
        forward: Program | None = None,
    ) -> None:
        self._pixels = math.prod(frozen.image_shape[1:])
        super().__init__(
            frozen,
            forward or open_program(lambda images: forward_graph(frozen, images), self._pixels, threads, cache),
        )
        self.frozen = frozen
        self._threads = threads
        self._cache = cache
        self._inverses: dict[Inverse, Program] = {}
        self._torch = TorchEngine(frozen, threads=threads)

    def inverse(self, scales: list[Array], inverse: Inverse) -> Array:
        if not supports_inverse(self.frozen):
            return self._torch.inverse(scales, inverse)
        if inverse not in self._inverses:
            self._inverses[inverse] = open_program(
                lambda images: inverse_graph(self.frozen, images, inverse), self._pixels, self._threads, self._cache
            )
        (images,) = self._inverses[inverse]([scale.astype(np.float32) for scale in scales])
        return images.astype(np.float64)
