"""Engines that run flows over pixels and features with torch, on CPUs and on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snf_models.artifacts.manifest import Precision
from snf_models.bijections.devices import find_device
from snf_models.bijections.frozen import FrozenAffine, FrozenStep, Inverse, moved
from snf_models.errors import EngineUnavailable
from snf_models.features.extractor import TorchExtractor
from snf_models.features.flows import FrozenFeatureFlows, sums_of_groups
from snf_models.scoring.frozen import FrozenFlow, FrozenLevel
from snf_models.threads import torch_threads
from snf_runtime.images.preprocessing import Pixels
from snf_runtime.parallelism import MICRO_BATCH
from snf_runtime.scoring.density import Latents

Array = NDArray[np.float64]
Result = TypeVar("Result")

CUDA_MICRO_BATCH = 64
WARM_UPS = 3
"""Calls before a CUDA graph is captured: libraries choose kernels and allocate workspaces in the first calls."""


Parts = tuple[list[Tensor], ...]  # fields of :class:`Latents` as torch tensors, in order


class TorchEngine:
    """Backend that runs a flow with PyTorch on a CPU or GPU.

    Coupling networks run in float32 or partly in bfloat16, all else in float64.

    The networks take nearly all of the time. Everything else would cause nearly all of the rounding in float32, because
    each step amplifies the rounding of the state before it. Images are computed in batches of a fixed size, the last
    one filled up. Memory therefore does not grow with the number of images, and libraries do not choose kernels by
    their number, so a score is the same to the last bit whatever the others. On CUDA a batch is a CUDA graph, without
    TF32.

    Args:
        frozen: The flow.
        micro_batch: Images of a batch; None for the default of the device.
        threads: Threads on the CPU; None for the number that torch uses.
        device: The device in torch's notation.

    Raises:
        DeviceNotFound: There is no such device.
        EngineUnavailable: A layer cannot run on the device. Later also where its memory is used up.
    """

    name = "torch"

    def __init__(
        self, frozen: FrozenFlow, micro_batch: int | None = None, threads: int | None = None, device: str = "cpu"
    ) -> None:
        self._device = find_device(device)
        on_cpu = self._device.type == "cpu"
        self.frozen = frozen
        self.precision: Precision = frozen.precision  # of the 1x1 convolutions in coupling networks
        self._levels = frozen.levels if on_cpu else _moved(frozen, self._device)
        self.micro_batch = micro_batch or (MICRO_BATCH if on_cpu else CUDA_MICRO_BATCH)
        self.threads = threads or torch.get_num_threads()

    @torch.inference_mode()
    def forward(self, y: Array) -> Latents:
        images = self._filled(torch.from_numpy(y))
        with torch_threads(self.threads), self._memory():
            tiles = [self._brought_back(self._run(tile)) for tile in torch.split(images, self.micro_batch)]
        return Latents(*(_joined(parts, len(y)) for parts in zip(*tiles, strict=True)))

    @torch.inference_mode()
    def inverse(self, scales: list[Array], inverse: Inverse) -> Array:
        filled = [self._filled(torch.from_numpy(scale)) for scale in scales]
        tiles = zip(*(torch.split(scale, self.micro_batch) for scale in filled), strict=True)
        with torch_threads(self.threads), self._memory():
            images = [self._inverse_tile([part.to(self._device) for part in tile], inverse).cpu() for tile in tiles]
        result: Array = torch.cat(images)[: len(scales[0])].numpy()
        return result

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Raise ``EngineUnavailable`` where the device has no memory left for what the ``with`` block computes."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            what = f"{self._device} has no memory left for {self.micro_batch} images at once"
            raise EngineUnavailable(f"{what}: free some, or score on the CPU (SNF_SCORING_DEVICE)") from error

    @cached_property
    def _run(self) -> Callable[[Tensor], Parts]:
        if self._device.type != "cuda":
            return self._forward_tile
        shape = (self.micro_batch, *self.frozen.image_shape)
        return CudaGraph(self._forward_tile, torch.zeros(shape, dtype=torch.float64, device=self._device))

    def _brought_back(self, latents: Parts) -> Parts:
        if self._device.type == "cpu":
            return latents
        return tuple([tensor.cpu() for tensor in part] for part in latents)

    def _filled(self, x: Tensor) -> Tensor:
        missing = -len(x) % self.micro_batch
        return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x

    def _forward_tile(self, y: Tensor) -> Parts:
        scales, log_dets, prior_log_dets, reconstruction_errors = [], [], [], []
        for level in self._levels:
            log_det = None
            errors = [y.new_zeros(len(y), 0)]
            for step in level.steps:
                error = step.reconstruction_error(y) if isinstance(step, FrozenAffine) else None
                if error is not None:
                    errors.append(error[:, None])
                y, step_log_det = step.forward(y)
                if step_log_det is not None:
                    log_det = step_log_det if log_det is None else log_det + step_log_det
            prior_log_det = None
            if level.prior is not None:
                y, prior_log_det = level.prior.forward(y)
            nothing = y.new_zeros(len(y), *y.shape[2:])
            if level.latent_shape is not None:
                y, latent = y[:, : level.kept], y[:, level.kept :]
                scales.append(latent)
            log_dets.append(nothing if log_det is None else log_det)
            prior_log_dets.append(nothing if prior_log_det is None else prior_log_det)
            reconstruction_errors.append(torch.cat(errors, 1))
        return scales, log_dets, prior_log_dets, reconstruction_errors

    def _inverse_tile(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        *remaining, y = scales
        for level in reversed(self._levels):
            if level.prior is not None:
                y = level.prior.inverse(torch.cat([y, remaining.pop()], dim=1), inverse)
            for step in reversed(level.steps):
                y = step.inverse(y, inverse)
        return y


def _moved(frozen: FrozenFlow, device: torch.device) -> tuple[FrozenLevel, ...]:
    try:
        return moved(frozen.levels, device)
    except TypeError as error:
        raise EngineUnavailable(f"the flow has a layer that cannot run on {device}: {error}") from error


def _joined(tiles: Sequence[list[Tensor]], count: int) -> list[Array]:
    return [torch.cat(parts)[:count].numpy() for parts in zip(*tiles, strict=True)]


class CudaGraph(Generic[Result]):
    """Function of a CUDA tensor shaped as ``example``, captured as a CUDA graph; calls overwrite earlier results."""

    def __init__(self, function: Callable[[Tensor], Result], example: Tensor) -> None:
        self._input = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Streams belong to the current device, which need not be that of the example.
        with torch.cuda.device(example.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(self._input)
            torch.cuda.current_stream().wait_stream(stream)
            # What other threads do meanwhile, such as scoring by another model, must not spoil the capture.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = function(self._input)

    def __call__(self, x: Tensor) -> Result:
        self._input.copy_(x)
        self._graph.replay()
        return self._output


class TorchFeatureEngine:
    """Engine of a backbone (in its extractor's type) and its flows (float64), in batches of a fixed size."""

    name = "torch"
    precision: Precision = "float32"
    micro_batch = MICRO_BATCH

    def __init__(self, extractor: TorchExtractor, flows: FrozenFeatureFlows, threads: int | None = None) -> None:
        self._extractor = extractor
        self._flows = flows
        self.threads = threads or torch.get_num_threads()

    @torch.inference_mode()
    def squares(self, images: Pixels) -> tuple[Array, Array]:
        """Return ||z||² over channels at places ``(N, fits, rows, columns)`` and pooled ``(N, fits, groups)``."""
        count, fits = len(images), len(self._flows.places)
        places = np.empty((count, fits, *self._flows.feature_shape[1:]))
        pooled = np.empty((count, fits, len(self._flows.groups)))
        with torch_threads(self.threads):
            for start in range(0, count, self.micro_batch):
                some = images[start : start + self.micro_batch]
                filled = np.concatenate([some, np.repeat(some[-1:], self.micro_batch - len(some), 0)])
                features, whole = (part.double() for part in self._extractor.features(filled))
                for fit in range(fits):
                    of_places = _squares(features, self._flows.places[fit], *self._flows.steps).sum(1)
                    of_whole = _squares(whole[:, :, None, None], self._flows.pooled[fit]).flatten(1)
                    of_groups = sums_of_groups(of_whole, self._flows.groups)
                    places[start : start + len(some), fit] = of_places[: len(some)].numpy()
                    pooled[start : start + len(some), fit] = of_groups[: len(some)].numpy()
        return places, pooled


def _squares(x: Tensor, *steps: FrozenStep) -> Tensor:
    for step in steps:
        x, _ = step.forward(x)
    return x.square()
