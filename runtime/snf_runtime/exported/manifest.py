"""The manifest of an exported model, and checks of its values."""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from snf_runtime.errors import ArtifactError
from snf_runtime.images.preprocessing import Preprocessing
from snf_runtime.scoring.layout import DensityKind, FeatureLayout, GraphPart, LevelLayout, Precision, Shape

T = TypeVar("T")


def parse_json(content: bytes) -> object:
    """Parse JSON; raise ``ValueError`` for duplicate keys, NaN, Infinity, and ``RecursionError`` for deep nesting."""
    return json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"expected finite numbers, got {name}")


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"expected {twice!r} once in its object, got it {names.count(twice)} times")
    return values


def from_json(kind: type[T], value: object, where: str = "") -> T:
    """Convert parsed JSON to a dataclass, with checks of types; ``ValueError`` names the place, below ``where``."""
    result: T = _object(kind, value, where)
    return result


def _value(hint: Any, value: object, where: str) -> Any:
    options, origin = get_args(hint), get_origin(hint)
    if origin is UnionType:
        return None if value is None else _value(options[0], value, where)
    if origin is Literal:
        # Types too: 1, 1.0 and true are equal.
        if not any(type(value) is type(option) and value == option for option in options):
            raise ValueError(f"expected {where} to be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin is tuple:
        return _tuple(options, value, where)
    if origin is dict:
        items = _of_type(dict, value, where).items()
        return {name: _value(options[1], item, f"{where}/{name}") for name, item in items}
    if is_dataclass(hint):
        return _object(hint, value, where)
    return _number(value, where) if hint is float else _of_type(hint, value, where)


def _number(value: object, where: str) -> float:
    try:
        number = _of_type(float, float(value) if type(value) is int else value, where)
    except OverflowError as error:
        raise ValueError(f"expected {where} to be a number that a float can hold, got a larger one") from error
    if not math.isfinite(number):
        raise ValueError(f"expected {where} to be a finite number, got {number}")
    return number


def _object(kind: Any, value: object, where: str) -> Any:
    given = _of_type(dict, value, where)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"expected no {unknown[0]!r} in {where or 'the file'}")
    hints = get_type_hints(kind)
    values = {}
    for name, field in known.items():
        if name in given:
            values[name] = _value(hints[name], given[name], f"{where}/{name}".lstrip("/"))
        elif field.default is MISSING:
            raise ValueError(f"expected {name!r} in {where or 'the file'}")
    return kind(**values)


def _tuple(options: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _of_type(list, value, where)
    kinds = options[:1] * len(items) if options[-1] is Ellipsis else options
    if len(kinds) != len(items):
        raise ValueError(f"expected {len(kinds)} values in {where}, got {len(items)}")
    return tuple(_value(kind, item, f"{where}/{i}") for i, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _of_type(kind: type[T], value: object, where: str) -> T:
    # Not ``isinstance``: true is no number.
    if type(value) is not kind:
        raise ValueError(f"expected {where or 'the file'} to be of type {kind.__name__}, got {type(value).__name__}")
    return value


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


OutputShape = tuple[int | None, ...]
"""Shape of an output of a graph for one image; None where the manifest does not give a side."""
MAX_INPUT, MAX_CHANNELS = 4096, 2**20  # largest side of the input of a backbone, and most channels of its features
POOLED_GROUPS = 2
DIGEST = re.compile("[0-9a-f]{64}")
MAX_STATISTIC_DIFFERENCE = 10.0  # largest tolerance of a statistic in nats, beside a tenth of the statistic


def check_layout(manifest: ExportManifest) -> None:
    """Raise ``ArtifactError`` unless the values and shapes in the manifest are valid and fit each other."""
    try:
        _check_values(manifest)
        if manifest.pixels is not None:
            _check_levels(manifest.pixels, manifest.image_shape)
            _check_outputs(manifest.pixels)
        if manifest.features is not None:
            _check_features(manifest.features, manifest)
    except ValueError as error:
        raise ArtifactError(f"the parts of {FILE} do not fit each other: {error}") from error


def pixel_outputs(pixels: ExportedPixels) -> dict[tuple[GraphPart, int], OutputShape]:
    """Return the shape for one image of each output of a graph over pixels, by kind and level, in order."""
    shapes: dict[tuple[GraphPart, int], OutputShape] = {}
    for part, number in pixels.outputs:
        level = pixels.levels[number]
        if part == "latent":
            assert level.latent_shape is not None
            shapes[part, number] = (1, *level.latent_shape)
        elif part == "reconstruction-errors":
            shapes[part, number] = (1, len(level.reconstruction_sizes))
        else:
            shapes[part, number] = (1, None, *level.size)
    return shapes


def feature_outputs(features: ExportedFeatures) -> dict[tuple[GraphPart, int], OutputShape]:
    """Return the shape for one image of each output of a graph over features, by kind and 0, in order."""
    _, rows, columns = features.layout.feature_shape
    return {("places", 0): (1, None, rows, columns), ("pooled", 0): (1, None, POOLED_GROUPS)}


def _check_values(manifest: ExportManifest) -> None:
    kind = "density" if manifest.pixels is not None else "feature_density"
    if manifest.kind != kind:
        raise ValueError(f"expected the kind {kind} of {' and '.join(manifest.parts)}, got {manifest.kind}")
    if manifest.pixels is not None and manifest.preprocessing.tiled:
        raise ValueError("expected no tiles with a flow over pixels, got fit tiles")
    if not DIGEST.fullmatch(manifest.weights_sha256):
        raise ValueError(f"expected 64 hexadecimal digits in weights_sha256, got {manifest.weights_sha256[:80]!r}")
    shape = (
        manifest.image_shape if manifest.features is None or manifest.pixels else manifest.features.layout.feature_shape
    )
    pinned = manifest.pinned
    for name, value, most in (
        ("tolerance", pinned.tolerance, 1 + math.prod(shape) / 100),
        ("statistic_tolerance", pinned.statistic_tolerance, MAX_STATISTIC_DIFFERENCE + abs(pinned.statistic) / 10),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"expected pinned/{name} to be from 0 to {most:g} nats, got {value:g}")


def _check_levels(pixels: ExportedPixels, image_shape: Shape) -> None:
    channels, height, width = image_shape
    for number, level in enumerate(pixels.levels):
        where, size = f"pixels/levels/{number}", level.size
        # A level starts with squeezes, which turn pixels into channels, and keeps its size afterwards.
        if min(size) < 1 or height % size[0] or width % size[1]:
            raise ValueError(f"expected {where}/size to divide {(height, width)}, got {size}")
        channels, (height, width) = channels * (height // size[0]) * (width // size[1]), size
        if not 0 <= level.kept <= channels:
            raise ValueError(f"expected {where}/kept to be from 0 to {channels}, got {level.kept}")
        latents = (channels - level.kept, height, width) if level.kept < channels else None
        if level.latent_shape != latents:
            raise ValueError(f"expected {where}/latent_shape to be {latents}, got {level.latent_shape}")
        channels = level.kept
    if channels:
        raise ValueError(f"expected the last of pixels/levels to keep 0 channels, got {channels}")


def _check_outputs(pixels: ExportedPixels) -> None:
    expected: set[tuple[GraphPart, int]] = set()
    for number, level in enumerate(pixels.levels):
        if level.latent_shape is not None:
            expected.add(("latent", number))
        if level.has_prior:
            expected.add(("prior-log-slopes", number))
        if level.reconstruction_sizes:
            expected.add(("reconstruction-errors", number))
    optional: set[tuple[GraphPart, int]] = {("log-slopes", number) for number in range(len(pixels.levels))}
    given = set(pixels.outputs)
    if len(given) < len(pixels.outputs):
        raise ValueError("expected each of pixels/outputs once, got one twice")
    for part, number in sorted(expected - given):
        raise ValueError(f"expected {part} of level {number} in pixels/outputs")
    for part, number in sorted(given - expected - optional):
        raise ValueError(f"expected no {part} of level {number} in pixels/outputs")


def _check_features(features: ExportedFeatures, manifest: ExportManifest) -> None:
    channels, rows, columns = features.layout.feature_shape
    if not all(1 <= side <= MAX_INPUT for side in features.input_size):
        raise ValueError(f"expected features/input_size to be from 1 to {MAX_INPUT}, got {features.input_size}")
    if not (
        1 <= channels <= MAX_CHANNELS and 1 <= rows <= features.input_size[0] and 1 <= columns <= features.input_size[1]
    ):
        raise ValueError(
            f"expected features/layout/feature_shape to have 1 to {MAX_CHANNELS} channels and at most as many places "
            f"as features/input_size has pixels, got {features.layout.feature_shape}"
        )
    side = manifest.preprocessing.height
    if manifest.preprocessing.tiled and (rows != columns or rows > side or side % (side // rows)):
        raise ValueError(
            f"expected rows and columns of places that divide tiles of {side} pixels evenly, got {rows}x{columns}"
        )
