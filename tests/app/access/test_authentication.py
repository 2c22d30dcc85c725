"""Keys of a running service: accepted, refused, throttled, limited, and what is written about them."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from limits import parse

from snf_app.access import authentication
from snf_app.access.authentication import (
    CHECK_S,
    FREE_ATTEMPTS,
    MAX_REMEMBERED,
    MAX_WAIT_S,
    WINDOW_S,
    FailedAttempts,
    KeyRing,
)
from snf_client.schemas.base import Role
from snf_models.registry.registry import Registry
from snf_worker.keys import KeyFile
from snf_worker.settings import Settings
from tests.end_to_end.support.service import files
from tests.support.own_thread import answers
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

pytestmark = pytest.mark.usefixtures("no_shipped_models")

SCORE = "/v1/models/digits/score"


@contextmanager
def serving(home: Path, **changes: Any) -> Iterator[TestClient]:
    settings = service_settings(home, **changes)
    with client_of(settings, raise_server_exceptions=False) as client:
        yield client


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def make(home: Path, name: str, role: Role = "read", **more: Any) -> dict[str, str]:
    return bearer(KeyFile(home / "keys.json").create(name, role, **more)[1])


def audit(home: Path) -> list[dict[str, Any]]:
    path = home / "logs" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_keys_come_and_go_while_the_service_runs(tmp_path: Path) -> None:
    def status(headers: dict[str, str]) -> int:
        return client.get("/v1/presets", headers=headers).status_code

    file = KeyFile(tmp_path / "keys.json")
    with serving(tmp_path) as client:
        assert status({}) == 200
        key = make(tmp_path, "a")
        time.sleep(CHECK_S)
        assert (status({}), status(key), status(bearer("snf_x_y"))) == (401, 200, 401)
        assert client.get("/v1/presets").headers["www-authenticate"].startswith("Bearer")
        _, text = file.rotate("a", timedelta(seconds=3600))
        time.sleep(CHECK_S)
        assert (status(key), status({"x-api-key": text})) == (200, 200)
        file.revoke("a")
        time.sleep(CHECK_S)
        assert (status({}), status(key), status(bearer(text))) == (401, 401, 401), "the last key opens nothing"
        assert "revoked" in client.get("/v1/presets", headers=bearer(text)).json()["detail"]


def test_an_expired_key_says_so(tmp_path: Path) -> None:
    key = make(tmp_path, "a", expires=datetime.now(UTC) + timedelta(seconds=1.2))
    with serving(tmp_path) as client:
        while client.get("/v1/presets", headers=key).status_code == 200:
            time.sleep(0.1)
        assert client.get("/v1/presets", headers=key).json()["detail"] == "the key has expired"


@pytest.mark.parametrize("how", ["damaged", "gone", "a folder"])
def test_a_broken_file_of_keys_opens_nothing(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    key, path = make(tmp_path, "a", "admin"), tmp_path / "keys.json"
    kept = path.read_bytes()
    with serving(tmp_path, api_keys=("open-sesame-0123",)) as client:
        assert client.get("/v1/presets", headers=key).status_code == 200
        path.unlink()
        if how == "damaged":
            path.write_bytes(kept[:-20])
        if how == "a folder":
            path.mkdir()
        time.sleep(CHECK_S)
        for headers in (key, bearer("anything"), {"x-api-key": "s\xe9same".encode("latin-1")}):
            answer = client.get("/v1/presets", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (503, "keys-unreadable")
            assert str(tmp_path) not in answer.text
        assert client.get("/v1/presets").status_code == 401
        assert client.get("/v1/presets", headers=bearer("open-sesame-0123")).status_code == 200
        said = [record for record in caplog.records if record.name == "snf_app.access.authentication"]
        assert [record.levelname for record in said] == ["ERROR"]
        assert str(path) in said[0].getMessage()
        path.rmdir() if how == "a folder" else path.unlink(missing_ok=True)
        path.write_bytes(kept)
        time.sleep(CHECK_S)
        assert client.get("/v1/presets", headers=key).status_code == 200


def test_a_service_that_starts_with_a_damaged_file_is_closed(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    assert KeyRing(Settings(home=tmp_path)).needed
    with serving(tmp_path) as client:
        assert client.get("/v1/presets").status_code == 401
        assert client.get("/v1/presets", headers=bearer("x")).status_code == 503


def test_wrong_keys_are_slowed_down_and_leave_a_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = make(tmp_path, "a", "admin")
    with serving(tmp_path) as client, caplog.at_level(logging.WARNING, "snf_app.access.authentication"):
        assert client.get("/v1/presets", headers=key).status_code == 200
        guesses = (client.build_request("GET", "/v1/presets", headers=bearer(f"snf_{n}_guess")) for n in range(95))
        refused = answers(client, guesses)
        statuses = [answer.status_code for answer in refused]
        assert statuses[:FREE_ATTEMPTS] == [401] * FREE_ATTEMPTS
        assert statuses.count(429) > 80
        held_off = refused[statuses.index(429)]
        assert held_off.json()["type"] == "too-many-wrong-keys"
        assert int(held_off.headers["retry-after"]) >= 1
        assert client.get("/v1/presets", headers=key).status_code == 200, "who was let in before is not locked out"
        assert client.get("/v1/presets").status_code == 401
        metrics = client.get("/metrics", headers=key).text
    counted = {
        line.partition('reason="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("snf_authentication_failures_total{")
    }
    assert counted["unknown"] + counted["held-off"] == 95
    assert counted["missing"] == 1
    records = [record for record in audit(tmp_path) if record["event"] == "wrong-key"]
    assert 2 <= len(records) <= 10
    assert sum(record["attempts"] for record in records) >= FREE_ATTEMPTS
    assert records[0]["address"] == "testclient"
    assert len(caplog.records) == len(records)
    assert "guess" not in json.dumps(records) + caplog.text


def test_a_right_key_is_let_in_from_an_address_that_is_held_off(tmp_path: Path) -> None:
    def status(headers: dict[str, str]) -> int:
        return client.get("/v1/presets", headers=headers).status_code

    made = KeyFile(tmp_path / "keys.json").create("a", "read")[1]
    old = make(tmp_path, "old", expires=datetime.now(UTC) - timedelta(days=1))
    guess = bearer(made[:-1] + ("A" if made[-1] != "A" else "B"))
    with serving(tmp_path, api_keys=("open-sesame-0123",)) as client:
        assert [status(bearer(f"guess-{n}")) for n in range(FREE_ATTEMPTS)] == [401] * FREE_ATTEMPTS
        held_off = [status(guess) for _ in range(8)]
        assert held_off == [429] * 8, "wrong secrets of a known id lengthen the wait"
        assert int(client.get("/v1/presets", headers=guess).headers["retry-after"]) > 30
        assert status(bearer(f"snf_{'0' * 12}_{'x' * 43}")) == 429
        assert status(bearer("open-sesame-0123")) == 429, (
            "of a key of the environment nothing says that it is hard to guess"
        )
        assert (status(bearer(made)), status(old)) == (200, 401)


def test_a_key_has_rate_limits(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    Registry(tmp_path / "registry").publish(barely_trained(tmp_path_factory), "digits")
    few = make(tmp_path, "few", requests="3/hour")
    images = make(tmp_path, "images", "score", images="4/hour")
    unlimited = make(tmp_path, "unlimited")
    with serving(tmp_path) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        assert [client.get("/v1/presets", headers=few).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get("/v1/presets", headers=few)
        assert refused.json()["type"] == "rate-limited"
        assert (refused.json()["limit"], refused.json()["unit"]) == ("3/hour", "requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["ratelimit-policy"] == '"requests";q=3;w=3600'
        assert re.fullmatch(r'"requests";r=0;t=[0-9]{1,4}', refused.headers["ratelimit"])
        three = client.post(SCORE, files=files(*DIGITS[:3]), headers=images)
        assert three.status_code == 200, three.text
        assert three.headers["ratelimit-policy"] == '"images";q=4;w=3600'
        assert three.headers["ratelimit"].startswith('"images";r=1;t=')
        two = client.post(SCORE, files=files(*DIGITS[:2]), headers=images)
        assert (two.status_code, two.json()["unit"]) == (429, "images")
        assert client.get("/v1/models/digits/samples?n=1", headers=images).status_code == 200
        assert client.get("/v1/models/digits/samples?n=1", headers=images).status_code == 429
        large = client.post(SCORE, files=files(*DIGITS[:5]), headers=images)
        assert (large.status_code, large.json()["type"]) == (422, "larger-than-rate-limit")
        free = client.get("/v1/presets", headers=unlimited)
        assert free.status_code == 200
        assert not {"ratelimit", "ratelimit-policy"} & free.headers.keys()


def test_readiness_names_models_to_callers_with_a_key_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Registry(tmp_path / "registry").publish(barely_trained(tmp_path_factory), "digits")
    reader = make(tmp_path, "reader")
    with serving(tmp_path) as client:
        for headers, models in (({}, {}), (bearer("wrong"), {}), (reader, {"digits"})):
            answer = client.get("/readyz", headers=headers).json()
            assert (set(answer["models"]), answer["failed"], answer["jobs"]) == (set(models), {}, "degraded")


def test_changes_are_audited_and_nothing_else(tmp_path: Path) -> None:
    text = KeyFile(tmp_path / "keys.json").create("ann", "admin")[1]
    key = bearer(text) | {"user-agent": "test/1"}
    low = make(tmp_path, "low")
    with serving(tmp_path) as client:
        client.get("/v1/models", headers=key)
        client.post(SCORE, content=b"?", headers=key | {"content-type": "image/png"})
        client.delete("/v1/models/none", headers=low)
        client.delete("/v1/models/none")
        client.put("/v1/models/none/aliases/live", json={"version": 3}, headers=key)
        client.post("/v1/models?name=new&promote=true", content=b"?", headers=key)
        client.delete("/v1/datasets/mnist-mini", headers=key)
    moved, imported, deleted = audit(tmp_path)
    assert moved["event"] == "change"
    assert (moved["operation"], moved["method"], moved["status"]) == ("move_alias", "PUT", 404)
    assert moved["path"] == "/v1/models/none/aliases/live"
    assert "body" not in moved, "the body of a refused request is not recorded"
    assert (moved["key"], moved["role"], moved["address"]) == ("ann", "admin", "testclient")
    assert moved["caller"] == f"key:{text.split('_')[1]}"
    assert moved["agent"] == "test/1"
    assert datetime.fromisoformat(moved["time"]).utcoffset() == timedelta(0)
    assert "new" not in json.dumps(imported), "nor its query"
    assert (deleted["operation"], deleted["status"]) == ("delete_dataset", 409)
    assert text not in (tmp_path / "logs" / "audit.jsonl").read_text()


def test_every_request_can_be_logged(tmp_path: Path) -> None:
    key = make(tmp_path, "a")
    with serving(tmp_path, access_log=True) as client:
        size = len(client.get("/v1/presets", headers=key).content)
        client.get("/v1/models/x\u2028y", headers=key)
        client.get("/v1/models")
    path = tmp_path / "logs" / "access.jsonl"
    first, second, third = [json.loads(line) for line in path.read_text().splitlines()]
    assert (first["method"], first["route"], first["status"], first["bytes"]) == ("GET", "/v1/presets", 200, size)
    assert first["caller"].startswith("key:")
    assert first["ms"] > 0
    assert (second["route"], second["status"]) == ("/v1/models/{ref}", 404)
    assert (third["caller"], third["status"]) == ("address:testclient", 401)
    assert key["authorization"].partition(" ")[2] not in path.read_text()


def test_paths_without_a_key_have_a_limit_and_health_checks_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "OPEN_RATE", parse("3/hour"))
    monkeypatch.setattr(authentication, "REFUSAL_RATE", parse("1/hour"))
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    with serving(tmp_path, api_keys=("a" * 32,)) as client:
        # Not the function of the library: tasks of the service would no longer sleep, and hold the event loop.
        monkeypatch.setattr(authentication, "asyncio", SimpleNamespace(sleep=note))
        assert [client.get(path).status_code for path in ("/", "/docs", "/openapi.json", "/docs")] == [200] * 3 + [429]
        refused = client.get("/console/js/main.js")
        assert (refused.status_code, refused.json()["type"]) == (429, "too-many-requests")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/models").status_code == 401
        monkeypatch.undo()
    # The first refusal is answered at once.
    assert pauses == [authentication.PAUSE_S] * 2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> FailedAttempts:
    return FailedAttempts(clock)


def test_waits_begin_after_ten_and_double(attempts: FailedAttempts, clock: Clock) -> None:
    for _ in range(FREE_ATTEMPTS - 1):
        attempts.failed("10.0.0.1", "x")
        assert attempts.wait_s("10.0.0.1", "x") == 0
    waits = []
    for _ in range(9):
        attempts.failed("10.0.0.1", "x")
        waits.append(attempts.wait_s("10.0.0.1", "y"))
        clock.now += waits[-1]
        assert attempts.wait_s("10.0.0.1", "y") == 0
    assert waits == [1, 2, 4, 8, 16, 32, MAX_WAIT_S, MAX_WAIT_S, MAX_WAIT_S]


def test_a_network_of_ipv6_is_one_address(attempts: FailedAttempts) -> None:
    for number in range(FREE_ATTEMPTS):
        attempts.failed(f"2001:db8::{number:x}", "x")
    assert attempts.wait_s("2001:db8::ffff:1", "x") > 0
    assert attempts.wait_s("2001:db8:0:1::1", "x") == 0
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("::ffff:10.0.0.9", "x")
    assert attempts.wait_s("10.0.0.9", "x") > 0
    assert attempts.wait_s("10.0.0.8", "x") == 0


def test_memory_is_bounded_and_wrong_keys_push_out_no_right_one(attempts: FailedAttempts) -> None:
    attempts.succeeded("10.0.0.1", "right")
    for number in range(3 * MAX_REMEMBERED):
        attempts.failed(f"10.1.{number // 256}.{number % 256}", "x")
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("10.0.0.1", "x")
    assert attempts.wait_s("10.0.0.1", "right") == 0
    assert len(attempts._addresses) == MAX_REMEMBERED
    for number in range(3 * MAX_REMEMBERED):
        attempts.succeeded("10.0.0.1", str(number))
    assert len(attempts._right) == MAX_REMEMBERED


def test_a_log_that_cannot_be_written_stops_no_call(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with serving(tmp_path, access_log=True) as client:
        assert client.delete("/v1/datasets/mnist-mini").status_code == 409


def test_an_address_is_forgotten(attempts: FailedAttempts, clock: Clock) -> None:
    for _ in range(FREE_ATTEMPTS - 1):
        attempts.failed("10.0.0.1", "x")
    clock.now += WINDOW_S
    assert attempts.failed("10.0.0.1", "x").wrong == 1


def test_a_key_that_was_right_stays_usable_from_its_address(attempts: FailedAttempts) -> None:
    attempts.succeeded("10.0.0.1", "right")
    for _ in range(FREE_ATTEMPTS):
        attempts.failed("10.0.0.1", "wrong")
    assert attempts.wait_s("10.0.0.1", "right") == 0
    assert attempts.wait_s("10.0.0.1", "wrong") > 0
    attempts.failed("10.0.0.1", "right")  # revoked meanwhile
    assert attempts.wait_s("10.0.0.1", "right") > 0
