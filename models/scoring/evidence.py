"""What one forward pass says of images besides their likelihood: the raw material of every anomaly score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.scoring.flow_pass import FlowPass
from models.scoring.grid import pool
from models.scoring.whole_image import whole_image_statistics


@dataclass(frozen=True)
class Evidence:
    """Raw statistics of N images, float64.

    ``whole``: of the whole image, ``(N, K)``. ``cells``: the additive map in nats, summed over the cells of a coarse
    grid, ``(N, cells)``. ``gradients``: features of a backward pass, ``(N, G)``, where one was made.
    """

    whole: NDArray[np.float64]
    cells: NDArray[np.float64]
    gradients: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Evidence:
        gradients = None if self.gradients is None else self.gradients[rows]
        return Evidence(self.whole[rows], self.cells[rows], gradients)

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """Return the evidence of all parts as one; gradients only where all have them."""
        gradients = [part.gradients for part in parts if part.gradients is not None]
        return cls(
            np.concatenate([part.whole for part in parts]),
            np.concatenate([part.cells for part in parts]),
            np.concatenate(gradients) if len(gradients) == len(parts) else None,
        )


def gather(images: NDArray[np.uint8], found: FlowPass) -> Evidence:
    """Return the evidence of ``images``, ``(N, C, H, W)``, from their pass through the flow."""
    return Evidence(whole_image_statistics(images, found), pool(found.additive_map().numpy()))
