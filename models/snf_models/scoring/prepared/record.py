"""Stored record of a density: the layout of its flows and the names of its compiled graphs in the cache."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from snf_models.scoring.opened_density import OpenedDensity, parts_of, program_of
from snf_runtime.exported.json_values import from_json, parse_json
from snf_runtime.exported.manifest import ExportedPixels, ExportedTransform
from snf_runtime.scoring.engines.openvino_program import Outputs, Program
from snf_runtime.scoring.engines.tiles import Tiling
from snf_runtime.scoring.layout import FeatureLayout, FlowLayout, LevelLayout
from snf_runtime.scoring.pixel_transforms import AffineFunction, LogitFunction, MarginalFunction


@dataclass(frozen=True)
class PreparedProgram:
    """Names of the compiled graphs for one image and for a tile on each thread, with the tile size."""

    tiling: Tiling
    single: str
    wave: str


@dataclass(frozen=True)
class PreparedPixels:
    """Description of a flow over pixels and its program."""

    flow: ExportedPixels
    masses: tuple[float, ...] | None  # of a marginal pixel transform
    program: PreparedProgram
    has_learned_inverse: bool


@dataclass(frozen=True)
class PreparedFeatures:
    """Description of flows over features; the program runs the backbone and the flows as one graph."""

    layout: FeatureLayout
    program: PreparedProgram


@dataclass(frozen=True)
class PreparedRecord:
    """Description of a density, of pixels, features or both, that scores without its trained flows."""

    pixels: PreparedPixels | None
    features: PreparedFeatures | None

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), allow_nan=False).encode()

    @classmethod
    def of_json(cls, content: bytes) -> PreparedRecord:
        """Raise ``ValueError`` for an invalid record, ``RecursionError`` for one nested too deeply."""
        record = from_json(cls, parse_json(content))
        if record.pixels is None and record.features is None:
            raise ValueError("expected pixels or features, got neither")
        return record


def record_of(opened: OpenedDensity) -> PreparedRecord | None:
    """Return the record; None for torch, a graph not in the cache, or an unknown pixel transform."""
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
    """Describe a flow over pixels; None unless its pixel transform is affine, logit or marginal."""
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
