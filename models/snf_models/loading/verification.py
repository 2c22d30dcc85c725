"""Verification of a model's files by digests, and of its scores by the pinned image. Free of torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from snf_models.artifacts.files import (
    CALIBRATION,
    PINNED,
    WEIGHTS,
    cached_artifact,
    check_digest,
    image_digest,
    read_arrays,
)
from snf_models.artifacts.manifest import FILE, CalibrationSummary, Manifest, file_label, read_manifest
from snf_models.errors import ArtifactError
from snf_models.flows.architecture import FeatureArchitecture
from snf_models.locations.location import Location
from snf_models.registry.calibrations import RECORD, load_added_calibration, load_calibration
from snf_models.registry.registry import ModelVersion
from snf_models.scoring import EngineOptions
from snf_runtime.anomaly.calibration import Calibration

MAX_FETCHED_BYTES = 8 * 2**30
"""Most bytes of the files of a model that a process fetches. The process that began the scoring has verified them."""


@dataclass(frozen=True)
class ModelFiles:
    """Paths and options by which another process loads a model; a scorer is pickled as this alone."""

    path: Path
    calibration: Path | None  # folder of a later one; None for that of the artifact
    options: EngineOptions
    location: Location | None = None  # to fetch ``path`` from; None if all machines have it
    digest: str | None = None  # :func:`content_digest` that the files must have; None for any

    @classmethod
    def as_they_are(cls, path: Path, calibration: Path | None, options: EngineOptions) -> Self:
        """Return paths with the present digest, so that changed files are refused; raise ``ArtifactError``."""
        # A process that unpickles it may run in another folder.
        path, calibration = path.absolute(), calibration and calibration.absolute()
        return cls(path, calibration, options, digest=content_digest(path, calibration))

    def with_threads(self, threads: int | None) -> Self:
        return self if threads is None else replace(self, options=replace(self.options, threads=threads))

    def fetch(self) -> None:
        """Fetch missing files and check the digest; raise ``ArtifactError``."""
        if self.location is not None:
            cached = cached_artifact(self.location, self.path.parent, MAX_FETCHED_BYTES, check=lambda _folder: None)
            if cached != self.path:
                raise ArtifactError(f"{self.location} has another model than when the scoring began")
        if self.digest is None:
            return
        digest = content_digest(self.path, self.calibration)
        if digest != self.digest:
            raise ArtifactError(
                f"{file_label(self.path)} has changed: expected SHA-256 {self.digest} of its description, got {digest}"
            )


def content_digest(path: Path, calibration: Path | None) -> str:
    """Digest the manifest and the record of the calibration, which contain the digests of all other files."""
    content = hashlib.sha256()
    for described in [path / FILE] + ([] if calibration is None else [calibration / RECORD]):
        try:
            content.update(hashlib.sha256(described.read_bytes()).digest())
        except OSError as error:
            raise ArtifactError(f"{file_label(described)} cannot be read: {error.strerror}") from error
    return content.hexdigest()


STATISTIC_TOLERANCE = 0.05
"""Largest difference of a statistic T from its stored value in nats, up to T = 1000 and in proportion beyond."""
PINNED_TOLERANCE = 1e-3  # largest difference of a score from its stored value in nats, up to 784 dimensions
RELATIVE_TOLERANCE = 1e-6
"""Largest relative difference of a score, where that is more: sums in float32 of very unlikely images."""
SLACK = 2.0  # factor of the worst measured deviation that is added to the tolerances if the precision is not float32


@dataclass(frozen=True)
class VerifiedModel:
    """Manifest, calibration and test images of a model, without its flows."""

    manifest: Manifest
    calibration: Calibration
    pinned: NDArray[np.uint8]  # uint8 ``(n, C, H, W)``


def verify_model(folder: Path) -> VerifiedModel:
    """Check the digests of all files; raise ``ArtifactError``, which names the file."""
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        check_digest(folder / Path(name).name, digest)
    for required in (WEIGHTS, CALIBRATION, PINNED):
        if required not in manifest.files:
            raise ArtifactError(f"{file_label(folder / FILE)} does not list {required}")
    if manifest.log_dets.weights_sha256 != manifest.files[WEIGHTS]:
        raise ArtifactError(f"{file_label(folder / FILE)}: the stored log-dets belong to other weights")
    architecture = manifest.architecture
    if architecture.image_shape != manifest.preprocessing.shape:
        raise ArtifactError(
            f"{file_label(folder / FILE)}: the architecture and the preprocessing have images of different shapes"
        )
    if (isinstance(architecture, FeatureArchitecture) and architecture.tiled) != manifest.preprocessing.tiled:
        raise ArtifactError(
            f"{file_label(folder / FILE)}: only one of the architecture and the preprocessing is of tiles"
        )
    calibration = load_calibration(folder / CALIBRATION)
    pinned = _read_pinned(folder / PINNED, architecture.image_shape)
    if image_digest(pinned[0]) != manifest.pinned.image_sha256:
        raise ArtifactError(f"{file_label(folder)}: the pinned image is not the one that the manifest names")
    return VerifiedModel(manifest, calibration, pinned)


def load_calibration_of(version: ModelVersion) -> Calibration:
    """Load the calibration of a version without its weights; raise ``ArtifactError``."""
    manifest = version.manifest
    if version.calibration_path is not None:
        return load_added_calibration(version.calibration_path, manifest.log_dets.weights_sha256)[0]
    path = version.path / CALIBRATION
    check_digest(path, manifest.files.get(CALIBRATION))
    return load_calibration(path)


def exact_tolerance(dimensions: int, log_likelihood: float) -> float:
    """Return the largest error of a log-likelihood in float32, in nats, against float64.

    >>> exact_tolerance(28 * 28, -900.0), exact_tolerance(28 * 28, -126523.0)
    (0.001, 0.126523)
    """
    absolute = PINNED_TOLERANCE if dimensions <= 784 else 1e-5 * dimensions
    return max(absolute, RELATIVE_TOLERANCE * abs(log_likelihood))


def score_tolerance(dimensions: int, log_likelihood: float, summary: CalibrationSummary) -> float:
    """Return the largest error of a log-likelihood, in nats, in the precision of a calibration."""
    worst = 0.0 if summary.deviation is None else summary.deviation.worst
    return exact_tolerance(dimensions, log_likelihood) + SLACK * worst


def check_pinned_score(folder: Path, log_likelihood: float, manifest: Manifest, tolerance: float) -> None:
    """Raise ``ArtifactError`` if the score differs from the stored one by more than ``tolerance`` nats."""
    expected = manifest.pinned.log_likelihood
    if not abs(log_likelihood - expected) <= tolerance:
        raise ArtifactError(
            f"{file_label(folder)}: the pinned image scores {log_likelihood:.6f} nats, stored are {expected:.6f}"
        )


def check_pinned_statistic(path: Path, statistic: float, summary: CalibrationSummary) -> None:
    """Raise ``ArtifactError`` if the statistic differs by more than :func:`statistic_tolerance`."""
    expected = summary.pinned_statistic
    if not abs(statistic - expected) <= statistic_tolerance(expected, summary):
        raise ArtifactError(
            f"{file_label(path)}: the statistic of the pinned image is {statistic:.4f}, stored is {expected:.4f}"
        )


def statistic_tolerance(statistic: float, summary: CalibrationSummary) -> float:
    """Return by how many nats the statistic of the pinned image may differ from the stored one."""
    worst = 0.0 if summary.deviation is None else summary.deviation.worst_statistic
    return STATISTIC_TOLERANCE * max(1, abs(statistic) / 1000) + SLACK * worst


def check_precision(path: Path, precision: str, summary: CalibrationSummary) -> None:
    """Raise ``ArtifactError`` if the calibration ``path`` is for another precision."""
    if summary.precision != precision:
        raise ArtifactError(
            f"{file_label(path)} is for {summary.precision}, the engine computes in {precision}: create a calibration "
            f"for {precision}"
        )


def _read_pinned(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        pinned: NDArray[np.uint8] = read_arrays(path)["images"]
    except KeyError as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error
    if pinned.dtype != np.uint8 or pinned.shape[1:] != shape or not len(pinned):
        raise ArtifactError(f"{file_label(path)}: expected images of {shape}, got {pinned.dtype} {pinned.shape}")
    return pinned
