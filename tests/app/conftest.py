"""What several tests of the service share."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from models.registry.registry import ZOO, Registry

MODEL = "mnist-snf-glow"
"""The shipped model that tests score with."""


def _services_with(zoo: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.state.Registry", partial(Registry, zoo=zoo))
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
