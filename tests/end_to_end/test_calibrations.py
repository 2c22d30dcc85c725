"""A shipped model calibrated on images of one's own: new p-values without a restart, and the way back."""

import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from tests.end_to_end.support.service import MNIST, await_job, files, running, snf
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import pngs, zipped
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

MODEL = "/v1/models/mnist-snf-glow"
PATH = f"{MODEL}/calibrations"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="snf-home-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with running("tests.support.forking_house", home=home, forked=True, shipped=MNIST) as client:
        upload(client, "own", ("own.zip", zipped(pngs(30, 6)))).raise_for_status()
        yield client


def score(client: httpx.Client, **query: Any) -> httpx.Response:
    return client.post(f"{MODEL}/score", files=files(DIGITS[0]), params={"source": "line-1", **query})


def await_calibration(client: httpx.Client, number: int) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        body: dict[str, Any] = score(client).raise_for_status().json()
        if body["calibration"] == number:
            return body
        time.sleep(0.1)
    raise AssertionError(f"scores are by calibration {body['calibration']}, expected {number}")


def it_became_active_when_chosen(client: httpx.Client, in_record: dict[str, Any], result: dict[str, Any]) -> None:
    assert (in_record["active"], result["active"], await_calibration(client, 0)["calibration"]) == (
        False,
        False,
        0,
    )
    assert result["reason"] == (
        "its smallest p-value is 0.0909, that of calibration 0 in use 0.0002: it could no longer flag at alpha 0.001, "
        "0.005, 0.01, 0.02 and 0.05; choose calibration 1 to use it all the same"
    )
    told = client.put(f"{PATH}/active", json={"calibration": 1, "dry_run": True}).json()
    assert (told["active"], told["calibrations"][1]["reason"]) == (0, result["reason"])
    assert told["comparison"]["verdicts"]["images"] > 0
    chosen = client.put(f"{PATH}/active", json={"calibration": 1}).json()
    assert (chosen["active"], chosen["calibrations"][1]["reason"]) == (1, None)


def test_a_shipped_model_is_calibrated_and_goes_back(client: httpx.Client, home: Path) -> None:
    before = await_calibration(client, 0)
    asked = client.post(PATH, json={"dataset": "own"}, headers={"Idempotency-Key": "once"})
    assert asked.status_code == 202, asked.text
    job = asked.json()
    assert asked.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["type"], job["queue"], job["model"]) == ("calibrate", "score", "mnist-snf-glow:1")
    assert client.post(PATH, json={"dataset": "own"}, headers={"Idempotency-Key": "once"}).json()["id"] == job["id"]
    used = client.delete("/v1/datasets/own")
    assert (used.status_code, used.json()["type"]) == (409, "dataset-in-use"), used.text
    done = await_job(client, job["id"], "succeeded")
    assert (done["result"]["calibration"], done["result"]["smallest_p"]) == (1, 1 / 11)
    result = client.get(done["links"]["result"]).json()
    assert result["links"]["calibration"] == done["links"]["calibration"] == f"{MODEL}:1/calibrations/1"
    it_became_active_when_chosen(client, done["result"], result)

    after = await_calibration(client, 1)
    old, new = before["results"][0], after["results"][0]
    assert new["log_likelihood"] == old["log_likelihood"]
    assert (old["anomaly"]["smallest_p"], new["anomaly"]["smallest_p"]) == (1 / 5001, 1 / 11)
    refused = score(client, alpha=0.01)
    assert (refused.status_code, refused.json()["type"]) == (422, "alpha-unattainable")
    assert "with 10 calibration images the smallest attainable is 0.09091 " in refused.json()["detail"]

    listed = client.get(PATH).json()
    assert (listed["active"], [one["number"] for one in listed["calibrations"]]) == (1, [0, 1])
    mine = listed["calibrations"][1]
    assert client.get(f"{PATH}/1").json() == mine
    model = client.get(MODEL).json()
    assert model["calibration"] == mine
    assert model["serving"]["smallest_p"] == 1 / 11
    assert (mine["dataset"], mine["statistics_images"], mine["calibration_images"]) == ("own", 20, 10)
    assert mine["thresholds"][2] == {"alpha": 0.01, "threshold": None, "images_needed": 299}
    assert listed["calibrations"][0]["thresholds"][2]["threshold"] < 0.01

    bulk = {"type": "score", "dataset": "own", "model": "mnist-snf-glow"}
    queued = client.post("/v1/jobs", json=bulk).json()
    assert queued["parameters"] == {"calibration": 1}
    back = client.put(f"{PATH}/active", json={"calibration": 0})
    assert (back.status_code, back.json()["active"]) == (200, 0)
    again = await_calibration(client, 0)
    assert again["results"][0]["anomaly"] == old["anomaly"]
    scored = await_job(client, queued["id"], "succeeded")
    table = parquet.read_table(io.BytesIO(client.get(scored["links"]["result"]).content))
    assert table.schema.metadata[b"snf.calibration"] == b"1", "it goes by what was active when it was queued"
    assert min(table["p_value"].to_pylist()) >= 1 / 11
    windows = client.get("/metrics").text
    assert 'calibration="1"' in windows
    assert 'snf_models{state="ready"} 1.0' in windows, "only the one in use is in memory"
    chosen = snf(home, "models", "use-calibration", "mnist-snf-glow", "1", "--json")
    assert json.loads(chosen.stdout)["active"] == 1, chosen.stderr
    await_calibration(client, 1)


def test_the_command_line(client: httpx.Client, home: Path) -> None:
    remote = ["--url", str(client.base_url)]
    done = snf(home, "models", "calibrate", "mnist-snf-glow", "-d", "own", "--keep", "--follow", *remote)
    assert done.returncode == 0, done.stderr
    assert "of mnist-snf-glow:1, smallest alpha 0.09091; it is not in use: it was made without" in done.stdout
    assert f"`snf models use-calibration mnist-snf-glow:1 2 {' '.join(remote)}` puts" in done.stdout
    shown = snf(home, "models", "use-calibration", "mnist-snf-glow", "0", "--dry-run", *remote)
    assert (shown.returncode, "the newest " in shown.stdout) == (0, True), shown.stderr
    listed = json.loads(snf(home, "models", "calibrations", "mnist-snf-glow", "--json", *remote).stdout)
    assert listed == json.loads(snf(home, "models", "calibrations", "mnist-snf-glow", "--json").stdout)
    newest = listed["calibrations"][-1]["number"]
    assert listed["active"] == newest - 1
    rounded = ["-d", "own", "--precision", "bfloat16", "--activate", "--follow", *remote]
    in_use = snf(home, "models", "calibrate", "mnist-snf-glow", *rounded)
    assert in_use.returncode == 0
    assert "it is in use now" in in_use.stdout
    await_calibration(client, newest + 1)
    serving = client.get(MODEL).json()
    assert serving["serving"]["precision"] == serving["calibration"]["precision"] == "bfloat16"
    assert 0 < serving["calibration"]["deviation"]["median"] < serving["calibration"]["deviation"]["worst"]
    table = snf(home, "models", "calibrations", "mnist-snf-glow").stdout
    assert "bfloat16" in table
    assert "±" in table
    assert snf(home, "models", "use-calibration", "mnist-snf-glow", str(newest - 1), *remote).returncode == 0
    await_calibration(client, newest - 1)


def test_a_damaged_one_does_not_take_over(client: httpx.Client, home: Path) -> None:
    active = client.get(PATH).json()["active"]
    await_calibration(client, active)
    folder = home / "registry" / "mnist-snf-glow" / "calibrations" / "1" / "50"
    folder.mkdir()
    (folder / "calibration.json").write_text("{}")
    until(lambda: client.get(MODEL).json()["state"] == "failed", 30)
    model = client.get(MODEL).json()
    assert (model["calibration"]["number"], model["calibration"]["dataset"]) == (50, None)
    assert "calibrations/1/50/calibration.json is not a valid calibration" in model["calibration"]["problem"]
    assert "calibration.json" in model["reason"]
    assert score(client).json()["calibration"] == active
    assert client.put(f"{PATH}/active", json={"calibration": 50}).json()["type"] == "damaged-artifact"
    assert client.put(f"{PATH}/active", json={"calibration": 0}).status_code == 200
    await_calibration(client, 0)
    assert client.get(MODEL).json()["state"] == "ready"
