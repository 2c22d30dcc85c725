"""Which datasets a job can take: the answer agrees with what a submission does, and nothing is guessed."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from snf_models.anomaly.reference_images import check_summary
from snf_models.artifacts.manifest import FeatureFitRecord, GridChoice, Manifest
from snf_models.datasets import DatasetSummary
from snf_models.errors import DatasetUnfit
from snf_models.registry.registry import Registry
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import DIGITS, npz, pngs, zipped
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

CHOICES_PATH = "/v1/jobs/check-datasets"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Three datasets, a model of the built-in digits and one of those of a user."""
    home = tmp_path_factory.mktemp("home")
    settings = service_settings(home, data_dir=None)
    registry = Registry(settings.registry_dir)
    registry.publish(barely_trained(tmp_path_factory), "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("snf_app.state.Registry", partial(Registry, zoo=home / "none"))
        with client_of(settings) as made:
            for name, content in (
                ("own", ("own.zip", zipped(pngs(120, 6)))),
                ("few", ("few.zip", zipped(pngs(12)))),
                ("small", ("small.npz", npz(images=DIGITS[:40, 0, 2:26, 2:26].copy()))),
            ):
                upload(made, name, content).raise_for_status()
            registry.publish(of_own_images(barely_trained(tmp_path_factory), home / "artifact"), "trained-on-own")
            yield made


def of_own_images(artifact: Path, place: Path) -> Path:
    """A copy of a model that says it was trained and calibrated on `own`: that is all of it that is read here."""
    manifest = Path(shutil.copytree(artifact, place)) / "manifest.json"
    document = json.loads(manifest.read_text())
    for part in ("training", "calibration"):
        assert document[part]["dataset"] == "mnist-mini"
        document[part]["dataset"] = "own"
    manifest.write_text(json.dumps(document))
    return place


def choices(client: TestClient, **draft: Any) -> tuple[dict[str, dict[str, Any]], str | None]:
    answer = client.post(CHOICES_PATH, json=draft)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return {one["name"]: one for one in body["datasets"]}, body["suggested"]


@pytest.mark.parametrize(
    ("draft", "usable"),
    [
        ({"type": "calibrate", "model": "digits"}, {"mnist-mini", "own"}),
        ({"type": "calibrate", "model": "trained-on-own:1"}, {"mnist-mini", "own"}),
        ({"type": "evaluate", "model": "digits", "parameters": {"corruptions": True}}, {"mnist-mini", "own"}),
        ({"type": "evaluate", "model": "trained-on-own", "parameters": {"corruptions": True}}, {"mnist-mini"}),
        (
            {"type": "evaluate", "model": "digits", "parameters": {"corruptions": True, "adapt": True}},
            {"mnist-mini", "own", "small"},
        ),
        ({"type": "score", "model": "digits"}, {"mnist-mini", "own", "few"}),
        ({"type": "train", "preset": "snf-glow-tiny"}, {"mnist-mini", "own", "few", "small"}),
    ],
)  # fmt: skip
def test_the_answer_is_that_of_a_submission(client: TestClient, draft: dict[str, Any], usable: set[str]) -> None:
    datasets, _ = choices(client, **draft)
    assert {name for name, one in datasets.items() if one["problem"] is None} == usable
    for name, one in datasets.items():
        # The job store does not answer, so that a valid job ends in a 503.
        answer = client.post("/v1/jobs", json={"model": "new"} | draft | {"dataset": name})
        if one["problem"] is None:
            assert answer.status_code == 503, answer.text
        else:
            assert answer.status_code == 422
            assert one["problem"] in [error["detail"] for error in answer.json()["errors"]]


def test_the_earlier_path_answers_the_same(client: TestClient) -> None:
    draft = {"type": "score", "model": "digits"}
    earlier = client.post("/v1/jobs/datasets", json=draft)
    assert earlier.json() == client.post(CHOICES_PATH, json=draft).json()
    assert earlier.status_code == 200
    assert "/v1/jobs/datasets" not in client.get("/openapi.json").json()["paths"]


def test_only_what_is_clearly_meant_is_suggested(client: TestClient) -> None:
    assert choices(client, type="train", preset="snf-glow-tiny")[1] is None
    assert choices(client, type="score", model="digits")[1] is None
    assert choices(client, type="calibrate", model="digits")[1] is None
    assert choices(client, type="calibrate", model="trained-on-own")[1] is None
    # The test part of the built-in dataset, which neither training nor calibration used.
    corruptions = {"corruptions": True}
    assert choices(client, type="evaluate", model="digits", parameters=corruptions)[1] == "mnist-mini"
    datasets, suggested = choices(client, type="evaluate", model="trained-on-own", parameters=corruptions)
    assert suggested is None
    assert "trained or calibrated on own" in datasets["own"]["problem"]


def test_the_training_dataset_gives_only_what_training_left_out(client: TestClient) -> None:
    datasets, _ = choices(client, type="calibrate", model="trained-on-own")
    own = client.get("/v1/datasets/own").json()
    left_out = own["statistics"] + own["calibration"]
    assert datasets["own"]["note"] == (
        f"the model was trained on it: only the {left_out} images that training left out are used"
    )
    assert [datasets[name]["note"] for name in ("few", "small")] == [None, None]


def test_built_in_images_are_named_as_such_for_a_model_of_others(client: TestClient) -> None:
    """Digits would be taken as normal images of any model of grey images of their size."""
    for draft in ({"type": "calibrate"}, {"type": "limit"}, {"type": "evaluate", "parameters": {"corruptions": True}}):
        datasets, suggested = choices(client, model="trained-on-own", **draft)
        assert suggested != "mnist-mini"
        assert datasets["mnist-mini"]["note"] == (
            "built-in images, and the model was trained on own: choose it only if such images are normal for this model"
        )
    evaluated, _ = choices(client, type="evaluate", model="digits", parameters={"corruptions": True})
    assert evaluated["mnist-mini"]["note"] == "the model was made of it: only its 100 test images are used"
    assert choices(client, type="score", model="trained-on-own")[0]["mnist-mini"]["note"] is None


def test_anomalies_have_reasons_of_their_own(client: TestClient) -> None:
    datasets, _ = choices(client, type="evaluate", model="trained-on-own", parameters={"corruptions": True})
    assert datasets["own"]["problem_as_anomalies"] is None
    assert "the model takes 28x28" in datasets["small"]["problem_as_anomalies"]
    adapted, _ = choices(
        client, type="evaluate", model="trained-on-own", parameters={"corruptions": True, "adapt": True}
    )
    assert adapted["small"]["problem_as_anomalies"] is None


@pytest.mark.parametrize(
    ("draft", "pointer"),
    [
        ({"type": "calibrate"}, "/body/model"),
        ({"type": "calibrate", "model": "nobody"}, "/body/model"),
        ({"type": "evaluate", "model": "digits"}, "/body/parameters/against"),
        ({"type": "train", "preset": "nothing"}, "/body/preset"),
        ({"type": "train", "parameters": {"learning_rate": 5}}, "/body/parameters/learning_rate"),
        ({"type": "calibrate", "model": "digits", "dataset": "own"}, "/body/dataset"),
    ],
)
def test_what_no_dataset_cures_is_an_error(client: TestClient, draft: dict[str, Any], pointer: str) -> None:
    answer = client.post(CHOICES_PATH, json=draft)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith(pointer.rpartition("/")[0])


def summary_of(train: int, held_out: int) -> DatasetSummary:
    return DatasetSummary((1, 28, 28), train, held_out, held_out, 0)


def test_training_images_are_not_counted_for_a_calibration(tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = Manifest.model_validate_json((barely_trained(tmp_path_factory) / "manifest.json").read_bytes())
    own = manifest.training.dataset
    check_summary(own, summary_of(100, 10), manifest)
    check_summary("other", summary_of(18, 1), manifest)
    with pytest.raises(DatasetUnfit, match="has 18 images that training left out, at least 20"):
        check_summary(own, summary_of(100, 9), manifest)
    choice = GridChoice(grid=1, shrinkage=0.1, mean_shrinkage=0.0, held_out_nats=0.0)
    fit = FeatureFitRecord(backbone="b", grids=(choice,), pooled=choice, fits=6)
    fitted = manifest.model_copy(update={"training": manifest.training.model_copy(update={"feature_fit": fit})})
    with pytest.raises(DatasetUnfit, match="fitted to all images of"):
        check_summary(own, summary_of(100, 100), fitted)
    check_summary("other", summary_of(18, 1), fitted)
