"""Interface of engines that also run a flow backwards, to sample images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from snf_models.bijections.frozen import Inverse
from snf_models.scoring.frozen import FrozenFlow
from snf_runtime.scoring.engines.base import Engine

Array = NDArray[np.float64]


@runtime_checkable
class FlowEngine(Engine, Protocol):
    """Interface of a backend (PyTorch or OpenVINO) that runs a trained flow from pixels to latents and back.

    Attributes:
        frozen: The flow.
    """

    frozen: FrozenFlow

    def inverse(self, scales: list[Array], inverse: Inverse) -> Array:
        """Map latents back to the input of the flow: images after the pixel transform, such as logits.

        The caller inverts the pixel transform.

        Args:
            scales: Whitened latents of each scale, ``(N, C, H, W)``, finest scale first.
            inverse: "exact", or "learned" for the learned approximate inverse of each layer that has one.

        Returns:
            Images before the inverse of the pixel transform, float64 ``(N, C, H, W)``.
        """
        ...
