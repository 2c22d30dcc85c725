"""Stored record of a density: the layout of its flows and the names of its compiled graphs.

The compiled graphs themselves are files in the cache.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from models.scoring.opened_density import OpenedDensity, parts_of, program_of
from snf_runtime.exported.json_values import from_json, parse_json
from snf_runtime.exported.manifest import ExportedPixels, ExportedTransform
from snf_runtime.scoring.engines.openvino_program import Outputs, Program
from snf_runtime.scoring.engines.tiles import Tiling
from snf_runtime.scoring.layout import FeatureLayout, FlowLayout, LevelLayout
from snf_runtime.scoring.pixel_transforms import AffineFunction, LogitFunction, MarginalFunction


@dataclass(frozen=True)
class PreparedProgram:
    """Stored form of a ``Program`` of OpenVINO graphs: their names in the cache, and the batch size.

    A program runs a model's flows on images.

    One graph is for a single image, the other for a tile on each thread. A tile is a fixed number of images computed at
    once.
    """

    tiling: Tiling
    single: str
    wave: str


@dataclass(frozen=True)
class PreparedPixels:
    """Stored description of a flow over pixels, used to load and run the compiled graphs of the flow.

    Attributes:
        flow: Its description.
        masses: The masses of a marginal pixel transform; None for another one.
        program: The program of its graph.
        has_learned_inverse: Whether images can be sampled by a learned inverse.
    """

    flow: ExportedPixels
    masses: tuple[float, ...] | None
    program: PreparedProgram
    has_learned_inverse: bool


@dataclass(frozen=True)
class PreparedFeatures:
    """Stored description of a model's flows over image features, with the names of their compiled graphs.

    It has the shape of the features and a constant term of the scores.

    The program runs the backbone and the flows as one graph.
    """

    layout: FeatureLayout
    program: PreparedProgram


@dataclass(frozen=True)
class PreparedRecord:
    """Stored description of a model's density, with the names of its compiled graphs.

    The record lets the model score images without loading its trained flows.

    It has the flow over pixels, the flows over features, or both.
    """

    pixels: PreparedPixels | None
    features: PreparedFeatures | None

    def to_json(self) -> bytes:
        """Return this description of a model's density, with the names of compiled graphs, as JSON bytes."""
        return json.dumps(asdict(self), allow_nan=False).encode()

    @classmethod
    def of_json(cls, content: bytes) -> PreparedRecord:
        """Parse the stored description of a model's density from JSON; raise ``ValueError`` if it is invalid.

        JSON that is nested too deeply raises ``RecursionError``.
        """
        record = from_json(cls, parse_json(content))
        if record.pixels is None and record.features is None:
            raise ValueError("expected pixels or features, got neither")
        return record


def record_of(opened: OpenedDensity) -> PreparedRecord | None:
    """Return a record to reopen a model's density from cached graphs, or None if that is impossible.

    This is the layout of its flows and the names of their compiled graphs. It is impossible if torch computes a part of
    the density, if a graph is not in the cache, or if the pixel transform is not affine, logit or marginal.
    """
    pixels, features = parts_of(opened.density)
    of_pixels = of_features = None
    if pixels is not None:
        compiled = program_of(pixels.engine)
        program = _prepared(compiled)
        flow = None if compiled is None else described_pixels(pixels.frozen, compiled.outputs)
        if program is None or flow is None:
            return None
        function = pixels.frozen.pixel_function
        masses = tuple(function.masses.tolist()) if isinstance(function, MarginalFunction) else None
        of_pixels = PreparedPixels(flow, masses, program, opened.has_learned_inverse)
    if features is not None:
        program = _prepared(program_of(features.engine))
        if program is None:
            return None
        layout = FeatureLayout(features.flows.feature_shape, features.flows.constant_log_det)
        of_features = PreparedFeatures(layout, program)
    return PreparedRecord(of_pixels, of_features)


def described_pixels(frozen: FlowLayout, outputs: Outputs) -> ExportedPixels | None:
    """Return a description of a flow over pixels: its pixel transform, level layout and graph outputs.

    With it, log-likelihoods are computed from the outputs of the graph.

    Returns None if its pixel transform is not affine, logit or marginal.

    Args:
        frozen: The layout of the flow, or the flow itself.
        outputs: Kind and level of each output of its graph.
    """
    function = frozen.pixel_function
    if isinstance(function, AffineFunction):
        transform = ExportedTransform("affine")
    elif isinstance(function, LogitFunction):
        transform = ExportedTransform("logit", function.alpha)
    elif isinstance(function, MarginalFunction):
        transform = ExportedTransform("marginal")
    else:
        return None
    # A level of a frozen flow has layers, too.
    levels = tuple(
        LevelLayout(**{field.name: getattr(level, field.name) for field in fields(LevelLayout)})
        for level in frozen.levels
    )
    return ExportedPixels(transform, levels, frozen.is_spatial, tuple(outputs))


def _prepared(program: Program | None) -> PreparedProgram | None:
    wave = None if program is None else program.wave
    if program is None or wave is None:
        return None
    single, many = program.single.compiled.name, wave.compiled.name
    return None if single is None or many is None else PreparedProgram(program.tiling, single, many)
