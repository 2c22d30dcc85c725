"""Metadata of the service and its models in the form of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence

from app.health.version import package_version
from app.inference_protocol.image_tensor import INPUT, INPUT_TYPE, image_shape
from app.inference_protocol.output_tensors import OUTPUT_TYPE, OUTPUTS
from app.inference_protocol.schemas import ModelMetadata, ModelParameters, ServerMetadata, TensorMetadata
from models.registry.version import ModelVersion
from snf_runtime.anomaly.conformal import default_alpha

NAME = "snf-density"
PLATFORM = "snf_density"
EXTENSIONS = ("binary_tensor_data",)


def server_metadata() -> ServerMetadata:
    """Return the service's name, version and supported extensions of the Open Inference Protocol."""
    return ServerMetadata(name=NAME, version=package_version(), extensions=list(EXTENSIONS))


def metadata_of(version: ModelVersion, versions: Sequence[int]) -> ModelMetadata:
    """Return the metadata of a model version: its input and output tensors, and the meaning of its scores.

    The manifest is read from disk.

    Args:
        version: The version.
        versions: The numbers of all versions of the model.

    Raises:
        ArtifactError: The model is damaged.
    """
    manifest, calibration = version.manifest, version.calibration_summary
    shape = image_shape(manifest.preprocessing)
    return ModelMetadata(
        name=version.name,
        versions=[str(number) for number in versions],
        platform=PLATFORM,
        inputs=[TensorMetadata(name=INPUT, datatype=INPUT_TYPE, shape=shape)],
        outputs=[
            TensorMetadata(name=name, datatype=OUTPUT_TYPE, shape=[-1], parameters={"unit": unit})
            for name, unit in OUTPUTS.items()
        ],
        parameters=ModelParameters(
            kind=manifest.architecture.kind,
            version=version.version,
            calibration=version.calibration,
            smallest_p=calibration.smallest_p,
            default_alpha=default_alpha(calibration.smallest_p),
        ),
    )
