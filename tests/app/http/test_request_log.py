"""What does not come into the audit log, and how long a record may be."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings
from worker.keys.key_file import KeyFile

pytestmark = pytest.mark.usefixtures("no_shipped_models")


def records_of(home: Path) -> list[str]:
    path = home / "logs" / "audit.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_method_that_a_path_does_not_have_changes_nothing(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("boss", "admin")
    reading = {"x-api-key": keys.create("reader", "read")[1]}
    settings = service_settings(tmp_path)
    with TestClient(create_app(settings), LOCAL) as client:
        assert client.delete("/healthz?a=1").status_code == 405
        assert client.delete("/v1/jobs", headers=reading).status_code == 405
        assert client.delete("/v1/models/none", headers=reading).status_code == 403
    assert records_of(tmp_path) == []


def test_a_record_is_short_however_long_the_query(tmp_path: Path) -> None:
    settings = service_settings(tmp_path)
    query = "&".join(f"{number}=" for number in range(8000))
    with TestClient(create_app(settings), LOCAL) as client:
        client.delete(f"/v1/datasets/none?{query}")
    [line] = records_of(tmp_path)
    assert len(line) < 2000
    assert json.loads(line)["operation"] == "delete_dataset"
