"""What does not come into the audit log, and how long a record may be."""

import json
import logging
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from snf_app.http.request_log import REFUSED_RATE, _bounded
from snf_app.main import create_app
from snf_worker.keys import KeyFile
from snf_worker.log_setup import configure_logging
from tests.support.local import LOCAL
from tests.support.service_settings import service_settings

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


def test_refused_changes_have_no_body_and_a_rate_so_that_changes_stay(tmp_path: Path) -> None:
    with TestClient(create_app(service_settings(tmp_path)), LOCAL) as client:
        for _ in range(REFUSED_RATE.amount + 15):
            refused = client.put("/v1/models/none/aliases/live", json={"version": 3})
            assert refused.status_code == 404
        job = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny", "model": "m"}
        assert client.post("/v1/jobs", json=job).status_code == 503
    *refusals, change = map(json.loads, records_of(tmp_path))
    assert [(record["status"], "body" in record) for record in refusals] == [(404, False)] * REFUSED_RATE.amount
    assert (change["body"]["model"], change["refusals_left_out"]) == ("m", 15)


def test_an_answer_and_all_log_lines_have_the_id_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = service_settings(tmp_path, access_log=True)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)  # which are those of pytest again at the end
    monkeypatch.setattr(root, "level", root.level)

    def fail() -> str:
        raise RuntimeError("the test wants it")

    monkeypatch.setattr("snf_app.health.endpoints.package_version", fail)
    configure_logging(settings, "service", terminal=False)
    given = {"X-Request-Id": "line-1:42"}
    with TestClient(create_app(settings), LOCAL, raise_server_exceptions=False) as client:
        assert client.get("/v1/presets", headers=given).headers["x-request-id"] == "line-1:42"
        failed = client.get("/healthz", headers=given)
        assert (failed.status_code, failed.headers["x-request-id"]) == (500, "line-1:42")
        client.delete("/v1/datasets/none", headers=given)
    [warning] = [
        json.loads(line)
        for line in (tmp_path / "logs/service.jsonl").read_text().splitlines()
        if "the test wants it" in line
    ]
    assert warning["request_id"] == "line-1:42"
    accesses = [json.loads(line)["request_id"] for line in (tmp_path / "logs/access.jsonl").read_text().splitlines()]
    assert accesses == ["line-1:42"] * 3
    assert [json.loads(line)["request_id"] for line in records_of(tmp_path)] == ["line-1:42"]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'a"', "a\x1b[2J", "\u00e9", "a,b"])
def test_an_id_that_cannot_be_trusted_is_replaced(tmp_path: Path, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode()}
    with TestClient(create_app(service_settings(tmp_path)), LOCAL) as client:
        answers = [client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", answer) for answer in answers)
    assert answers[0] != answers[1]


def test_no_key_within_a_url_is_recorded(tmp_path: Path) -> None:
    with TestClient(create_app(service_settings(tmp_path)), LOCAL) as client:
        for location in ("s3://AKIA:hush@bucket/lots", "https://hush@host/lots"):
            body = {"name": "lots", "location": location}
            assert client.post("/v1/datasets/references", json=body).status_code == 422
    assert "hush" not in "".join(records_of(tmp_path))
    recorded = _bounded({"a": ["s3://AKIA:hush@bucket/lots", "no URL: a@b"], "b": 1})
    assert recorded == {"a": ["s3://***@bucket/lots", "no URL: a@b"], "b": 1}
