"""Interface of the density of a model over pixels or features, for scoring, calibration and heat maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snf_runtime.images.batch import Batch
from snf_runtime.kinds import DensityKind, Precision, Shape
from snf_runtime.scoring.evidence import Evidence

WITHOUT_PAUSES = 2
"""Groups of images that are computed as one where no other work waits, so that threads wait for each other less."""


class DensityPass(Protocol):
    """Results of one pass of a group of images: the terms of their log-likelihoods, and maps."""

    def __len__(self) -> int: ...

    def terms(self) -> NDArray[np.float64]:
        """Return log-prior and log-det of the pixels and each level, ``(N, L + 1, 2)`` in nats, which sum to log p."""
        ...

    def additive_map(self) -> NDArray[np.float64]:
        """Return each pixel's contribution to the log-likelihood, ``(N, H, W)`` in nats."""
        ...

    def compared_maps(self) -> NDArray[np.float64]:
        """Return the map in nats of each image or tile that heat maps compare with normal images."""
        ...

    def rows(self, chosen: slice) -> DensityPass: ...


class ImageDensity(Protocol):
    """A frozen flow over pixels, over features, or both, run by an engine."""

    @property
    def kind(self) -> DensityKind: ...

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of the images, or of a tile if images are cut into tiles."""
        ...

    @property
    def dimensions(self) -> int:
        """The number of values of an image, or of a tile, whose joint density is computed."""
        ...

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the flow's weights, in hexadecimal."""
        ...

    @property
    def constant_log_det(self) -> float:
        """Sum of the log-dets that do not depend on the image, in nats."""
        ...

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of whole-image, then of channel statistics; none for features alone."""
        ...

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of cells for local statistics, or None."""
        ...

    @property
    def has_map(self) -> bool: ...

    @property
    def engine_name(self) -> str: ...

    @property
    def precision(self) -> Precision:
        """The arithmetic of the 1x1 convolutions in coupling networks; all else is float32 or better."""
        ...

    @property
    def step_pixels(self) -> int:
        """The cost of one image or tile, counted as the pixels that go into the backbone network or the flow."""
        ...

    @property
    def at_once(self) -> int:
        """The images or tiles of a group, between which other work can run."""
        ...

    @property
    def tile(self) -> int:
        """The images, or pieces of images, that the engine computes in one run."""
        ...

    @property
    def tiled(self) -> bool:
        """Whether images have any size and are cut into tiles of ``image_shape``."""
        ...

    def passes(
        self, images: Batch, draws: int = 1, at_once: int | None = None
    ) -> Iterator[tuple[int, DensityPass | None]]:
        """Yield each group's first draw and result, None where no image is complete; an image's draws follow on."""
        ...

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the evidence of images from the pass of their first draw."""
        ...
