"""Endpoints of the Open Inference Protocol, and their description in OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from snf_app import package_version
from snf_app.health.endpoints import readiness_of
from snf_app.http.admission import TimeoutMs
from snf_app.http.errors import PREFIX, error_answer
from snf_app.http.openapi import REFERENCE, binary
from snf_app.http.router import Router
from snf_app.inference_protocol import service
from snf_app.inference_protocol.service import INPUT, INPUT_TYPE, OUTPUT_TYPE, OUTPUTS, image_shape
from snf_app.registry.model_pool import ModelPool, ModelState
from snf_app.state import DrainingDep, FairQueueDep, ModelPoolDep, RegistryDep, ScoringServiceDep, SettingsDep
from snf_client.schemas.inference import (
    InferAnswer,
    InferRequest,
    ModelMetadata,
    ModelParameters,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from snf_models.registry.registry import ModelVersion, Registry
from snf_runtime.anomaly.calibration import default_alpha


def metadata_of(version: ModelVersion, versions: Sequence[int]) -> ModelMetadata:
    """Return the tensors and the meaning of scores of a version, read from disk; raise ``ArtifactError``."""
    manifest, calibration = version.manifest, version.calibration_summary
    shape = image_shape(manifest.preprocessing)
    return ModelMetadata(
        name=version.name,
        versions=[str(number) for number in versions],
        platform="snf_density",
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


EXAMPLE = {
    "id": "lot-7",
    "parameters": {"source": "line-1"},
    "inputs": [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "UINT8", "data": [0, 255, 17, 3]}],
    "outputs": [{"name": "log_likelihood"}, {"name": "p_value"}],
}
"""A request for a model of 2 x 2 pixels."""
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": REFERENCE.format(model=InferRequest.__name__)}, "example": EXAMPLE},
        **binary(
            "The JSON object, and after it the bytes of its binary tensor. The header "
            "`Inference-Header-Content-Length` has the length of the JSON object."
        ),
    },
}
BINARY_ANSWER = {200: {"content": binary("The JSON object, and after it the bytes of the outputs that are binary.")}}


router = Router(PREFIX, "open inference protocol")

MODEL, VERSION = "/models/{name}", "/models/{name}/versions/{version}"
Name = Annotated[
    str, Path(description="Name of a model; without a version also `name@alias`.", examples=["mnist-snf-glow"])
]
Version = Annotated[str, Path(description="Number of a version.", examples=["1"])]


@router.get("", "Show name, version and extensions")
async def oip_server_metadata() -> ServerMetadata:
    """Show the name and version of this service, and its extensions of the Open Inference Protocol."""
    return ServerMetadata(name="snf-density", version=package_version(), extensions=["binary_tensor_data"])


@router.get("/health/live", "Check that the process runs", role=None, errors=(429,))
async def oip_server_live() -> ServerLive:
    """Answer 200 while the service process runs."""
    return ServerLive(live=True)


@router.get(
    "/health/ready", "Check that the service can score", role=None, errors=(429, 503), response_model=ServerReady
)
async def oip_server_ready(
    pool: ModelPoolDep, queue: FairQueueDep, stopping: DrainingDep, settings: SettingsDep
) -> ServerReady | Response:
    """Answer 200 if images can be scored, else 503.

    It is the same check as `/readyz`.
    """
    readiness = await readiness_of(pool, queue, stopping, settings)
    if readiness.status != "ready":
        return error_answer(503, f"The service is not ready: {readiness.reason or readiness.status}")
    return ServerReady(ready=True)


@router.get(MODEL, "Show the tensors of a model", errors=(404, 409))
async def oip_model_metadata(name: Name, pool: ModelPoolDep, registry: RegistryDep) -> ModelMetadata:
    """Show a model's versions, and the names, types and shapes of its input and output tensors.

    It also tells what the numbers of its live version mean.

    409 where all versions are unfit.
    """
    return await _metadata(name, pool, registry)


@router.get(VERSION, "Show the tensors of a version", errors=(404,))
async def oip_version_metadata(
    name: Name, version: Version, pool: ModelPoolDep, registry: RegistryDep
) -> ModelMetadata:
    """Show the names, types and shapes of the input and output tensors of a model version.

    It also has the versions of the model, and tells what the numbers of this version mean.
    """
    return await _metadata(f"{name}:{version}", pool, registry)


async def _metadata(ref: str, pool: ModelPool, registry: Registry) -> ModelMetadata:
    def read() -> ModelMetadata:
        version, _ = pool.find(ref)
        return metadata_of(version, registry.versions(version.name))

    return await asyncio.to_thread(read)


@router.get(f"{MODEL}/ready", "Check that a model can score", errors=(404, 409), response_model=ModelReady)
async def oip_model_ready(name: Name, pool: ModelPoolDep) -> ModelReady | Response:
    """Answer 200 if a model can score images, else 503.

    It is 200 if the model is loaded, or is loaded at its first request. It is 503 while it loads, and if that failed.
    """
    return await _readiness(name, pool)


@router.get(f"{VERSION}/ready", "Check that a version can score", errors=(404,), response_model=ModelReady)
async def oip_version_ready(name: Name, version: Version, pool: ModelPoolDep) -> ModelReady | Response:
    """Answer 200 if a model version can score images, else 503.

    It is 200 if the version is loaded, or is loaded at its first request. It is 503 while it loads, or if that failed.
    """
    return await _readiness(f"{name}:{version}", pool)


async def _readiness(ref: str, pool: ModelPool) -> ModelReady | Response:
    version, entry = await asyncio.to_thread(pool.find, ref)
    if entry is not None and entry.state is not ModelState.READY:
        reason = entry.reason or entry.state
        return error_answer(503, f"The model {version.name}:{version.version} is not ready: {reason}")
    return ModelReady(name=version.name, ready=True)


@router.post(
    f"{MODEL}/infer",
    "Score a tensor of images",
    role="score",
    queued=True,
    errors=(404, 409, 504),
    response_model=InferAnswer,
    responses=BINARY_ANSWER,
    body=BODY,
)
async def oip_infer(name: Name, request: Request, scoring: ScoringServiceDep, timeout_ms: TimeoutMs = None) -> Response:
    """Score a tensor of images with a model, and return the scores as output tensors.

    The outputs are `log_likelihood` in nats, `bits_per_dim` and the conformal `p_value`, each with one float64 per
    image. For a model of features `bits_per_dim` is NaN, in JSON null.

    The input is `image`, UINT8 `[N, channels, height, width]`, in JSON or as bytes after the JSON object (binary tensor
    data extension). The numbers equal those of `/v1/models/{ref}/score` to the bit. An image without a finite
    likelihood fails the request (422). Binary outputs follow the JSON object of the answer, whose length is in the
    header `Inference-Header-Content-Length`.
    """
    return await service.infer(scoring, name, request, timeout_ms)


@router.post(
    f"{VERSION}/infer",
    "Score a tensor of images with a version",
    role="score",
    queued=True,
    errors=(404, 504),
    response_model=InferAnswer,
    responses=BINARY_ANSWER,
    body=BODY,
)
async def oip_version_infer(
    name: Name, version: Version, request: Request, scoring: ScoringServiceDep, timeout_ms: TimeoutMs = None
) -> Response:
    """Score a tensor of images with one version of a model, and return the scores as output tensors.

    Request and answer are those of `/v2/models/{name}/infer`.
    """
    return await service.infer(scoring, f"{name}:{version}", request, timeout_ms)
