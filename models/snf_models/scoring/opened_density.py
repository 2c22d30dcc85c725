"""A density that is ready for scoring, with facts about its flows, which need not be loaded; free of torch."""

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
    """A density, with whether its flows, not loaded yet, can be sampled by a learned inverse."""

    density: ImageDensity
    has_learned_inverse: bool


def parts_of(density: ImageDensity) -> tuple[PixelDensity | None, FeatureDensity | None]:
    """Return the densities over pixels and over features, None where missing."""
    if isinstance(density, HybridDensity):
        return density.pixels, density.features
    return (
        density if isinstance(density, PixelDensity) else None,
        density if isinstance(density, FeatureDensity) else None,
    )


def open_waves(density: ImageDensity) -> None:
    """Open the graphs for waves in advance, so that no image has to wait for them."""
    for part in parts_of(density):
        program = None if part is None else program_of(part.engine)
        if program is not None:
            _ = program.wave


def program_of(engine: TiledEngine) -> Program | None:
    """Return the compiled graphs of an OpenVINO engine, None for torch."""
    program: Program | None = getattr(engine, "program", None)
    return program
