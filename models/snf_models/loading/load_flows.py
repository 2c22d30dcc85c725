"""Loading of trained flows, without executing code from the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file as load_tensors
from torch import Tensor

from snf_models.artifacts.files import WEIGHTS
from snf_models.artifacts.manifest import FILE, file_label
from snf_models.errors import ArtifactError, SamplesUnsupported
from snf_models.features.flows import HybridFlows, TrainedFlows, build_flows
from snf_models.flows.build import NoRandomness
from snf_models.flows.distribution import FlowDistribution
from snf_models.flows.flow import Flow
from snf_models.loading.verification import VerifiedModel, verify_model
from snf_models.scoring.open_density import layers_with_log_dets


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
