"""The manifest of an exported model: a JSON file that describes its shapes, calibration and files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from snf_runtime.errors import ArtifactError
from snf_runtime.exported.json_values import from_json, parse_json
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.kinds import DensityKind, GraphPart, Precision, Shape
from snf_runtime.scoring.layout import FeatureLayout, LevelLayout

FILE = "manifest.json"
ARRAYS, CARD, NOTICE = "arrays.npz", "card.md", "NOTICE"
MAX_BYTES = 2**20

GraphFormat = Literal["openvino", "onnx"]
ENDINGS: dict[GraphFormat, tuple[str, ...]] = {"openvino": (".xml", ".bin"), "onnx": (".onnx",)}
"""Endings of the files of a graph, that of the file to open first."""


@dataclass(frozen=True)
class ExportedTransform:
    """Type and parameter of the pixel transform; the masses of type "marginal" are in ``arrays.npz``."""

    type: Literal["affine", "logit", "marginal"]
    alpha: float | None = None


@dataclass(frozen=True)
class ExportedPixels:
    """A flow over pixels."""

    transform: ExportedTransform
    levels: tuple[LevelLayout, ...]
    is_spatial: bool  # every layer keeps image locations apart
    outputs: tuple[tuple[GraphPart, int], ...]  # kind and level of each output of the graph, in order


@dataclass(frozen=True)
class ExportedFeatures:
    """A backbone and the flows over its features."""

    layout: FeatureLayout
    input_size: tuple[int, int]  # to which images or tiles are enlarged
    backbone: str
    license: str
    origin: str


@dataclass(frozen=True)
class ExportedCalibration:
    """The calibration, whose arrays are in ``arrays.npz``."""

    number: int  # 0 for the one that the model was published with
    dataset: str
    images: int
    smallest_p: float
    worst_deviation: float | None = None


@dataclass(frozen=True)
class ExportedPinned:
    """Results and tolerances, in nats, for the stored image in ``arrays.npz``, checked when a model is loaded."""

    log_likelihood: float
    tolerance: float
    statistic: float
    statistic_tolerance: float


@dataclass(frozen=True)
class ExportedFile:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportManifest:
    """Content of ``manifest.json``."""

    format_version: Literal[1]
    name: str
    version: int
    created: str  # ISO 8601
    kind: DensityKind
    format: GraphFormat
    precision: Precision
    weights_sha256: str  # keys the noise that is added to pixels
    preprocessing: Preprocessing
    pixels: ExportedPixels | None
    features: ExportedFeatures | None
    calibration: ExportedCalibration
    pinned: ExportedPinned
    files: dict[str, ExportedFile]  # every other file of the folder, by name

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of an image, or of a tile."""
        return self.preprocessing.shape

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, "pixels", "features" or both, which are those of the graphs."""
        return tuple(name for name in ("pixels", "features") if getattr(self, name) is not None)

    def graph(self, part: str) -> str:
        """Return the file name of a part's graph; of two files the one to open."""
        return part + ENDINGS[self.format][0]

    def expected_files(self) -> set[str]:
        """Return the names of all files of the folder but the manifest."""
        graphs = {part + ending for part in self.parts for ending in ENDINGS[self.format]}
        return {ARRAYS, CARD, NOTICE} | graphs

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def read_export_manifest(folder: Path) -> ExportManifest:
    """Read and check the manifest; ``ArtifactError`` says why it is missing, too large or not valid."""
    path = folder / FILE
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe would block for ever
            raise ArtifactError(f"{path}: expected a plain file, got a link, a pipe or a folder")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}: expected a folder of `snf export`") from error
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{path}: expected at most {MAX_BYTES} bytes, got more")
    try:
        manifest = from_json(ExportManifest, parse_json(content))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a valid manifest: {error}") from error
    if not manifest.parts:
        raise ArtifactError(f"{path} is not a valid manifest: it has neither pixels nor features")
    return manifest
