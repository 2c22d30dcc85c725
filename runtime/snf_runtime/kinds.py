"""Type aliases for image shapes, numeric precisions, kinds of density and kinds of graph outputs."""

from __future__ import annotations

from typing import Literal

Shape = tuple[int, int, int]
"""Channels, height and width."""
Precision = Literal["float32", "bfloat16"]
"""Arithmetic of the middle convolutions of coupling networks in scoring; all else is float32 or better."""
DensityKind = Literal["density", "feature_density"]
"""What a log-likelihood is the log of: a density over dequantised pixels, or over features of a backbone at places that
are taken as independent."""
GraphPart = Literal["latent", "log-slopes", "prior-log-slopes", "reconstruction-errors", "image", "places", "pooled"]
"""Kind of an output of the graph of a flow."""
