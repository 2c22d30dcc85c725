"""Jobs that cannot succeed are refused before they are queued."""

from pathlib import Path

from fastapi.testclient import TestClient

from app.service import create_app
from worker.settings import Settings


def test_a_damaged_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    settings = Settings(home=tmp_path, data_dir=tmp_path, redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings)) as client:
        answer = client.post("/v1/jobs", json={"type": "train", "dataset": "mnist", "model": "m"})
    assert (answer.status_code, answer.json()["type"]) == (422, "dataset-unfit")
    assert "mnist.npz" in answer.json()["detail"]
    assert str(tmp_path) not in answer.json()["detail"]
