"""Every image is answered by itself, whatever is scored with it: its numbers, its failure."""

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from snf_app.http.admission import FairShares
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_queue import FairQueue
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer
from snf_runtime.parallelism import Steps
from snf_runtime.scoring.evidence import FlowPass
from snf_runtime.scoring.pixel_density import PixelDensity
from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained
from tests.worker.support.helpers import until

SCORE = "/v1/models/mnist-snf-glow/score"


@pytest.fixture
def overflowing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that overflows on the first image of a request."""
    client.post(SCORE, files=files(DIGITS[0])).raise_for_status()
    exact = FlowPass.terms

    def overflow(found: FlowPass) -> Tensor:
        terms = exact(found)
        terms[0] = float("inf")
        return terms

    monkeypatch.setattr(FlowPass, "terms", overflow)


@pytest.mark.parametrize("draws", [1, 3, 8, 9, 32])
def test_a_turn_has_no_more_draws_than_a_step_of_large_images(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, draws: int
) -> None:
    query = {"draws": draws}
    alone = client.post(SCORE, params=query, files=files(*DIGITS[:3])).raise_for_status().json()
    exact, in_a_turn = Scorer.detect, []

    def noted(scorer: Scorer, images: Any, alpha: Any, draws: int) -> Any:
        in_a_turn.append(len(images) * draws)
        return exact(scorer, images, alpha, draws)

    monkeypatch.setattr(Scorer, "detect", noted)
    # That of images of 256x256 pixels.
    eight: Any = property(lambda _density: 8, lambda _density, _size: None)
    monkeypatch.setattr(PixelDensity, "chunk_size", eight, raising=False)
    found = client.post(SCORE, params=query, files=files(*DIGITS[:3])).raise_for_status().json()
    for one, other in zip(found["results"], alone["results"], strict=True):
        assert one["log_likelihood"] == other["log_likelihood"]
    # Larger numbers of draws go through the steps of the scorer instead.
    assert max(in_a_turn, default=0) <= 8
    assert bool(in_a_turn) == (draws <= 8)


@pytest.mark.usefixtures("overflowing")
def test_an_overflow_fails_its_image_alone(client: TestClient) -> None:
    answer = client.post(SCORE, params={"fdr": True}, files=files(*DIGITS[:3]))
    assert answer.status_code == 200
    body = answer.json()
    assert [one["status"] for one in body["results"]] == ["error", "ok", "ok"]
    assert body["results"][0]["error"]["type"] == "score-not-finite"
    assert body["fdr"]["q_values"][0] is None
    assert None not in body["fdr"]["q_values"][1:]


@pytest.mark.usefixtures("overflowing")
def test_an_overflow_of_the_only_image_is_the_problem(client: TestClient) -> None:
    raw = client.post(SCORE, content=DIGITS[0].read_bytes(), headers={"content-type": "image/png"})
    assert (raw.status_code, raw.json()["type"]) == (422, "score-not-finite")
    form = client.post(SCORE, files=files(DIGITS[0]))
    assert (form.status_code, form.json()["type"]) == (422, "no-image-scored")


@pytest.mark.parametrize("path", ["/v1/models/digits/score?alpha=7", "/v2/models/digits/infer"])
def test_a_full_queue_refuses_before_anything_is_read(
    client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.app_state["fair_queue"], "_requests", FairShares(0))
    answer = client.post(path, content=b"no image", headers={"content-type": "text/plain"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_an_explanation_changes_no_score_and_its_map_is_that_of_the_first_draw(client: TestClient) -> None:
    plain = client.post(SCORE, files=files(*DIGITS[:3])).raise_for_status().json()["results"]
    for draws in (1, 4):
        query = {"explain": True, "draws": draws}
        explained = client.post(SCORE, params=query, files=files(*DIGITS[:3])).raise_for_status().json()["results"]
        for one, usual in zip(explained, plain, strict=True):
            heat_map = one.pop("heat_map")
            assert draws > 1 or one == usual
            with Image.open(io.BytesIO(base64.b64decode(heat_map["png"]))) as picture:
                assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (252, 252))
            channels = dict(
                zip(heat_map["channels"], np.load(io.BytesIO(base64.b64decode(heat_map["npy"]))), strict=True)
            )
            assert channels.keys() == {"nats", "z", "anomaly"}
            assert channels["nats"].sum() == pytest.approx(usual["log_likelihood"], rel=1e-6)
            assert heat_map["lowest_z"] == channels["z"].min() < 0
            assert heat_map["highest_z"] == channels["z"].max() > 0


def test_what_cannot_be_explained_or_flagged_is_refused(
    client: TestClient, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    many = client.post(SCORE, params={"explain": True}, files=files(*[DIGITS[0]] * 65))
    assert (many.status_code, many.json()["type"]) == (413, "too-many-images")
    smallest = 1 / 5001
    [one] = client.post(SCORE, params={"alpha": smallest}, files=files(DIGITS[0])).raise_for_status().json()["results"]
    assert one["anomaly"]["alpha"] == one["anomaly"]["smallest_p"] == smallest
    refused = client.post(SCORE, params={"alpha": 0.999 * smallest}, files=files(DIGITS[0]))
    assert (refused.status_code, refused.json()["type"]) == (422, "alpha-unattainable")
    settings = service_settings(tmp_path, engine="torch")
    dense = barely_trained(tmp_path_factory, preset="snf-fc-2l")
    Registry(settings.registry_dir).publish(dense, "dense", promote=True)
    with client_of(settings) as other:
        refused = other.post("/v1/models/dense/score", params={"explain": True}, files=files(DIGITS[0]))
    assert (refused.status_code, refused.json()["type"]) == (422, "explain-unsupported")


def post(client: TestClient, number: int) -> dict[str, Any]:
    """One digit, as a form and raw by turns, at one of three alphas."""
    digit = DIGITS[number % len(DIGITS)]
    query = {} if number % 3 == 0 else {"alpha": 0.1 * (number % 3)}
    if number % 2:
        answer = client.post(SCORE, params=query, files=files(digit))
    else:
        answer = client.post(SCORE, params=query, content=digit.read_bytes(), headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose evidence is rounded: its last digits depend on how many verdicts were made at once."""
    [result] = answer["results"]
    anomaly = result["anomaly"]
    reasons = [{**one, "z": round(one["z"], 8), "share": round(one["share"], 8)} for one in anomaly["reasons"]]
    anomaly = {**anomaly, "statistic": round(anomaly["statistic"], 8), "reasons": reasons}
    return {**answer, "results": [{**result, "anomaly": anomaly}]}


def test_32_clients_in_one_batch_get_what_each_gets_alone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [post(client, number) for number in range(32)]
    queue, metrics = client.app_state["fair_queue"], client.app_state["metrics"]
    assert isinstance(queue, FairQueue)
    assert isinstance(metrics, ServiceMetrics)
    assert client.portal is not None
    batches: list[int] = []
    monkeypatch.setattr(metrics.batches, "observe", batches.append)
    begun, gate = threading.Event(), threading.Event()

    def hold() -> Steps[None]:
        begun.set()
        assert gate.wait(60)
        return
        yield

    with ThreadPoolExecutor(32) as clients:
        held = client.portal.start_task_soon(queue.run, "address:elsewhere", hold(), 1)
        assert begun.wait(60)
        answers = []
        for number in range(32):
            answers.append(clients.submit(post, client, number))
            # Python 3.11 cannot install the trace functions of coverage in two threads at the same moment.
            time.sleep(0.005)
        until(lambda: queue.images == 33)
        gate.set()
        held.result(60)
        together = [answer.result(60) for answer in answers]
    assert batches == [32]
    assert [rounded(one) for one in together] == [rounded(one) for one in alone]
