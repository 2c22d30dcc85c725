"""The Open Inference Protocol over gRPC: what the foreign clients of tests/end_to_end do not send."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app import server
from app.main import create_app
from tests.app.conftest import MODEL
from tests.support.local import LOCAL
from tests.support.ports import free_port
from tests.support.service_settings import service_settings
from worker.keys.key_file import KeyFile

grpc = pytest.importorskip("grpc", reason="needs the extra grpc: make test installs it")
PIXELS = np.zeros((2, 1, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, int, str]]:
    """A service with gRPC, its port, and a key for three images an hour."""
    settings = service_settings(tmp_path_factory.mktemp("home"), grpc_port=free_port())
    key = KeyFile(settings.home / "keys.json").create("few", "score", images="3/hour")[1]
    with TestClient(create_app(settings), LOCAL) as client:
        assert settings.grpc_port is not None
        yield client, settings.grpc_port, key


def call(port: int, method: str, key: str = "", **members: Any) -> Any:
    from app.inference_protocol.grpc_messages import CLASSES, SERVICE  # noqa: PLC0415 - needs the extra

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        send = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=CLASSES[f"{method}Request"].SerializeToString,
            response_deserializer=CLASSES[f"{method}Response"].FromString,
        )
        return send(CLASSES[f"{method}Request"](**members), metadata=(("x-api-key", key),), timeout=60)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": PIXELS.shape} | changes


def refusal(*given: Any, **members: Any) -> Any:
    with pytest.raises(grpc.RpcError) as refused:
        call(*given, **members)
    return refused.value


def test_limits_of_a_key_and_when_to_try_again(service: tuple[TestClient, int, str]) -> None:
    _, port, key = service
    asked = {"model_name": MODEL, "inputs": [tensor()], "raw_input_contents": [PIXELS.tobytes()]}
    answer = call(port, "ModelInfer", key, **asked)
    assert [output.name for output in answer.outputs] == ["log_likelihood", "bits_per_dim", "p_value"]
    assert answer.parameters["calibration"].int64_param == 0
    error = refusal(port, "ModelInfer", key, **asked)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details().startswith("Over the rate limit of the key: ")
    assert int(dict(error.trailing_metadata())["retry-after"]) > 0
    assert refusal(port, "ServerMetadata").code() is grpc.StatusCode.UNAUTHENTICATED
    assert call(port, "ServerReady").ready


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"inputs": [tensor(contents={"uint_contents": [0] * 1568})], "raw_input_contents": [b"\0" * 1568]},
            "got both",
        ),
        ({"inputs": [tensor(contents={"uint_contents": [256] * 1568})]}, "whole numbers from 0 to 255, got 256"),
        ({"inputs": [tensor(contents={"fp32_contents": [0] * 1568})]}, "expected 1568 values"),
        ({"inputs": [tensor()], "raw_input_contents": [b"\0" * 1567]}, "expected 1568 bytes"),
        ({"inputs": [tensor()], "raw_input_contents": [b"\0" * 1568, b"\0"]}, "expected 1568 bytes of tensor data"),
        ({"inputs": [tensor(), tensor()], "raw_input_contents": [b"\0" * 1568]}, "expected one tensor"),
        ({"inputs": [tensor(shape=[-1, 1, 28, 28])], "raw_input_contents": [b"\0" * 784]}, "at least one image"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}], "raw_input_contents": [b"\0" * 1568]}, "got 'logits'"),
        ({"inputs": [tensor()], "parameters": {"priority": {"uint64_param": 1}}}, "/body/parameters/priority"),
        ({}, "expected one tensor"),
    ],
)
def test_wrong_tensors(service: tuple[TestClient, int, str], members: dict[str, Any], text: str) -> None:
    _, port, key = service
    error = refusal(port, "ModelInfer", key, model_name=MODEL, **members)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in error.details()


@pytest.mark.parametrize("name", ["", ".", "..", "../../healthz", "a/b", f"{MODEL}/ready", "m" * 70_000, "Ä", "nobody"])
def test_names_are_no_paths(service: tuple[TestClient, int, str], name: str) -> None:
    _, port, key = service
    assert refusal(port, "ModelMetadata", key, name=name).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"inputs": [{}] * 100_000}, "expected one tensor"),
        ({"outputs": [{}] * 100_000}, "expected one tensor"),
        ({"inputs": [tensor(shape=[1] * 1000)]}, "expected a shape of four dimensions"),
        ({"inputs": [tensor(contents={"uint_contents": [0] * 2**20})]}, "send them as raw_input_contents"),
        ({"parameters": {str(number): {"bool_param": True} for number in range(1000)}}, "at most 16 parameters"),
    ],
)
def test_messages_of_very_many_parts_are_refused(
    service: tuple[TestClient, int, str], members: dict[str, Any], text: str
) -> None:
    _, port, key = service
    error = refusal(port, "ModelInfer", key, model_name=MODEL, **members)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in error.details()


def test_without_a_key_no_message_is_read(service: tuple[TestClient, int, str]) -> None:
    from app.inference_protocol.grpc_messages import SERVICE  # noqa: PLC0415 - needs the extra

    _, port, key = service
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        never = iter(threading.Event().wait, True)
        with pytest.raises(grpc.RpcError) as refused:
            infer(never, metadata=(("x-api-key", "another"),), timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as refused:
            infer(iter([b"no message"]), metadata=(("x-api-key", key),), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with grpc.insecure_channel(f"127.0.0.1:{port}", compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\0" * 2**24, metadata=(("x-api-key", key),), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_counts_in_the_metrics_of_http(service: tuple[TestClient, int, str]) -> None:
    client, port, key = service
    call(port, "ModelReady", key, name=MODEL, version="1")
    text = client.get("/metrics", headers={"x-api-key": key}).text
    route = "/v2/models/{name}/versions/{version}/ready"
    assert f'snf_http_requests_total{{method="GET",route="{route}",status="200"}} 1.0' in text


def test_a_port_that_is_taken_ends_the_start(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = service_settings(tmp_path, grpc_port=other.getsockname()[1])
        with pytest.raises(RuntimeError, match="bind"), TestClient(create_app(settings), LOCAL):
            pass


def test_without_its_packages_the_service_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.inference_protocol.grpc_server.PACKAGES", ("grpc", "no_such_package"))
    with caplog.at_level(logging.ERROR):
        assert server.serve(service_settings(tmp_path, grpc_port=1)) == 3
    assert "SNF_GRPC_PORT needs the extra grpc" in caplog.text
