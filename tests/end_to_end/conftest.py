"""One model trained in a few steps, one service, and one whole installation for all end-to-end tests."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from models.datasets import load_dataset
from models.registry.registry import Registry
from models.training.config import TrainingConfig
from models.training.run import train
from tests.end_to_end.support.service import running

MODEL = "digits"


def barely_trained(folder: Path, seed: int, preset: str = "snf-glow-tiny") -> Path:
    config = TrainingConfig(max_steps=4, validations=1, batch_size=32, validation_images=20, warmup_steps=0, seed=seed)
    return train(
        load_dataset("mnist-mini", None),
        preset,
        config,
        folder,
        observe=lambda _event: None,
        should_stop=lambda: False,
    )


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, barely trained artifact."""
    return barely_trained(tmp_path_factory.mktemp("artifact"), 0)


@pytest.fixture(scope="session")
def other_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other weights."""
    return barely_trained(tmp_path_factory.mktemp("other-artifact"), 1)


@contextmanager
def installed(artifact: Path) -> Iterator[Path]:
    """A new `SNF_HOME` that has the artifact."""
    home = Path(tempfile.mkdtemp(prefix="snf-home-"))
    Registry(home / "registry").publish(artifact, MODEL)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(artifact: Path) -> Iterator[Path]:
    with installed(artifact) as folder:
        yield folder


@pytest.fixture(scope="module")
def module_home(artifact: Path) -> Iterator[Path]:
    """One for all tests of a module."""
    with installed(artifact) as folder:
        yield folder


@pytest.fixture(scope="session")
def house(artifact: Path) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts: broker, worker and service."""
    with installed(artifact) as folder, running("app.cli.main", "up", home=folder) as client:
        yield client
