"""Readiness answers soon whatever hangs, and tells strangers nothing of the disk."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snf_app.registry.model_pool import ModelListing, ModelPool, reason_of
from snf_app.scoring.service import DetectImages, RequestedImage
from snf_models.errors import ArtifactError
from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.settings import Settings
from tests.app.conftest import MODEL
from tests.support.compiled_cache import share_compiled
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of
from tests.worker.support.helpers import until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=share_compiled(tmp_path), runtime_dir=Path(f"/tmp/snf-readiness-{os.getpid()}"), redis_url=None
    )


@pytest.fixture
def server(settings: Settings) -> Iterator[int]:
    """The process id of a real broker."""
    broker = EmbeddedBroker(settings)
    broker.start()
    yield int(redis_client(settings).info("server")["process_id"])
    broker.stop()
    settings.runtime_folder.rmdir()


def test_a_broker_that_hangs_delays_nothing(settings: Settings, server: int) -> None:
    # Long enough that waiting for one answer could not go unnoticed.
    patient = settings.model_copy(update={"broker_timeout_s": 20.0})
    with client_of(patient) as client:
        until(lambda: client.get("/readyz").json()["jobs"] == "ok")
        os.kill(server, signal.SIGSTOP)
        try:
            began = time.monotonic()
            until(lambda: client.get("/readyz").json()["jobs"] == "degraded", 20)
            assert time.monotonic() - began < 20
        finally:
            os.kill(server, signal.SIGCONT)
        until(lambda: client.get("/readyz").json()["jobs"] == "ok")


def test_a_scorer_that_hangs_makes_the_service_not_ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()
    judge = DetectImages.__call__

    def hang(self: DetectImages, images: Sequence[RequestedImage]) -> object:
        hung.wait(60)
        return judge(self, images)

    monkeypatch.setattr(DetectImages, "__call__", hang)
    image: dict[str, Any] = {"content": DIGITS[0].read_bytes(), "headers": {"content-type": "image/png"}}
    hasty = settings.model_copy(update={"request_timeout_s": 0.5})
    with client_of(hasty) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/readyz").json()["reason"] is None
        assert client.post(f"/v1/models/{MODEL}/score", **image).status_code == 504
        until(lambda: client.get("/readyz").status_code == 503)
        answer = client.get("/readyz").json()
        assert answer["status"] == "stuck"
        assert re.fullmatch(r"a batch of images has been scored for \d s and does not end", answer["reason"])
        hung.set()
        until(lambda: client.get("/readyz").status_code == 200)
        image["headers"] |= {"x-timeout-ms": "60000"}
        assert client.post(f"/v1/models/{MODEL}/score", **image).status_code == 200


def test_reasons_hold_no_paths(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing") as caught:
        (tmp_path / "missing").read_text()
    assert reason_of(caught.value) == "No such file or directory"
    assert reason_of(ValueError(f"cannot read {tmp_path}")) == "ValueError"
    assert reason_of(ArtifactError("digits/1/manifest.json is missing")) == "digits/1/manifest.json is missing"


@pytest.mark.usefixtures("no_shipped_models")
def test_many_callers_share_one_reading_of_the_registry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    listing, readings = ModelPool.listing, []

    def slow_listing(pool: ModelPool) -> list[ModelListing]:
        readings.append(time.monotonic())
        time.sleep(0.05)
        return listing(pool)

    monkeypatch.setattr(ModelPool, "listing", slow_listing)
    with client_of(settings) as client, ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: client.get("/readyz").json()["models"], range(64)))
        assert answers == [{}] * 64
        assert len(readings) == 1
        # A reading takes at most 2 % of the time, and a change is seen soon.
        until(lambda: client.get("/readyz") and len(readings) == 2)
    assert readings[1] - readings[0] > 0.05 / 0.02
