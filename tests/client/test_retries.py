"""What is repeated, when, and what is raised in the end, against a real server."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from snf_client import (
    AsyncClient,
    Busy,
    Client,
    ClientError,
    Conflict,
    InvalidRequest,
    NotFound,
    ProblemError,
    ServiceFailed,
    ServiceUnavailable,
    UnexpectedAnswer,
)
from snf_client.schemas.base import examples_of
from snf_client.schemas.jobs import JobView
from snf_client.schemas.models import ModelPage
from snf_client.schemas.service import Readiness
from tests.client.scripted_server import DROPPED, QUICK, Answer, Scripted, problem, scripted

JOB = examples_of(JobView)[0]
BUSY, DOWN = problem(429, "queue-full"), problem(503, "draining")


def in_threads(url: str) -> Readiness:
    with Client(url, retries=QUICK) as client:
        return client.readiness()


def on_a_loop(url: str) -> Readiness:
    async def ask() -> Readiness:
        async with AsyncClient(url, retries=QUICK) as client:
            return await client.readiness()

    return asyncio.run(ask())


@pytest.fixture(params=[in_threads, on_a_loop])
def ask(request: pytest.FixtureRequest) -> Callable[[str], Readiness]:
    found: Callable[[str], Readiness] = request.param
    return found


@pytest.mark.parametrize(
    "before",
    [(BUSY,), (BUSY, BUSY, BUSY), (DROPPED,), (Answer(cut=True),), (BUSY, DROPPED, Answer(502, b"<html>"))],
    ids=["busy", "busy-thrice", "dropped", "cut", "mixed"],
)
def test_harmless_calls_are_repeated(ask: Callable[[str], Readiness], before: tuple[Answer | None, ...]) -> None:
    with scripted(*before, Answer()) as server:
        assert ask(server.url).status == "ready"
        assert len(server.requests) == len(before) + 1


def test_the_last_error_is_raised_with_its_type(ask: Callable[[str], Readiness]) -> None:
    with scripted(
        DROPPED, *[problem(429, "queue-full", errors=[{"pointer": "/x", "detail": "y"}], more=7)] * 9
    ) as server:
        with pytest.raises(Busy) as raised:
            ask(server.url)
        assert len(server.requests) == QUICK.attempts
    error = raised.value
    assert (error.status, error.type, error.title, error.detail) == (429, "queue-full", "Queue-Full", "so it is")
    assert [(one.pointer, one.detail) for one in error.errors] == [("/x", "y")]
    assert error.extensions == {"more": 7}


def test_a_service_that_is_not_there(ask: Callable[[str], Readiness]) -> None:
    with scripted() as server:
        pass
    with pytest.raises(ServiceUnavailable, match="does not answer") as raised:
        ask(server.url)
    assert not raised.value.sent


def test_a_service_that_has_answered_is_tried_longer() -> None:
    told: list[float] = []
    retries = replace(
        QUICK, attempts=7, attempts_before_contact=2, on_retry=lambda _error, seconds: told.append(seconds)
    )
    with scripted(Answer(headers={"Connection": "close"})) as server:
        known = Client(server.url, retries=retries)
        known.readiness()
    with known, pytest.raises(ServiceUnavailable):
        known.readiness()
    assert len(told) == 6
    told.clear()
    with Client(server.url, retries=retries) as client, pytest.raises(ServiceUnavailable):
        client.readiness()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (422, InvalidRequest), (413, InvalidRequest), (500, ServiceFailed)],
)
def test_refusals_are_not_repeated(status: int, kind: type[ProblemError]) -> None:
    with scripted(problem(status, "no")) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(kind):
            client.models.list()
        assert len(server.requests) == 1


def test_something_else_answers() -> None:
    page = Answer(404, b"<html>nginx</html>")
    with scripted(page, Answer(200, b"<html>hello</html>")) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(NotFound, match="the service answered 404 Not Found"):
            client.models.list()
        with pytest.raises(UnexpectedAnswer):
            client.models.list()


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.models.card("digits"),
        lambda client: client.jobs.metrics_csv("01"),
        lambda client: client.jobs.log("01"),
        lambda client: client.datasets.contact_sheet("lots"),
        lambda client: client.samples.file("digits"),
    ],
    ids=["card", "curve", "log", "picture", "samples"],
)
def test_a_page_for_every_address_is_no_answer(ask: Callable[[Client], object]) -> None:
    page = Answer(200, b"<html>hello</html>", {"Content-Type": "text/html; charset=utf-8"})
    with (
        scripted(page) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(UnexpectedAnswer, match="check that the address is that of the service"),
    ):
        ask(client)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(form: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    busy = problem(429, "queue-full", headers={"Retry-After": "1" if form == "seconds" else date})
    with scripted(busy, Answer()) as server, Client(server.url, retries=QUICK) as client:
        began = time.monotonic()
        client.readiness()
        # A date has no fractions of a second.
        assert 0.9 < time.monotonic() - began < 3.5


def test_no_wait_is_longer_than_the_time_for_all_attempts() -> None:
    down = problem(503, "draining", headers={"Retry-After": "3600"})
    with scripted(down, Answer()) as server, Client(server.url, retries=replace(QUICK, seconds=5)) as client:
        began = time.monotonic()
        with pytest.raises(ServiceFailed) as raised:
            client.models.list()
        assert raised.value.retry_after == 3600
        assert time.monotonic() - began < 2


def test_a_job_is_submitted_once_however_often_it_is_sent() -> None:
    with scripted(DROPPED, DOWN, Answer(202, JOB)) as server, Client(server.url, retries=QUICK) as client:
        assert client.jobs.train("mnist-mini", "first").id == JOB["id"]
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_what_may_not_be_done_twice_is_sent_twice_only_where_it_was_refused() -> None:
    with scripted(DOWN, Answer(202, JOB), DROPPED) as server, Client(server.url, retries=QUICK) as client:
        client.jobs.cancel(JOB["id"])
        with pytest.raises(ServiceUnavailable):
            client.jobs.cancel(JOB["id"])
        assert len(server.requests) == 3


@pytest.mark.parametrize("lost", [DROPPED, Answer(502, b"<html>")], ids=["dropped", "proxy"])
def test_a_deletion_whose_answer_was_lost_may_find_that_it_was_done(lost: Answer | None) -> None:
    gone = problem(404, "dataset-not-found")
    with scripted(lost, gone, lost, gone, BUSY, gone) as server:
        with Client(server.url, retries=QUICK) as client:
            client.datasets.delete("cells")

        async def on_a_loop() -> None:
            async with AsyncClient(server.url, retries=QUICK) as client:
                await client.models.delete_version("digits", 1)

        asyncio.run(on_a_loop())
        with Client(server.url, retries=QUICK) as client, pytest.raises(NotFound):
            client.datasets.delete("never-there")  # what was refused at first was not done
        assert [request.method for request in server.requests] == ["DELETE"] * 6


@pytest.mark.parametrize("refusal", [DROPPED, BUSY])
def test_an_upload_is_not_repeated(refusal: Answer | None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 300_000)
    told: list[tuple[int, int]] = []
    with scripted(refusal, Answer(201)) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(ClientError):
            client.datasets.upload("some", tmp_path, progress=lambda done, total: told.append((done, total)))
        assert len(server.requests) == 1
    assert told[-1] == (300_000, 300_000)


def test_pauses_grow_and_differ() -> None:
    retries = replace(QUICK, first_pause=1.0, longest_pause=8.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (4, 8.0), (9, 8.0)):
        pauses = {retries.pause(None, failures) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
    told: list[float] = []
    heard = replace(QUICK, on_retry=lambda _error, seconds: told.append(seconds))
    with scripted(BUSY, DROPPED, Answer()) as server, Client(server.url, retries=heard) as client:
        client.readiness()
    assert len(told) == 2


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(server: Scripted) -> tuple[str, str | None]:
        return server.requests[-1].path, server.requests[-1].headers.get("Authorization")

    with scripted(Answer(), Answer(), Answer()) as server:
        monkeypatch.setenv("SNF_URL", server.url + "/")
        for key in ("secret", "secret\n"):  # a secret of a cluster may end with a line break
            monkeypatch.setenv("SNF_API_KEY", key)
            with Client() as client:
                client.readiness()
            assert asked(server) == ("/readyz", "Bearer secret")
        with Client(key="other") as client:
            client.readiness()
        assert asked(server) == ("/readyz", "Bearer other")
    for address in ("127.0.0.1:8000", "http://host:80a", "http://[::1"):
        with pytest.raises(ValueError, match="expected an address"):
            Client(address)
    for key in ("sec\nret", "secret\x7f", "s\u00e9cret"):
        with pytest.raises(ValueError, match="expected an API key of printable ASCII") as raised:
            Client(key=key)
        assert key not in str(raised.value)


def test_a_request_that_http_does_not_allow_is_not_repeated() -> None:
    told: list[ClientError] = []
    retries = replace(QUICK, on_retry=lambda error, _seconds: told.append(error))
    with scripted() as server, Client(server.url, retries=retries) as client:
        with pytest.raises(ClientError, match=r"^POST /v1/jobs cannot be sent: HTTP does not allow it$") as raised:
            client.jobs.train("digits", "first", key="two\nlines")
        assert server.requests == told == []
    assert not isinstance(raised.value, ServiceUnavailable)


def test_a_download_is_there_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "scores.parquet"
    half, whole = Answer(200, b"PAR", cut=True), Answer(200, b"PAR1")
    with scripted(half, whole, *[half] * 4) as server, Client(server.url, retries=QUICK) as client:
        assert client.jobs.download("x", target).read_bytes() == b"PAR1"
        with pytest.raises(ServiceUnavailable):
            client.jobs.download("x", target)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
    assert target.read_bytes() == b"PAR1"


@pytest.mark.parametrize("status", [301, 307])
def test_a_moved_address_is_named_and_nothing_is_done(status: int, tmp_path: Path) -> None:
    moved = Answer(status, b"<html>moved</html>", {"Location": "https://elsewhere.example/v1/jobs/x"})
    kept = tmp_path / "scores.parquet"
    kept.write_bytes(b"earlier scores")
    calls: list[Callable[[Client], object]] = [
        lambda client: client.jobs.delete("x"),
        lambda client: client.jobs.download("x", kept),
        lambda client: client.jobs.get("x"),
    ]
    for call in calls:
        with scripted(moved) as server, Client(server.url, key="secret", retries=QUICK) as client:
            with pytest.raises(UnexpectedAnswer, match=f"{status} .* points to https://elsewhere.example"):
                call(client)
            assert len(server.requests) == 1
    assert kept.read_bytes() == b"earlier scores"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_all_pages_of_a_list_are_read_into_one(asynchronous: bool) -> None:
    model = {
        **dict.fromkeys(
            ("reason", "read_only", "architecture", "kind", "image_shape", "test_bits_per_dim", "size_bytes")
        ),
        **{"versions": [1], "aliases": {}, "state": "ready", "unfit": []},
    }
    pages = [
        {"models": [model | {"name": name}], "next": after} for name, after in (("a", "a"), ("b", "b"), ("c", None))
    ]

    async def ask(url: str) -> ModelPage:
        async with AsyncClient(url, retries=QUICK) as client:
            return await client.models.list()

    # A failure of one page is repeated alone.
    with scripted(Answer(200, pages[0]), BUSY, *(Answer(200, page) for page in pages[1:])) as server:
        if asynchronous:
            found = asyncio.run(ask(server.url))
        else:
            with Client(server.url, retries=QUICK) as client:
                found = client.models.list()
    assert ([entry.name for entry in found.models], found.next) == (["a", "b", "c"], None)
    asked = ["/v1/models", "/v1/models?after=a", "/v1/models?after=a", "/v1/models?after=b"]
    assert [request.path for request in server.requests] == asked
    # A service that repeats its cursor does not hold the client for ever, and one without pages has no cursor.
    for last in (pages[0], {"models": []}):
        with scripted(*[Answer(200, page) for page in (pages[0], last)]) as server, Client(server.url) as client:
            assert len(client.models.list().models) == 1 + len(last["models"])
