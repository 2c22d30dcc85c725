"""One model trained in a few steps, one service, and one whole installation for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.service import installed, running
from tests.support.trained import barely_trained


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, barely trained artifact."""
    return barely_trained(tmp_path_factory)


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return barely_trained(tmp_path_factory, seed=1)


@pytest.fixture
def home(artifact: Path) -> Iterator[Path]:
    with installed(artifact) as folder:
        yield folder


@pytest.fixture(scope="module")
def module_home(artifact: Path) -> Iterator[Path]:
    """One for all tests of a module."""
    with installed(artifact) as folder:
        yield folder


@pytest.fixture(scope="package")
def house_home(artifact: Path) -> Iterator[Path]:
    """The `SNF_HOME` of `house`."""
    with installed(artifact) as folder:
        yield folder


@pytest.fixture(scope="package")
def house(house_home: Path) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts, forked: broker, worker, service and attempts of jobs."""
    with running("tests.support.forking_house", home=house_home, forked=True) as client:
        yield client
