"""Prepared densities: files by which a model opens from cached compiled graphs, without torch and its flows."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

import snf_runtime
from snf_models.artifacts.manifest import Manifest
from snf_models.features.backbones import DEFAULT_FOLDER, BackboneStore
from snf_models.flows.architecture import features_of
from snf_models.scoring import EngineOptions
from snf_models.scoring.cache import CompiledCache, note_use, read_cached, write_cached
from snf_models.threads import thread_count
from snf_runtime.exported.content import pixel_function
from snf_runtime.exported.manifest import ExportedPixels, ExportedTransform, from_json, parse_json
from snf_runtime.parallelism import BatchPlan
from snf_runtime.scoring.density import ImageDensity, TiledEngine
from snf_runtime.scoring.feature_density import FeatureDensity, joined_density, parts_of
from snf_runtime.scoring.layout import (
    AffineFunction,
    FeatureLayout,
    FlowLayout,
    LevelLayout,
    LogitFunction,
    MarginalFunction,
)
from snf_runtime.scoring.openvino_engine import (
    FEATURE_OUTPUTS,
    CompiledGraph,
    OpenVINOFeatures,
    OpenVINOFlow,
    Outputs,
    Program,
    core,
    ov,
)
from snf_runtime.scoring.pixel_density import PixelDensity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedProgram:
    """Names of the compiled graphs for one image and for many, with the plan of their batches."""

    plan: BatchPlan
    single: str
    parallel: str


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


def record_of(density: ImageDensity) -> PreparedRecord | None:
    """Return the record; None for torch, a graph not in the cache, or an unknown pixel transform."""
    pixels, features = parts_of(density)
    of_pixels = of_features = None
    if pixels is not None:
        program = _prepared(pixels.engine)
        flow = None if program is None else described_pixels(pixels.frozen, program[0])
        if program is None or flow is None:
            return None
        function = pixels.frozen.pixel_function
        masses = tuple(function.masses.tolist()) if isinstance(function, MarginalFunction) else None
        of_pixels = PreparedPixels(flow, masses, program[1], pixels.frozen.has_learned_inverse)
    if features is not None:
        program = _prepared(features.engine)
        if program is None:
            return None
        layout = FeatureLayout(features.flows.feature_shape, features.flows.constant_log_det)
        of_features = PreparedFeatures(layout, program[1])
    return PreparedRecord(of_pixels, of_features)


def _prepared(engine: TiledEngine) -> tuple[Outputs, PreparedProgram] | None:
    if not isinstance(engine, Program) or engine.parallel is None:
        return None
    single, parallel = engine.single.name, engine.parallel.name
    if single is None or parallel is None:
        return None
    return engine.outputs, PreparedProgram(engine.plan, single, parallel)


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


class GraphLost(LookupError):
    """Raised if a compiled graph that a record names cannot be loaded from the cache."""


MODELS, RUNTIME = Path(__file__).parents[1], Path(snf_runtime.__file__).parent
SOURCES = (
    *(MODELS / name for name in ("bijections", "features", "flows", "loading", "scoring")),
    *(RUNTIME / name for name in ("exported", "scoring")),
)
"""Folders with the source code that makes graphs and layouts from weights."""


class PreparedFile:
    """Cache file by which a model opens without its flows, for one precision, number of threads and processor.

    It is named by a digest of what made it: model, software, processor.
    """

    def __init__(self, manifest: Manifest, options: EngineOptions) -> None:
        """Name the file, which need not exist, for options with a cache and a precision."""
        assert options.cache is not None
        assert options.precision is not None
        self._manifest, self._options, self._precision = manifest, options, options.precision
        self._threads, self._compiled = thread_count(options.threads), CompiledCache(options.cache)
        made_from = (manifest.model_dump_json(), options.precision, self._threads, *_made_by())
        self.path = options.cache / f"{hashlib.sha256(repr(made_from).encode()).hexdigest()[:32]}.density"

    def open(self) -> ImageDensity | None:
        """Open the density, or log why not and return None; raise ``BackboneMissing`` if that is not installed."""
        content = read_cached(self.path)
        if content is None:
            return None
        if (features := features_of(self._manifest.architecture)) is not None:
            # Its weights are in the compiled graph. A model without its backbone is refused as ever.
            store = BackboneStore(self._options.backbones or DEFAULT_FOLDER)
            store.by_digest(features.backbone, features.backbone_sha256)
        try:
            return self._density(PreparedRecord.of_json(content))
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            self.discard(str(error))
            return None

    def keep(self, density: ImageDensity) -> None:
        """Write how to reopen a density, unless torch computes a part or a graph is not in the cache."""
        record = record_of(density)
        if record is None:
            return
        programs = [part.program for part in (record.pixels, record.features) if part is not None]
        paths = [self._compiled.path(name) for program in programs for name in (program.single, program.parallel)]
        try:
            stored = all(path.is_file() for path in paths)
        except OSError as error:
            log.warning("the prepared density %s cannot be stored: %s", self.path.name, error.strerror)
            return
        # Graphs that could not be stored, which the log says, are compiled again anyway.
        if stored:
            write_cached(self.path, record.to_json())

    def discard(self, reason: str) -> None:
        """Delete the file and log why: the density must be opened from its flows."""
        log.warning("the prepared density %s is not used and is made again: %s", self.path.name, reason)
        self._remove()

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the prepared density %s cannot be deleted: %s", self.path.name, error.strerror)

    def _density(self, record: PreparedRecord) -> ImageDensity:
        """Raise ``GraphLost`` for a missing or damaged graph, ``ValueError`` if the record does not fit the model."""
        pixels = None if record.pixels is None else self._pixels(record.pixels)
        features = None if record.features is None else self._features(record.features)
        return joined_density(pixels, features)

    def _pixels(self, record: PreparedPixels) -> PixelDensity:
        masses = None if record.masses is None else np.array(record.masses)
        layout = FlowLayout(
            self._manifest.architecture.image_shape,
            pixel_function(record.flow.transform, masses),
            record.flow.levels,
            record.flow.is_spatial,
            self._precision,
            record.has_learned_inverse,
        )
        engine = OpenVINOFlow(layout, record.flow.outputs, *self._graphs(record.program))
        return PixelDensity(engine, layout, self._manifest.log_dets.weights_sha256)

    def _features(self, record: PreparedFeatures) -> FeatureDensity:
        architecture = features_of(self._manifest.architecture)
        if architecture is None:
            raise ValueError("expected a model with features, got one without")
        return FeatureDensity(
            OpenVINOFeatures(FEATURE_OUTPUTS, *self._graphs(record.program)),
            record.layout,
            self._manifest.log_dets.weights_sha256,
            architecture.image_shape,
            architecture.input_size,
            architecture.tiled,
        )

    def _graphs(self, record: PreparedProgram) -> tuple[BatchPlan, CompiledGraph, Callable[[], CompiledGraph | None]]:
        threads, plan = self._threads, record.plan
        if plan.parallel_requests != threads:
            raise ValueError(f"expected a program for {threads} threads, got one for {plan.parallel_requests}")
        single = self._graph(record.single, 1)
        if record.parallel == record.single:
            return plan, single, lambda: single
        if not plan.is_equal_alone:
            parallel = self._graph(record.parallel, threads)
            return plan, single, lambda: parallel
        path = self._compiled.path(record.parallel)
        try:
            path.stat()
        except OSError as error:
            raise GraphLost(f"the compiled graph {record.parallel} cannot be used: {error.strerror}") from error
        note_use(path)
        # Half of the time to open a program: a few images do without.
        return plan, single, lambda: self._parallel_graph(record.parallel)

    def _parallel_graph(self, name: str) -> CompiledGraph | None:
        try:
            return self._graph(name, self._threads)
        except (GraphLost, RuntimeError) as error:
            log.warning("images are scored one by one until the model is loaded again, which is slower: %s", error)
            self._remove()
            return None

    def _graph(self, name: str, parallel_requests: int) -> CompiledGraph:
        compiled = self._compiled.stored(name, parallel_requests, self._threads)
        if compiled is None:
            raise GraphLost(f"the compiled graph {name} cannot be used")
        return compiled


@cache
def _made_by() -> tuple[str, ...]:
    """Return what else graphs depend on: versions of libraries, the processor, and our own source code."""
    libraries = version("torch"), version("numpy"), ov.get_version()
    return (*libraries, *_processor(), os.environ.get("ATEN_CPU_CAPABILITY", ""), CODE)


def _processor() -> tuple[str, ...]:
    """Return the name of the processor and its instructions: virtual machines give different ones the same name."""
    described = (str(core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return (*described, flags)


def code_digest() -> str:
    """Return the SHA-256 of the source code that makes graphs and layouts from weights."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted(folder.rglob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


CODE = code_digest()  # that of the code of this process, which an update of the files does not change
