"""Requests that schemathesis makes up from the OpenAPI document: none is a failure, each answer is as documented."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from snf_worker.broker.embedded import EmbeddedBroker
from tests.app.conftest import MODEL
from tests.support.service_settings import LOCAL, client_of, service_settings
from tests.worker.support.helpers import until

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schemathesis.openapi.media_type("application/x-tar", st.binary())
CALLS = sorted(json.loads(Path(__file__).with_name("openapi.json").read_text())["calls"])
THERE: dict[str, Any] = {"ref": MODEL, "name": MODEL, "alias": "live", "version": 1, "number": 0}
"""Parts of paths that lead to something; those that are made up hardly ever do."""
FEW = settings(
    max_examples=5,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with a job store and without a worker."""
    folder = Path(tempfile.mkdtemp(prefix="snf-test-"))
    made = service_settings(tmp_path_factory.mktemp("home"), redis_url=None, runtime_dir=folder, engine="torch")
    broker = EmbeddedBroker(made)
    broker.start()
    with client_of(made, raise_server_exceptions=False) as found:
        until(lambda: found.get("/readyz").json()["jobs"] == "ok" and found.get("/readyz").status_code == 200)
        yield found
    broker.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def operations(client: TestClient) -> dict[str, APIOperation]:
    """The calls of the document by path and method."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{operation.path} {operation.method.upper()}": operation for operation in found}


@pytest.mark.parametrize("call", CALLS)
def test_no_answer_is_a_failure_and_each_agrees_with_the_document(
    call: str, operations: dict[str, APIOperation], client: TestClient
) -> None:
    operation = operations[call]

    @FEW
    @given(
        case=st.sampled_from(GenerationMode).flatmap(operation.as_strategy),
        there=st.booleans(),
    )
    def send(case: Case, there: bool) -> None:
        if there:
            case.path_parameters.update({name: THERE[name] for name in THERE if name in case.path_parameters})
        asked = case.as_transport_kwargs(base_url=LOCAL)
        asked.pop("cookies", None)
        # With a short deadline the answer would depend on the machine.
        asked["headers"] = {key: value for key, value in asked["headers"].items() if key.lower() != "x-timeout-ms"}
        if isinstance(asked.get("data"), bytes):
            asked["content"] = asked.pop("data")
        answer = client.request(**asked)
        answer.request.read()
        case.validate_response(answer, checks=CHECKS)

    send()
