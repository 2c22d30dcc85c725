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
    """Interface to the results of scoring a group of images by a probability density in one pass.

    It gives the terms of their log-likelihoods, and maps over the image.
    """

    def __len__(self) -> int: ...

    def terms(self) -> NDArray[np.float64]:
        """Return the terms of each image's log-likelihood: for each scale, a log-prior and a log-determinant.

        Scale 0 is that of the pixels; the others are the levels of the flow.

        Each scale has a log-prior and a log-determinant, ``(N, L + 1, 2)`` in nats. All terms of an image sum to its
        log-likelihood.
        """
        ...

    def additive_map(self) -> NDArray[np.float64]:
        """Return maps of what each pixel contributes to the log-likelihood of its image.

        The shape is ``(N, H, W)``, in nats. The contributions sum to the log-likelihood.
        """
        ...

    def compared_maps(self) -> NDArray[np.float64]:
        """Return the log-likelihood maps that heat maps compare with averages over normal images.

        There is a map for each image or tile, in nats.
        """
        ...

    def rows(self, chosen: slice) -> DensityPass:
        """Return a ``DensityPass`` with the results for only the images in the slice ``chosen``."""
        ...


class ImageDensity(Protocol):
    """Interface of a trained model that computes the probability density of images.

    It is a frozen flow over pixels, over features, or both, run by an engine.
    """

    @property
    def kind(self) -> DensityKind:
        """The domain of the probability density: pixels if "density", image features if "feature_density"."""
        ...

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of the images, or of a tile if images are cut into tiles."""
        ...

    @property
    def dimensions(self) -> int:
        """The number of values of an image whose joint probability density is computed.

        They are the pixel or feature values of an image, or of a tile.
        """
        ...

    @property
    def weights_digest(self) -> str:
        """SHA-256 digest of the trained weights of the flow, in hexadecimal."""
        ...

    @property
    def constant_log_det(self) -> float:
        """Sum of the flow's log-determinants that do not depend on the image, in nats."""
        ...

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names of the anomaly statistics: first those of the whole image, then those of latent channels.

        There are none for a density of features alone.
        """
        ...

    @property
    def grid(self) -> tuple[int, int] | None:
        """The number of rows and columns of cells into which an image is divided for local anomaly statistics.

        The log-density of each cell is evidence for anomaly verdicts. None where there is no grid.
        """
        ...

    @property
    def has_map(self) -> bool:
        """Whether the density can compute maps of what each image location contributes to the log-likelihood."""
        ...

    @property
    def engine_name(self) -> str:
        """The name of the engine that runs the flow, such as "torch" or "openvino"."""
        ...

    @property
    def precision(self) -> Precision:
        """The number format of the 1x1 convolutions in the flow's coupling networks, the most costly layers.

        It is "float32" or "bfloat16". Everything else is computed in float32 or better.
        """
        ...

    @property
    def step_pixels(self) -> int:
        """The cost of one image or tile, counted as the pixels that go into the backbone network or the flow."""
        ...

    @property
    def at_once(self) -> int:
        """The number of images or tiles to compute as one group; other work can run between groups.

        A group fills the tiles of all threads of the engine, unless images are very large.
        """
        ...

    @property
    def tile(self) -> int:
        """The number of images, or of pieces of images, that the engine computes together in one run."""
        ...

    @property
    def tiled(self) -> bool:
        """Whether this density takes images of any size, by cutting them into tiles.

        ``image_shape`` is then the shape of a tile.
        """
        ...

    def passes(
        self, images: Batch, draws: int = 1, at_once: int | None = None
    ) -> Iterator[tuple[int, DensityPass | None]]:
        """Yield the scoring results group by group, so that memory does not grow with the number of images.

        Args:
            images: Pixels, uint8 ``(N, C, H, W)``, or ``(C, H, W)`` each for a density of tiles.
            draws: The number of dequantisation draws; the draws of an image follow each other.
            at_once: The largest number of draws, or of tiles, in a group; None for :attr:`at_once`.

        Yields:
            The number of the first draw of a group, and the result of the group; None where no image is complete yet.
        """
        ...

    def evidence(self, images: Batch, density_pass: DensityPass) -> Evidence:
        """Return the evidence on a batch of images: statistics from which anomaly verdicts are computed.

        They come from the results of the first dequantisation draw of each image.
        """
        ...
