"""A stored dataset is trained on by name: checked before queueing, by the command line, and by the trainer."""

from pathlib import Path

import pytest

from snf_app.http.errors import Problem
from snf_app.jobs.checks import JobChecks
from snf_client.schemas.jobs import JobRequest
from snf_models.datasets import DatasetStore
from snf_models.registry.registry import Registry
from snf_worker.settings import Settings
from tests.models.datasets.upload_files import mixed, source, zipped


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
