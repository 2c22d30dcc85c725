"""Interface of engines, which run frozen flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.artifacts.manifest import Precision
from models.bijections.frozen import Inverse


@dataclass(frozen=True)
class Latents:
    """Latents z and log-dets, log |det dz/dx|, of N images x at every level of a flow, as float64 tensors.

    Attributes:
        scales: Whitened latents, ``(N, C, H, W)``, of each level that has latents, finest scale first.
        log_dets: Image-dependent part of the log-det of each level's steps, by location, ``(N, H, W)`` in nats.
        prior_log_dets: Log-det of the prior of each level, by location, ``(N, H, W)`` in nats.
        reconstruction_errors: ||R W x - x||² / ||x||² of the learned inverses of 1x1 convolutions of each level,
            ``(N, layers)``; there may be no such layers.
    """

    scales: list[Tensor]
    log_dets: list[Tensor]
    prior_log_dets: list[Tensor]
    reconstruction_errors: list[Tensor]


class Engine(Protocol):
    """Interface of a backend (PyTorch or OpenVINO) that runs a trained flow from pixels to latents and back.

    The result for an image is the same to the last bit alone, in every batch and at every position in it. An engine is
    not thread-safe.
    """

    @property
    def name(self) -> str:
        """The name of the backend, "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The number format of the 1x1 convolutions in the coupling networks, "float32" or "bfloat16"."""
        ...

    @property
    def tile(self) -> int:
        """The number of images that are computed together in one run; more images take several runs."""
        ...

    def forward(self, y: Tensor) -> Latents:
        """Return latents and log-dets of N images after the pixel transform, ``y``, float64 ``(N, C, H, W)``."""
        ...

    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Return the images of latents up to the pixel transform, which the caller inverts, ``(N, C, H, W)``.

        Args:
            scales: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
            inverse: "exact", or "learned" for the learned approximate inverse of each layer that has one.

        Returns:
            Images before the inverse of the pixel transform, float64 ``(N, C, H, W)``.
        """
        ...
