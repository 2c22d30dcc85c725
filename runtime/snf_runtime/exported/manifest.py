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
"""Most bytes of a manifest."""

GraphFormat = Literal["openvino", "onnx"]
ENDINGS: dict[GraphFormat, tuple[str, ...]] = {"openvino": (".xml", ".bin"), "onnx": (".onnx",)}
"""Endings of the files of a graph, that of the file to open first."""


@dataclass(frozen=True)
class ExportedTransform:
    """Type and parameter of the pixel transform: the function that a flow first applies to each pixel value.

    For type "marginal", ``arrays.npz`` holds the probability masses.
    """

    type: Literal["affine", "logit", "marginal"]
    alpha: float | None = None


@dataclass(frozen=True)
class ExportedPixels:
    """Description of an exported pixel flow, for computing log-likelihoods from the outputs of its graph.

    Attributes:
        transform: The pixel transform.
        levels: The layout of its levels.
        is_spatial: Whether every layer keeps image locations apart.
        outputs: Kind and level of each output of the graph, in order.
    """

    transform: ExportedTransform
    levels: tuple[LevelLayout, ...]
    is_spatial: bool
    outputs: tuple[tuple[GraphPart, int], ...]


@dataclass(frozen=True)
class ExportedFeatures:
    """Description of an exported backbone network, and of the flows that score the network's features.

    Attributes:
        layout: The layout of the flows.
        input_size: Height and width to which images or tiles are enlarged for the backbone.
        backbone: Name of the backbone.
        license: Licence of its weights.
        origin: Where its weights come from.
    """

    layout: FeatureLayout
    input_size: tuple[int, int]
    backbone: str
    license: str
    origin: str


@dataclass(frozen=True)
class ExportedCalibration:
    """Description of an exported model's calibration: dataset, image count and smallest possible p-value.

    Its arrays are in ``arrays.npz``.

    Attributes:
        number: Its number; 0 is the one that the model was published with.
        dataset: Name of the dataset of its images.
        images: The number of calibration images.
        smallest_p: The smallest p-value that an image can get.
        worst_deviation: Where the precision is not float32: the largest measured difference of a log-likelihood, nats.
    """

    number: int
    dataset: str
    images: int
    smallest_p: float
    worst_deviation: float | None = None


@dataclass(frozen=True)
class ExportedPinned:
    """Expected results for the stored test image, with which an exported model is checked when it is loaded.

    They are its log-likelihood and its anomaly statistic at export, with their tolerances, in nats. The image is in
    ``arrays.npz``.
    """

    log_likelihood: float
    tolerance: float
    statistic: float
    statistic_tolerance: float


@dataclass(frozen=True)
class ExportedFile:
    """Size in bytes and SHA-256 digest of one file of an exported model."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportManifest:
    """Content of an exported model's ``manifest.json``: name, image shape, calibration and file digests.

    Attributes:
        format_version: Version of the folder's format.
        name: Name of the model.
        version: Its version.
        created: When it was exported, ISO 8601.
        kind: What its log-likelihoods are densities of.
        format: The format of its graphs.
        precision: Arithmetic of the middle convolutions of the coupling networks.
        weights_sha256: SHA-256 of the model's weights, which keys the noise that is added to pixels.
        preprocessing: Shape of the images, and how other sizes and colours are treated.
        pixels: The flow over pixels, or None.
        features: The flows over features, or None.
        calibration: The calibration.
        pinned: The stored image.
        files: Every other file of the folder, by name.
    """

    format_version: Literal[1]
    name: str
    version: int
    created: str
    kind: DensityKind
    format: GraphFormat
    precision: Precision
    weights_sha256: str
    preprocessing: Preprocessing
    pixels: ExportedPixels | None
    features: ExportedFeatures | None
    calibration: ExportedCalibration
    pinned: ExportedPinned
    files: dict[str, ExportedFile]

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of a model input: an image, or a tile if images are cut into tiles."""
        return self.preprocessing.shape

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts of the model: "pixels", "features" or both.

        They are the names of the graphs, without ending.
        """
        return tuple(name for name in ("pixels", "features") if getattr(self, name) is not None)

    def graph(self, part: str) -> str:
        """Return the file name of a model part's network graph, such as ``pixels.onnx`` for the part ``pixels``.

        Where a graph has two files, it is the one to open.
        """
        return part + ENDINGS[self.format][0]

    def expected_files(self) -> set[str]:
        """Return the names of all files that an exported model's folder must have, except the manifest."""
        graphs = {part + ending for part in self.parts for ending in ENDINGS[self.format]}
        return {ARRAYS, CARD, NOTICE} | graphs

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False)


def read_export_manifest(folder: Path) -> ExportManifest:
    """Read and check the ``manifest.json`` that describes an exported model, from the model's folder.

    Raises:
        ArtifactError: It is missing, too large or not valid; the text says why.
    """
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
