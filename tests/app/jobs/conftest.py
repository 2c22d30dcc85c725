"""What tests of jobs over HTTP share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.settings import Settings
from tests.support.service_settings import service_settings


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a service with a real broker and no worker."""
    made = service_settings(tmp_path, redis_url=None, runtime_dir=Path(tempfile.mkdtemp(prefix="snf-test-")))
    broker = EmbeddedBroker(made)
    broker.start()
    yield made
    broker.stop()
    shutil.rmtree(made.runtime_folder)
