"""A density that is ready for scoring, with facts about its flows, which need not be loaded yet.

Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.engines.base import TiledEngine
from snf_runtime.scoring.feature_density import FeatureDensity
from snf_runtime.scoring.hybrid_density import HybridDensity
from snf_runtime.scoring.pixel_density import PixelDensity

if TYPE_CHECKING:
    from snf_runtime.scoring.engines.openvino_program import Program


@dataclass(frozen=True)
class OpenedDensity:
    """Probability density of a model, ready to score images, with a fact that is needed before its flows are loaded.

    Attributes:
        density: The density.
        has_learned_inverse: Whether images can be sampled by a learned inverse.
    """

    density: ImageDensity
    has_learned_inverse: bool


def parts_of(density: ImageDensity) -> tuple[PixelDensity | None, FeatureDensity | None]:
    """Split a model's density into its density over pixels and its density over features.

    A density that is missing is None.
    """
    if isinstance(density, HybridDensity):
        return density.pixels, density.features
    return (
        density if isinstance(density, PixelDensity) else None,
        density if isinstance(density, FeatureDensity) else None,
    )


def open_waves(density: ImageDensity) -> None:
    """Load or compile in advance the OpenVINO graphs of a model for waves (many images split over threads).

    No image then has to wait for them.
    """
    for part in parts_of(density):
        program = None if part is None else program_of(part.engine)
        if program is not None:
            _ = program.wave


def program_of(engine: TiledEngine) -> Program | None:
    """Return the ``Program`` of an OpenVINO engine (its compiled graphs), or None for a PyTorch engine."""
    program: Program | None = getattr(engine, "program", None)
    return program
