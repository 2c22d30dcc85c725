"""Bodies: who may send one, and how much of them the service holds, over real sockets."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.support.service import score_one, serving
from tests.end_to_end.support.uploads import half_a_post
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

SCORE = "/v1/models/digits/score"


@pytest.fixture(scope="module")
def keyed_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keyed(keyed_home: Path) -> Iterator[httpx.Client]:
    """A service that others reach, which makes a key."""
    with serving(keyed_home, shipped=False, measured=True, host="0.0.0.0") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (SCORE, "image/png"),
        ("/v1/jobs", "application/json"),
        ("/v1/datasets", "multipart/form-data; boundary=together"),
        ("/v1/models?name=mine", "application/x-tar"),
    ],
)
def test_a_key_is_asked_for_before_the_body(keyed: httpx.Client, path: str, kind: str) -> None:
    with half_a_post(keyed, path, b"", kind) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_an_address_that_others_reach_has_a_key(keyed: httpx.Client, keyed_home: Path) -> None:
    assert keyed.get("/v1/models").status_code == 401
    key = (keyed_home / "api-key").read_text().strip()
    assert keyed.get("/v1/models", headers={"x-api-key": key}).status_code == 200
    said = (keyed_home / "snf_app.server.log").read_text()
    assert str(keyed_home / "api-key") in said
    assert key not in said


def test_the_bytes_in_flight_are_bounded(home: Path) -> None:
    limits = {"max_upload_bytes": 100_000, "max_bytes_in_flight": 120_000}
    with serving(home, shipped=False, measured=True, **limits) as client:
        data = DIGITS[0].read_bytes()

        def post() -> httpx.Response:
            return client.post(SCORE, content=bytes(50_000), headers={"content-type": "image/png"})

        def refused_beside_another() -> httpx.Response | None:
            with half_a_post(client, SCORE, bytes(90_000)):
                time.sleep(0.5)  # until it has arrived: whichever comes second is refused
                answer = post()
                score_one(client, "digits", data)
            return answer if answer.status_code == 429 else None

        score_one(client, "digits", data)
        answer = until(refused_beside_another)
        assert answer.json()["type"] == "too-many-requests"
        assert int(answer.headers["retry-after"]) >= 1
        until(lambda: post().status_code == 422)
