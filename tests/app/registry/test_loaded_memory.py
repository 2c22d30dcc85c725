"""Loaded models are bounded by the memory that they take, not by their number."""

from pathlib import Path
from typing import Any

import pytest

from snf_app.registry import model_pool
from snf_app.registry.model_pool import memory_limit
from snf_models.registry.registry import Registry
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

MODELS = ("first", "second")


def states_after_scores(home: Path, artifact: Path, **changes: Any) -> dict[str, str]:
    """Score an image by each model, and return the states of the models."""
    settings = service_settings(home, **changes)
    for name in MODELS:
        Registry(settings.registry_dir).publish(artifact, name, promote=True)
    with client_of(settings) as client:
        for name in MODELS:
            assert client.post(f"/v1/models/{name}/score", files=files(DIGITS[0])).status_code == 200
        states = {model["name"]: model["state"] for model in client.get("/v1/models").json()["models"]}
        # What was dropped is loaded again.
        assert client.post(f"/v1/models/{MODELS[0]}/score", files=files(DIGITS[0])).status_code == 200
    return states


@pytest.mark.usefixtures("no_shipped_models")
def test_models_past_the_limit_are_dropped(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    artifact = barely_trained(tmp_path_factory)
    kept = states_after_scores(tmp_path / "large", artifact, model_memory_bytes=2**40)
    assert kept == dict.fromkeys(MODELS, "ready")
    dropped = states_after_scores(tmp_path / "small", artifact, model_memory_bytes=1)
    assert dropped == {"first": "idle", "second": "ready"}


def test_the_default_is_a_quarter_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_pool, "memory_of_this_machine", lambda: 2**34)
    assert memory_limit(service_settings(tmp_path)) == 2**32
    assert memory_limit(service_settings(tmp_path, model_memory_bytes=5)) == 5
