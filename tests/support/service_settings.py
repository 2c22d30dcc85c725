"""Services that tests start in their own process."""

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from snf_app.main import create_app
from snf_worker.settings import Settings
from tests.support.compiled_cache import share_compiled

LOCAL = "http://localhost"


def service_settings(home: Path, **changes: Any) -> Settings:
    """Return the settings of a service with the shipped models, whose job store does not answer."""
    return Settings(**{"home": share_compiled(home), "redis_url": "redis://127.0.0.1:1/0"} | changes)


def client_of(settings: Settings, **options: Any) -> TestClient:
    """Return a client of a service with these settings, which runs in a ``with`` block."""
    return TestClient(create_app(settings), LOCAL, **options)
