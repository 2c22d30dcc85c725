"""Interface of engines, which run frozen flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.artifacts.manifest import Precision
from models.bijections.frozen import Inverse


@dataclass(frozen=True)
class Latents:
    """Latents and data-dependent log-determinants of N images at every level of a flow, float64.

    Attributes:
        scales: Whitened latents, ``(N, C, H, W)``, of each level that has latents, finest scale first.
        log_dets: Data-dependent log-det of the steps of each level, by location, ``(N, H, W)`` in nats.
        prior_log_dets: Log-det of the prior of each level, by location, ``(N, H, W)`` in nats.
        reconstruction_errors: ||R W x - x||² / ||x||² of the learned inverses of 1x1 convolutions of each level,
            ``(N, layers)``; there may be no such layers.
    """

    scales: list[Tensor]
    log_dets: list[Tensor]
    prior_log_dets: list[Tensor]
    reconstruction_errors: list[Tensor]


class Engine(Protocol):
    """Interface of an engine: it runs a frozen flow from transformed pixels to latents and back.

    The result for an image is the same to the last bit alone, in every batch and at every position in it. An engine is
    not thread-safe.
    """

    @property
    def name(self) -> str:
        """The name of the engine, such as "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the 1x1 convolutions in coupling networks, "float32" or "bfloat16"."""
        ...

    @property
    def tile(self) -> int:
        """The number of images that the engine computes at once."""
        ...

    def forward(self, y: Tensor) -> Latents:
        """Return the latents of images whose pixels have been transformed, float64 ``(N, C, H, W)``."""
        ...

    def inverse(self, scales: list[Tensor], inverse: Inverse) -> Tensor:
        """Map latents back to images, up to the pixel transform, which the caller inverts.

        Args:
            scales: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
            inverse: The exact or the learned inverse of the flow.

        Returns:
            Images before the inverse of the pixel transform, float64 ``(N, C, H, W)``.
        """
        ...
