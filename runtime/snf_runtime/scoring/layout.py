"""Layouts of frozen flows: sizes, pixel transform and constants that scoring needs, without weights."""

from __future__ import annotations

from dataclasses import dataclass

from snf_runtime.kinds import Precision, Shape
from snf_runtime.scoring.pixel_transforms import PixelFunction


@dataclass(frozen=True)
class LevelLayout:
    """Sizes and constants of one level of a flow over pixels."""

    size: tuple[int, int]  # height and width
    kept: int  # channels for the next level, 0 at the last
    latent_shape: Shape | None
    has_prior: bool  # a coupling whitens the latents
    constant_log_det: float  # nats
    reconstruction_sizes: tuple[float, ...]  # factors of float32 errors of layers with a learned inverse


@dataclass(frozen=True)
class FlowLayout:
    """What scoring needs of a flow over pixels, without weights."""

    image_shape: Shape
    pixel_function: PixelFunction
    levels: tuple[LevelLayout, ...]  # finest scale first
    is_spatial: bool  # False if a layer connects all pixels
    precision: Precision


@dataclass(frozen=True)
class FeatureLayout:
    """What scoring needs of flows over features."""

    feature_shape: Shape  # channels, rows and columns at places
    constant_log_det: float  # of the first fit over places, nats
