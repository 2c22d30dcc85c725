"""Engine that runs a flow as a compiled OpenVINO graph on CPUs. Needs the extra ``cpu``."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.artifacts.manifest import Precision
from models.bijections.frozen import FrozenAffine, Inverse
from models.bijections.squeeze import FrozenSqueeze
from models.scoring.engines.openvino_graph import forward_graph, inverse_graph, supports_inverse
from models.scoring.engines.torch_engine import TorchEngine
from models.scoring.frozen import FrozenFlow, FrozenLevel
from snf_runtime.scoring.engines.base import Latents
from snf_runtime.scoring.engines.openvino_program import Program

log = logging.getLogger(__name__)

Array = NDArray[np.float64]


class OpenVINOEngine:
    """Backend that runs a flow with OpenVINO on CPUs in float32; log-dets (log |det dz/dx|) are summed in float64.

    Flows whose inverse is not supported by a graph are inverted by :class:`TorchEngine`.

    Args:
        frozen: The flow.
        threads: Threads on the CPU; None for all cores.
        cache: Folder for compiled graphs and measured tile sizes, or None.
    """

    name = "openvino"

    def __init__(self, frozen: FrozenFlow, threads: int | None = None, cache: Path | None = None) -> None:
        self.frozen = frozen
        self._threads = threads
        self._cache = cache
        self._forward = Program(lambda images: forward_graph(frozen, images), threads, cache)
        self._inverses: dict[Inverse, Program] = {}
        self._torch = TorchEngine(frozen)
        self._locations = _locations(frozen)
        self._sizes = [_reconstruction_sizes(level) for level in frozen.levels]

    @property
    def precision(self) -> Precision:
        """The number format of the 1x1 convolutions in the coupling networks, "float32" or "bfloat16"."""
        return self.frozen.precision

    @property
    def tile(self) -> int:
        """The number of images that each CPU thread computes in one run of the compiled graph."""
        return self._forward.tiling.tile

    def forward(self, y: Tensor) -> Latents:
        """Return latents and log-dets of N images after the pixel transform, ``y``, float64 ``(N, C, H, W)``."""
        parts = dict(zip(self._forward.outputs, self._forward([_narrow(y)]), strict=True))
        scales, log_dets, prior_log_dets, errors = [], [], [], []
        for index in range(len(self.frozen.levels)):
            if ("latent", index) in parts:
                latent = parts["latent", index]
                scales.append(torch.from_numpy(latent.astype(np.float64)))
            slopes = parts.get(("log-slopes", index))
            prior = parts.get(("prior-log-slopes", index))
            nothing = np.zeros((len(y), *self._locations[index]))
            log_dets.append(torch.from_numpy(nothing if slopes is None else _channel_sum(slopes)))
            prior_log_dets.append(torch.from_numpy(nothing if prior is None else _channel_sum(prior)))
            ratio = parts.get(("reconstruction-errors", index), np.zeros((len(y), 0)))
            errors.append(torch.from_numpy(ratio * self._sizes[index] ** 2))
        return Latents(scales, log_dets, prior_log_dets, errors)

    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Return the images of latents up to the pixel transform, which the caller inverts, ``(N, C, H, W)``."""
        if not supports_inverse(self.frozen):
            return self._torch.inverse(scales, inverse)
        if inverse not in self._inverses:
            self._inverses[inverse] = Program(
                lambda images: inverse_graph(self.frozen, images, inverse), self._threads, self._cache
            )
        (images,) = self._inverses[inverse]([_narrow(scale) for scale in scales])
        return torch.from_numpy(images.astype(np.float64))


def _locations(frozen: FrozenFlow) -> list[tuple[int, int]]:
    """Return height and width of the activations at each level of a flow."""
    sizes = []
    _, height, width = frozen.image_shape
    for level in frozen.levels:
        if any(isinstance(step, FrozenSqueeze) for step in level.steps):
            height, width = height // 2, width // 2
        sizes.append((height, width))
    return sizes


def _reconstruction_sizes(level: FrozenLevel) -> Array:
    steps = [step for step in level.steps if isinstance(step, FrozenAffine) and step.has_reconstruction_error]
    return np.array([step.reconstruction_size for step in steps], dtype=np.float64)


def _narrow(x: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.float().contiguous().numpy()
    return array


def _channel_sum(slopes: NDArray[np.float32]) -> Array:
    total: Array = slopes.sum(1, dtype=np.float64)
    return total
