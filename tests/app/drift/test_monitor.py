"""Drift over HTTP: real digits are no drift, brightened ones are, and a restart forgets neither."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from snf_app.drift import service as drift_service
from tests.end_to_end.support.service import files
from tests.support.disks import refuse_writes
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.worker.support.helpers import until

MODEL = "/v1/models/mnist-snf-glow"


@contextmanager
def service(home: Path) -> Iterator[TestClient]:
    with client_of(service_settings(home)) as client:
        yield client


def stack(brighter: int) -> bytes:
    pixels = np.stack([np.asarray(Image.open(path)) for path in DIGITS])
    file = io.BytesIO()
    np.save(file, np.clip(pixels.astype(np.int64) + brighter, 0, 255).astype(np.uint8))
    return file.getvalue()


def score(client: TestClient, brighter: int, **query: str) -> None:
    headers = {"content-type": "application/x-npy"}
    client.post(f"{MODEL}/score", params=query, content=stack(brighter), headers=headers).raise_for_status()


def drift(client: TestClient) -> dict[str | None, dict[str, Any]]:
    return {one["source"]: one for one in client.get(f"{MODEL}:1").json()["drift"]}


def metric(client: TestClient, name: str) -> dict[str, float]:
    """Values by source of a metric of the model."""
    return {
        sample.labels["source"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and sample.labels["model"] == "mnist-snf-glow"
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_brightened_digits_are_an_alarm_that_survives_a_restart(home: Path) -> None:
    with service(home) as client:
        assert drift(client) == {}
        assert metric(client, "snf_drift_alarm") == {}
        score(client, 0, source="line 1/left")
        # The same digits again, which for all sources together are not independent any more.
        score(client, 0, source="line 2")
        found = drift(client)
        assert {source: one["images"] for source, one in found.items()} == {None: 72, "line 1/left": 36, "line 2": 36}
        for one in found.values():
            assert not one["alarm"]
            assert one["alarm_since"] is None
        assert metric(client, "snf_drift_alarm") == {"": 0, "line 1/left": 0, "line 2": 0}
        score(client, 20, source="line 1/right")
        found = drift(client)
        assert {source: one["alarm"] for source, one in found.items()} == {
            None: True,
            "line 1/left": False,
            "line 2": False,
            "line 1/right": True,
        }
        assert found["line 1/right"]["since"] <= found["line 1/right"]["alarm_since"]
        assert found["line 1/right"]["log10_threshold"] == pytest.approx(3.301, abs=1e-3)
        assert metric(client, "snf_drift_alarm") == {"": 1, "line 1/left": 0, "line 2": 0, "line 1/right": 1}
        assert metric(client, "snf_drift_images") == {"": 108, "line 1/left": 36, "line 2": 36, "line 1/right": 36}
        assert metric(client, "snf_drift_martingale_log10")["line 1/right"] > 3
        assert metric(client, "snf_drift_martingale_highest_log10")["line 1/left"] < 1
    with service(home) as client:
        assert drift(client) == found
        score(client, 0, source="line 1/left")
        assert drift(client)["line 1/left"]["images"] == 72


def test_images_without_a_source_are_not_watched(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        score(client, 20)
        assert drift(client) == {}
        (listed,) = (one for one in client.get("/v1/models").json()["models"] if one["name"] == "mnist-snf-glow")
        assert listed["drift_alarms"] == 0
        headers = {"content-type": "application/x-npy"}
        answer = client.post(f"{MODEL}/score", params={"monitor": "false"}, content=stack(0), headers=headers)
        assert answer.status_code == 422
        [problem] = answer.json()["errors"]
        assert problem["pointer"] == "/query/monitor"
        assert problem["detail"].endswith("any more: only images with a `source` are watched for drift")


def test_an_alarm_is_acknowledged_and_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with service(tmp_path) as client:
        assert client.delete(f"{MODEL}/drift").status_code == 404
        score(client, 20, source="line 1/right")
        report = client.get(f"{MODEL}/drift").json()
        assert (report["model"], report["version"], report["calibration"]) == ("mnist-snf-glow", 1, 0)
        assert report["drift"] == client.get(MODEL).json()["drift"]
        (listed,) = (one for one in client.get("/v1/models").json()["models"] if one["name"] == "mnist-snf-glow")
        assert listed["drift_alarms"] == 2
        answer = client.delete(f"{MODEL}/drift/line%201%2Fright")
        assert (answer.status_code, answer.content) == (204, b"")
        assert "acknowledged drift of mnist-snf-glow:1 from line 1/right: its test starts anew" in caplog.text
        assert {source: one["alarm"] for source, one in drift(client).items()} == {None: True}
        for unknown in ("line 1/right", "nobody", ""):
            answer = client.delete(f"{MODEL}@live/drift/{unknown}")
            assert (answer.status_code, answer.json()["type"]) == (404, "drift-not-found"), unknown
            assert repr(unknown) in answer.json()["detail"]
    with service(tmp_path) as client:
        # At rest all is as it was before.
        assert {source: one["alarm"] for source, one in drift(client).items()} == {None: True}
        score(client, 0, source="line 1/right")
        assert [one["images"] for one in drift(client).values()] == [72, 36]
        assert client.delete(f"{MODEL}:1/drift").status_code == 204
        assert list(drift(client)) == ["line 1/right"]
        for ref, status in (("nobody", 404), ("mnist-snf-glow:9", 404)):
            assert client.delete(f"/v1/models/{ref}/drift").status_code == status


def test_images_that_fail_are_not_counted(home: Path) -> None:
    with service(home) as client:
        before = drift(client)[None]["images"] if drift(client) else 0
        form = [*files(DIGITS[0]), ("images", ("notes.txt", b"no image", "text/plain"))]
        client.post(f"{MODEL}/score", params={"source": "forms"}, files=form).raise_for_status()
        found = drift(client)
        assert (found[None]["images"], found["forms"]["images"]) == (before + 1, 1)


def test_an_alarm_is_logged_and_kept_though_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("snf_app.drift.service.EVERY_S", 0.05)
    path = tmp_path / "drift" / "windows.json"
    path.parent.write_text("a file where a folder should be")
    with service(tmp_path) as client:
        score(client, 20, source="line 1")
        until(lambda: "mnist-snf-glow:1 drifts" in caplog.text)
        until(lambda: "cannot be written" in caplog.text)
        path.parent.unlink()
        until(path.is_file)
    assert caplog.text.count("mnist-snf-glow:1 drifts: its 36 images are not exchangeable") == 1
    assert caplog.text.count("cannot be written") == 1


def test_a_bad_label_is_refused(home: Path) -> None:
    with service(home) as client:
        for source in ("", " left", "-left", "left\n", "le\tft", 'le"ft', "ü", "x" * 65):
            answer = client.post(f"{MODEL}/score", params={"source": source}, files=files(DIGITS[0]))
            assert answer.status_code == 422, source
            assert answer.json()["errors"][0]["pointer"] == "/query/source"


def test_an_acknowledgement_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with service(tmp_path) as client:
        score(client, 20, source="line 1/right")
        before = drift(client)
        with pytest.MonkeyPatch.context() as patch:
            refuse_writes(patch, errno.ENOSPC)
            for path in ("drift", "drift/line%201%2Fright"):
                answer = client.delete(f"{MODEL}/{path}")
                assert (answer.status_code, answer.json()["type"]) == (507, "storage-full"), path
            assert drift(client) == before, "a restart would bring the alarm back"
        assert client.delete(f"{MODEL}/drift/line%201%2Fright").status_code == 204
        assert set(drift(client)) == {None}


def test_a_clock_that_was_set_from_1970_meanwhile_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=lambda: 60.0)
    monkeypatch.setattr("snf_app.drift.service.time", clock)
    with service(tmp_path) as client:
        score(client, 20, source="line 2")
        clock.time = lambda: 1.79e9  # as NTP does on a machine without a battery
        score(client, 20, source="line 1/right")
        before = drift(client)
        assert {source: one["images"] for source, one in before.items()} == {
            None: 72,
            "line 2": 36,
            "line 1/right": 36,
        }
    with service(tmp_path) as client:
        assert drift(client) == before
        assert client.delete(f"{MODEL}/drift").status_code == 204


def test_streams_that_do_not_fit_their_file_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object) -> None:
        raise ValueError("expected a time since 1970")

    monkeypatch.setattr(drift_service, "EVERY_S", 3600.0)  # the thread would store the streams before
    with pytest.MonkeyPatch.context() as patch, service(tmp_path) as client:
        score(client, 20, source="line 1/right")
        before = drift(client)
        patch.setattr(drift_service, "save_streams", refuse)
        for path in ("drift", "drift/line%201%2Fright"):
            with pytest.raises(ValueError, match="expected a time since 1970"):
                client.delete(f"{MODEL}/{path}")
        assert drift(client) == before
    # The end of the service was not disturbed.
    assert "cannot be written, so a restart would forget drift: expected a time since 1970" in caplog.text
