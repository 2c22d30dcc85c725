"""Layouts of frozen flows: sizes, pixel transform and constants that scoring needs, without weights."""

from __future__ import annotations

from dataclasses import dataclass

from snf_runtime.kinds import Precision, Shape
from snf_runtime.scoring.pixel_transforms import PixelFunction


@dataclass(frozen=True)
class LevelLayout:
    """Sizes of one level of a flow over pixels, and the image-independent part of the level's log-determinant.

    A level is a group of layers at one resolution. The layout has none of its weights.

    Attributes:
        size: Height and width of the activations of the level.
        kept: Channels that are passed on to the next level, 0 at the last level.
        latent_shape: Channels, height and width of the latents, or None if the level has none.
        has_prior: Whether a coupling whitens the latents of the level.
        constant_log_det: Sum of the data-independent log-dets of the level, in nats.
        reconstruction_sizes: For each layer with a learned inverse R of its matrix W and a known error ||R W x - x||,
            the number by which engines in float32 scale that error.
    """

    size: tuple[int, int]
    kept: int
    latent_shape: Shape | None
    has_prior: bool
    constant_log_det: float
    reconstruction_sizes: tuple[float, ...]


@dataclass(frozen=True)
class FlowLayout:
    """The structure of a normalizing flow over image pixels, as needed for scoring, without weights.

    Attributes:
        image_shape: Channels, height and width of the images.
        pixel_function: The pixel transform.
        levels: The levels, finest scale first.
        is_spatial: Whether every layer keeps image locations apart. False if a layer connects all pixels.
        precision: Arithmetic of the middle convolutions of the coupling networks.
    """

    image_shape: Shape
    pixel_function: PixelFunction
    levels: tuple[LevelLayout, ...]
    is_spatial: bool
    precision: Precision


@dataclass(frozen=True)
class FeatureLayout:
    """Shape of image features, and the constant log-determinant of the flow over these features.

    Attributes:
        feature_shape: Channels, rows and columns of the features at places.
        constant_log_det: Log-det of the first fit over places, in nats: it is a term of every score.
    """

    feature_shape: Shape
    constant_log_det: float
