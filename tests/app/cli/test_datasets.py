"""A stored dataset is trained on by name: checked before queueing, by the command line, and by the trainer."""

from pathlib import Path

import pytest

from snf_app.http.errors import Problem
from snf_app.jobs.checks import JobChecks
from snf_client.schemas.jobs import JobRequest
from snf_models.datasets import DatasetStore
from snf_models.registry.registry import Registry
from snf_worker.attempts.run_attempt import Attempt, StopFlag
from snf_worker.attempts.train import run
from snf_worker.jobs.events import EventLog
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import mixed, source, zipped
from tests.worker.support.helpers import new_job

PARAMETERS = {"image_size": 8, "max_steps": 2, "validations": 1, "validation_images": 6, "batch_size": 8}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a dataset, and the engine that starts in the least time."""
    found = Settings(home=tmp_path / "home", redis_url="redis://127.0.0.1:1/0", train_threads=1, engine="torch")
    DatasetStore(found.datasets_dir).create("photos", [source(tmp_path / "uploads", zipped(mixed()))])
    return found


def request(**parameters: object) -> JobRequest:
    return JobRequest.model_validate(
        {"type": "train", "dataset": "photos", "model": "m", "preset": "snf-glow-tiny", "parameters": parameters}
    )


def test_the_check_before_queueing(settings: Settings) -> None:
    check = JobChecks(settings, Registry(settings.registry_dir), DatasetStore(settings.datasets_dir)).check_training
    recipe, architecture, config, dataset = check(request(image_size=[8, 16], colour="grey"))
    assert recipe.name == "snf-glow-tiny"
    assert architecture.image_shape == dataset.image_shape == (1, 8, 16)
    assert config.image_size == (8, 16)
    assert dataset.train + dataset.statistics + dataset.calibration == 60
    with pytest.raises(Problem, match="expected multiples of 2, at least 8, got 9x9; set image_size"):
        check(request(image_size=9))
    with pytest.raises(Problem, match="image_size"):
        check(request(image_size=2))


def test_the_trainer(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for question in ("require_lease", "check_before_publish"):
        monkeypatch.setattr(Attempt, question, lambda _: None)
    monkeypatch.setattr("snf_worker.attempts.run_attempt.NOTE_S", 0.0)
    folder = tmp_path / "job"
    folder.mkdir()
    job, preset = "0" * 26, "snf-glow-tiny"
    spec = new_job(id=job, attempts=1, model="m", dataset="photos", preset=preset, parameters=PARAMETERS, device="cpu")
    run(Attempt(folder, spec, settings, EventLog(folder, 1), StopFlag()))
    manifest = Registry(settings.registry_dir).resolve("m").manifest
    assert manifest.preprocessing.shape == (3, 8, 8)
    assert manifest.preprocessing.fit == "crop"
    assert "prepares the images: 60 of 60" in (folder / "events.jsonl").read_text()
