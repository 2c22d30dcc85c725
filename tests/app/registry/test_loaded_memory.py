"""ServedModel models are bounded by the memory that they take, not by their number."""

import os
from pathlib import Path
from typing import Any

import pytest

from snf_app.registry import model_pool
from snf_app.registry.model_pool import MAX_BESIDE, MAX_PER_FILE_BYTE, PER_FILE_BYTE, LoadedMemory, memory_limit
from snf_models.registry.registry import Registry
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

MODELS = ("first", "second")
PAGE = os.sysconf("SC_PAGE_SIZE")


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


def test_loads_at_the_same_time_count_each_byte_once(tmp_path: Path) -> None:
    statm = tmp_path / "statm"

    def resident(pages: int) -> None:
        statm.write_text(f"9999 {pages} 5 1 0 7 0\n")

    memory = LoadedMemory(statm)
    resident(1000)
    first = memory.begin()
    resident(1100)
    second = memory.begin()
    resident(1600)
    assert memory.end(first, file_bytes=PAGE) == 600 * PAGE
    resident(1800)
    assert memory.end(second, file_bytes=1) == 200 * PAGE
    # Models were dropped, and the next one grows from there.
    resident(1200)
    third = memory.begin()
    resident(1300)
    assert memory.end(third, file_bytes=1) == 100 * PAGE
    # Memory that others have freed meanwhile is no reason to count nothing.
    fourth = memory.begin()
    resident(1250)
    assert memory.end(fourth, file_bytes=5_000_000) == 5_000_000


def test_images_that_are_decoded_during_a_load_are_not_charged_to_the_model(tmp_path: Path) -> None:
    statm = tmp_path / "statm"
    memory = LoadedMemory(statm)
    statm.write_text("9999 1000 5 1 0 7 0\n")
    before = memory.begin()
    statm.write_text(f"9999 {1000 + 1_600_000_000 // PAGE} 5 1 0 7 0\n")
    assert memory.end(before, file_bytes=3_000_000) == MAX_PER_FILE_BYTE * 3_000_000 + MAX_BESIDE


def test_files_give_an_estimate_where_the_system_tells_no_memory(tmp_path: Path) -> None:
    memory = LoadedMemory(tmp_path / "missing")
    assert memory.end(memory.begin(), file_bytes=1000) == PER_FILE_BYTE * 1000


def test_the_default_is_a_quarter_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_pool, "memory_of_this_machine", lambda: 2**34)
    assert memory_limit(service_settings(tmp_path)) == 2**32
    assert memory_limit(service_settings(tmp_path, model_memory_bytes=5)) == 5
