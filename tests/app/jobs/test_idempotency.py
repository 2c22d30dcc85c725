"""An ``Idempotency-Key`` belongs to its caller."""

import pytest
from fastapi.testclient import TestClient

from snf_app.main import create_app
from snf_worker.settings import Settings
from tests.support.local import LOCAL

pytestmark = pytest.mark.usefixtures("no_shipped_models")

REQUEST = {"type": "train", "dataset": "mnist-mini", "model": "m", "preset": "snf-glow-tiny"}
ONCE = {"Idempotency-Key": "once"}


def test_callers_do_not_share_their_keys(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": ("a" * 32, "b" * 32)})
    with TestClient(create_app(keyed), LOCAL) as client:

        def submit(key: str, model: str = "m") -> tuple[int, str]:
            headers = ONCE | {"X-API-Key": key * 32}
            answer = client.post("/v1/jobs", json=REQUEST | {"model": model}, headers=headers)
            return answer.status_code, answer.json().get("id", answer.json().get("type"))

        first, second = submit("a"), submit("b")
        assert first[0] == second[0] == 202
        assert first != second
        assert (submit("a"), submit("b")) == (first, second)
        # The same key with another request is refused to its own caller alone.
        assert submit("a", model="other") == (422, "idempotency-key-reused")


def test_callers_without_api_keys_are_one(settings: Settings) -> None:
    ids = set()
    for address in ("127.0.0.1", "::1"):
        with TestClient(create_app(settings), LOCAL, client=(address, 50000)) as client:
            ids.add(client.post("/v1/jobs", json=REQUEST, headers=ONCE).json()["id"])
    assert len(ids) == 1
