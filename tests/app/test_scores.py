"""What cannot be scored, and what differs from training, is said for the image that it is about."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from torch import Tensor

from app.service import create_app
from models.scoring.flow_pass import FlowPass
from tests.end_to_end.service import DIGITS, files
from worker.settings import Settings

SCORE = "/v1/models/mnist-snf-glow/score"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), redis_url="redis://127.0.0.1:1/0")
    with TestClient(create_app(settings)) as found:
        yield found


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
