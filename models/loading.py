"""The artifact: a folder with all that a model is, written once, verified at every load, never executed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from models.anomaly.calibration import Calibration
from models.anomaly.calibration_file import load_calibration
from models.artifacts.files import CALIBRATION, CARD, PINNED, SAMPLES, WEIGHTS
from models.artifacts.manifest import FILE, Manifest, file_label, read_manifest
from models.atomic_files import sha256_file
from models.errors import ArtifactError
from models.flows.build import build_flow
from models.flows.flow import Flow
from models.flows.no_init import NoRandomness
from models.scoring.frozen import layers_with_log_det


@dataclass(frozen=True)
class Artifact:
    """A verified artifact in memory: the flow in evaluation mode, its manifest, its calibration, its pinned images."""

    manifest: Manifest
    flow: Flow
    calibration: Calibration
    pinned: NDArray[np.uint8]


def load_artifact(folder: Path) -> Artifact:
    """Load and verify ``folder``: digests of all files, owner of the log-dets, names and shapes of the tensors.

    Raises ``ArtifactError`` that names the file at fault.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ArtifactError(f"{file_label(path)} is missing")
        if sha256_file(path) != digest:
            raise ArtifactError(f"{file_label(path)} does not have the SHA-256 that the manifest gives")
    for required in (WEIGHTS, CALIBRATION, PINNED):
        if required not in manifest.files:
            raise ArtifactError(f"{file_label(folder / FILE)} does not list {required}")
    if manifest.log_dets.weights_sha256 != manifest.files[WEIGHTS]:
        raise ArtifactError(f"{file_label(folder / FILE)}: the stored log-dets belong to other weights")
    architecture = manifest.architecture
    if architecture.image_shape != manifest.preprocessing.shape:
        raise ArtifactError(f"{file_label(folder / FILE)}: architecture and preprocessing differ in the image's shape")
    with NoRandomness():
        flow = build_flow(architecture)
    _fill(flow, _read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    layers = layers_with_log_det(flow, architecture.image_shape)
    if layers != manifest.log_dets.layers.keys():
        odd = ", ".join(sorted(layers ^ manifest.log_dets.layers.keys()))
        raise ArtifactError(f"{file_label(folder / FILE)}: the stored log-dets and the layers differ in {odd}")
    calibration = load_calibration(folder / CALIBRATION)
    return Artifact(manifest, flow.eval(), calibration, _read_pinned(folder / PINNED, architecture.image_shape))


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of an artifact whose other files lie in ``folder``, with their digests."""
    files = {name: sha256_file(folder / name) for name in (WEIGHTS, CALIBRATION, PINNED, CARD, SAMPLES)}
    (folder / FILE).write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=1))


def image_digest(image: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image's shape and pixels."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error


def _read_pinned(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        pinned: NDArray[np.uint8] = load_arrays(path)["images"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
    if pinned.dtype != np.uint8 or pinned.shape[1:] != shape or not len(pinned):
        raise ArtifactError(f"{file_label(path)}: expected images of {shape}, got {pinned.dtype} {pinned.shape}")
    return pinned


def _fill(flow: Flow, tensors: dict[str, Tensor], path: Path) -> None:
    expected = flow.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ArtifactError(f"{file_label(path)} lacks {name}")
        if name not in expected:
            raise ArtifactError(f"{file_label(path)} has {name}, which the architecture does not know")
        if tensors[name].shape != expected[name].shape:
            got, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
            raise ArtifactError(f"{file_label(path)}: {name} has shape {got}, expected {wanted}")
    flow.load_state_dict(tensors)
