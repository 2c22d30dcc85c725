"""A body ends where its client falls silent or leaves, and where the service stops; documented examples are true."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app import dataset_uploads
from app.dataset_schemas import DatasetDetail, DatasetList
from app.dataset_uploads import PIECE, _Body
from app.problems import Problem


class Client:
    """Sends its messages, then nothing."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = iter(messages)

    async def receive(self) -> Message:
        for message in self._messages:
            return message
        await asyncio.sleep(60)
        raise AssertionError("it was waited for too long")


def body(*messages: Message, stopping: bool = False) -> _Body:
    event = threading.Event()
    if stopping:
        event.set()
    return _Body(cast(Request, Client(messages)), event)


def chunk(data: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_comes_in_pieces() -> None:
    made = body(chunk(b"a" * PIECE), chunk(b"b"), chunk(b""), chunk(b"c", more=False))
    pieces = [asyncio.run(made.piece()) for _ in range(3)]
    assert pieces == [b"a" * PIECE, b"bc", b""]


def test_silence_ends_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_uploads, "SILENCE_S", 0.2)
    monkeypatch.setattr(dataset_uploads, "LOOK_S", 0.05)
    with pytest.raises(Problem) as found:
        asyncio.run(body(chunk(b"a")).piece())
    assert (found.value.status, found.value.slug) == (408, "upload-stalled")


def test_a_client_that_leaves_and_a_service_that_stops_end_a_body() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(body(chunk(b"a"), {"type": "http.disconnect"}).piece())
    with pytest.raises(Problem) as found:
        asyncio.run(body(chunk(b"a"), stopping=True).piece())
    assert found.value.status == 503


@pytest.mark.parametrize("model", [DatasetDetail, DatasetList])
def test_the_documented_examples_are_answers(model: type[DatasetDetail] | type[DatasetList]) -> None:
    examples: Any = model.model_config["json_schema_extra"]
    for example in examples["examples"]:
        assert model.model_validate(example).model_dump(mode="json") == example
