from __future__ import annotations

from collections.abc import Sequence

from snf_app.health.version import package_version
from snf_app.inference_protocol.image_tensor import INPUT, INPUT_TYPE, image_shape
from snf_app.inference_protocol.output_tensors import OUTPUT_TYPE, OUTPUTS
from snf_app.inference_protocol.schemas import ModelMetadata, ModelParameters, ServerMetadata, TensorMetadata
from snf_models.registry.version import ModelVersion
from snf_runtime.anomaly.conformal import default_alpha

NAME = "snf-density"
PLATFORM = "snf_density"
EXTENSIONS = ("binary_tensor_data",)


def server_metadata() -> ServerMetadata:
    return ServerMetadata(name=NAME, version=package_version(), extensions=list(EXTENSIONS))


def metadata_of(version: ModelVersion, versions: Sequence[int]) -> ModelMetadata:
    """Return the tensors and the meaning of scores of a version, read from disk; raise ``ArtifactError``."""
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
