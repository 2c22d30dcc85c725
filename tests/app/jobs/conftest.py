"""What tests of jobs over HTTP share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_settings import service_settings
from worker.broker.embedded import EmbeddedBroker
from worker.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a service with a real broker and no worker."""
    made = service_settings(tmp_path, redis_url=None, runtime_dir=Path(tempfile.mkdtemp(prefix="snf-test-")))
    broker = EmbeddedBroker(made)
    broker.start()
    yield made
    broker.stop()
    shutil.rmtree(made.runtime_folder)
