"""What several tests of the service share."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from snf_app.calibrations.service import view_of
from snf_app.main import Service
from snf_app.registry.service import detail
from snf_client.schemas.models import ModelDetail
from snf_models.registry.registry import ZOO, Registry
from tests.support.service_settings import client_of, service_settings

MODEL = "mnist-snf-glow"
"""The shipped model that tests score with."""


def shipped_detail() -> ModelDetail:
    """The details of that model, as a service that has not loaded it answers them."""
    registry = Registry(Path("no-models"))
    version = registry.resolve(MODEL)
    return detail(version, view_of(registry, version.name, version.version, version.calibration), None)


@pytest.fixture(scope="package", autouse=True)
def one_document() -> Iterator[None]:
    """The services of these tests have the same calls: their OpenAPI document, which takes a second, is made once."""
    make: Callable[[Service], dict[str, Any]] = Service.openapi
    document: dict[str, Any] | None = None

    def openapi(service: Service) -> dict[str, Any]:
        nonlocal document
        service.openapi_schema = service.openapi_schema or document
        found = make(service)
        document = service.openapi_schema
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "openapi", openapi)
        yield


def _services_with(zoo: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_app.state.Registry", partial(Registry, zoo=zoo))
        yield


@pytest.fixture(scope="module", autouse=True)
def one_shipped_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start in their own process have one shipped model: loading all takes each of them seconds."""
    zoo = tmp_path_factory.mktemp("zoo")
    (zoo / MODEL).symlink_to(ZOO / MODEL)
    yield from _services_with(zoo)


@pytest.fixture(scope="module")
def no_shipped_models(one_shipped_model: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests of this module start in their own process have no shipped models."""
    yield from _services_with(tmp_path_factory.mktemp("no-zoo"))


@pytest.fixture(scope="module")
def client(one_shipped_model: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with that model, and without a job store."""
    with client_of(service_settings(tmp_path_factory.mktemp("home"))) as service:
        yield service


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of tests that are coroutines."""
    return "asyncio"
