"""Trained flows in memory: loading without executing code from files, sampling and calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from snf_models.anomaly.calibrate import Progress, calibrate
from snf_models.anomaly.reference_images import ReferenceImages
from snf_models.artifacts.files import WEIGHTS
from snf_models.artifacts.manifest import FILE, CalibrationSummary, Precision, file_label
from snf_models.errors import ArtifactError, SamplesUnsupported
from snf_models.features.flows import FrozenFeatureFlows, HybridFlows, TrainedFlows, build_flows
from snf_models.flows.build import NoRandomness
from snf_models.flows.distribution import FlowDistribution
from snf_models.flows.flow import Flow
from snf_models.loading.verification import VerifiedModel, verify_model
from snf_models.scoring import EngineOptions
from snf_models.scoring.frozen import Sampler
from snf_models.scoring.open_density import (
    FlowDensity,
    OpenVINOEngine,
    frozen_features,
    frozen_pixels,
    layers_with_log_dets,
    open_density,
)
from snf_runtime.anomaly.calibration import Calibration
from snf_runtime.scoring.density import ImageDensity
from snf_runtime.scoring.feature_density import parts_of
from snf_runtime.scoring.openvino_engine import OpenVINOFlow


@dataclass(frozen=True)
class Artifact(VerifiedModel):
    """A verified model with its trained flows in evaluation mode."""

    flow: TrainedFlows


def load_artifact(folder: Path) -> Artifact:
    """Load a model with its trained flows from its folder, after checking file digests and tensor shapes.

    Args:
        folder: The folder of the artifact.

    Raises:
        ArtifactError: A file is missing or damaged; the text names it.
    """
    return load_flows(verify_model(folder), folder)


def load_flows(model: VerifiedModel, folder: Path) -> Artifact:
    """Load the flows of a verified model; raise ``ArtifactError`` where tensors do not fit the architecture."""
    manifest = model.manifest
    architecture = manifest.architecture
    try:
        with NoRandomness():
            flow = build_flows(architecture)
    except ValueError as error:
        raise ArtifactError(f"{file_label(folder / FILE)}: the architecture cannot be built: {error}") from error
    _fill(flow, _read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    layers = layers_with_log_dets(flow, architecture)
    if layers != manifest.log_dets.layers.keys():
        differing = ", ".join(sorted(layers ^ manifest.log_dets.layers.keys()))
        raise ArtifactError(f"{file_label(folder / FILE)}: the stored log-dets and the layers differ in {differing}")
    return Artifact(manifest, model.calibration, model.pinned, flow.eval())


def load_distribution(folder: Path) -> FlowDistribution:
    """Load the flow over pixels of a model as a PyTorch distribution of images.

    The distribution is of dequantised images.

    It is in evaluation mode and in float32. :meth:`double` makes it as precise as the scores of the model.

    Args:
        folder: The folder of the artifact.

    Raises:
        ArtifactError: A file is missing or damaged; the text names it.
        SamplesUnsupported: The model is one of features alone.
    """
    artifact = load_artifact(folder)
    flow = artifact.flow.pixels if isinstance(artifact.flow, HybridFlows) else artifact.flow
    if not isinstance(flow, Flow):
        raise SamplesUnsupported("it is a density of features, which have no way back to pixels")
    return FlowDistribution(flow, artifact.manifest.architecture.image_shape).eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file_label(path)} cannot be read: {error}") from error


def _fill(flow: TrainedFlows, tensors: dict[str, Tensor], path: Path) -> None:
    expected = flow.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ArtifactError(f"{file_label(path)} lacks {name}")
        if name not in expected:
            raise ArtifactError(f"{file_label(path)} has {name}, which the architecture does not have")
        if tensors[name].shape != expected[name].shape:
            got, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
            raise ArtifactError(f"{file_label(path)}: {name} has shape {got}, expected {wanted}")
    flow.load_state_dict(tensors)


class LoadedFlows:
    """Model with its trained flows in memory, for sampling and calibration."""

    def __init__(self, artifact: Artifact, options: EngineOptions, density: ImageDensity | None = None) -> None:
        self.flows = artifact.flow
        self._manifest = artifact.manifest
        self._pinned = artifact.pinned
        self._options = options
        self.density = density or self._density_in(options.precision)

    @cached_property
    def pixels(self) -> FlowDensity | None:
        """The density over pixels by the trained flow; None for a model of features alone."""
        pixels, _ = parts_of(self.density)
        if pixels is None or isinstance(pixels, FlowDensity):
            return pixels
        # It was opened without its flow. Both run the same compiled graphs.
        frozen, program = (
            frozen_pixels(self.flows, self._manifest.architecture, self._manifest.log_dets.layers),
            pixels.engine,
        )
        assert frozen is not None
        assert isinstance(program, OpenVINOFlow)
        engine = OpenVINOEngine(
            frozen.with_precision(pixels.precision),
            self._options.threads,
            self._options.cache,
            program.outputs,
            program.plan,
            program.single,
            lambda: program.parallel,
        )
        return FlowDensity(engine, frozen, pixels.weights_digest)

    @cached_property
    def features(self) -> FrozenFeatureFlows | None:
        """The frozen flows over features; None for a model of pixels alone."""
        _, features = parts_of(self.density)
        if features is not None and isinstance(features.flows, FrozenFeatureFlows):
            return features.flows
        return frozen_features(self.flows, self._manifest.log_dets.layers)

    @cached_property
    def sampler(self) -> Sampler:
        """Sampler of images; raises ``SamplesUnsupported`` for a model of features alone."""
        if self.pixels is None:
            raise SamplesUnsupported("it is a density of features, which have no way back to pixels")
        return Sampler(self.pixels.engine, self.pixels.frozen, self._options.threads)

    def calibrate(
        self, reference: ReferenceImages, progress: Progress, precision: Precision
    ) -> tuple[Calibration, CalibrationSummary]:
        """Calibrate as :meth:`snf_models.scorer.Scorer.calibrate`."""
        density = self._density_in(precision)
        precise = None if precision == "float32" else self._density_in("float32")
        return calibrate(density, reference, self._pinned[0], progress, precise=precise)

    def _density_in(self, precision: Precision | None) -> ImageDensity:
        if precision is not None and "density" in vars(self) and precision == self.density.precision:
            return self.density
        manifest, options = self._manifest, replace(self._options, precision=precision)
        digest = manifest.log_dets.weights_sha256
        return open_density(self.flows, manifest.architecture, manifest.log_dets.layers, digest, options)
