"""A home that an earlier version left: its models, calibrations, datasets and jobs go on with the current code."""

import json
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from snf_worker.settings import Settings
from tests.end_to_end.support.service import await_job, running, score_one
from tests.support.paths import DATA
from tests.support.stored_home import unpack

TRAINED, CALIBRATED, PAUSED = (
    "01m8b0wkam1erjd7danqy350ns",
    "01m8b0wx1scq5qgxq2v5wqy56c",
    "01m8b0x9bfb4c68kps9z7xs3cw",
)


@pytest.fixture(scope="module")
def stored_home() -> Iterator[Path]:
    """A copy of the stored home, which others may read."""
    home = unpack("home.tar.gz", Path(tempfile.mkdtemp(prefix="snf-home-")))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def earlier_files(stored_home: Path) -> set[Path]:
    """What is in it before anything is started."""
    return set(stored_home.rglob("*"))


@pytest.fixture(scope="module")
def stored(stored_home: Path, earlier_files: set[Path]) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts on that home."""
    with running(
        "tests.support.forking_house",
        home=stored_home,
        forked=True,
        shipped=False,
        measured=True,
        retention_days=100_000,
    ) as client:
        yield client
    assert not Settings(home=stored_home).runtime_folder.exists()


def test_its_model_scores_and_judges_as_before(stored: httpx.Client) -> None:
    scores = json.loads((DATA / "home" / "scores.json").read_text())
    assert len(scores) == 3
    for name, before in scores.items():
        image = (DATA / "mnist" / name).read_bytes()
        answer = stored.post("/v1/models/digits/score", content=image, headers={"content-type": "image/png"})
        result = answer.json()["results"][0]
        assert result["log_likelihood"] == pytest.approx(before["log_likelihood"], abs=2e-3)
        assert result["anomaly"]["statistic"] == pytest.approx(before["statistic"], rel=1e-3)
        assert result["anomaly"]["p_value"] == pytest.approx(before["p_value"], abs=1.01 / 49)


def test_its_calibrations_and_dataset_are_there(stored: httpx.Client) -> None:
    listed = stored.get("/v1/models/digits/calibrations").json()
    assert listed["active"] == 1
    assert [(one["number"], one["dataset"], one["problem"]) for one in listed["calibrations"]] == [
        (0, "mnist-mini", None),
        (1, "parts", None),
    ]
    dataset = stored.get("/v1/datasets/parts").json()
    assert (dataset["images"], dataset["problem"]) == (120, None)


def test_its_finished_jobs_are_there(stored: httpx.Client) -> None:
    trained = stored.get(f"/v1/jobs/{TRAINED}").json()
    assert (trained["status"], trained["result"]["ref"], trained["progress"]["steps"]) == ("succeeded", "digits:1", 8)
    assert stored.get(f"/v1/jobs/{TRAINED}/metrics").json()["points"][-1]["step"] == 8
    assert stored.get(f"/v1/jobs/{CALIBRATED}").json()["status"] == "succeeded"


def test_its_paused_job_goes_on_from_its_checkpoint(stored: httpx.Client) -> None:
    paused = stored.get(f"/v1/jobs/{PAUSED}").json()
    assert (paused["status"], paused["checkpoint_step"]) == ("paused", 7)
    assert stored.post(f"/v1/jobs/{PAUSED}/resume").status_code == 202
    done = await_job(stored, PAUSED, "succeeded")
    assert (done["progress"]["steps"], done["result"]["ref"]) == (60, "parts:1")
    journal = stored.get(f"/v1/jobs/{PAUSED}/log").text
    assert "step 7" in journal
    assert score_one(stored, "parts:1", (DATA / "mnist" / "00027-4.png").read_bytes()) < 0


def test_it_becomes_private_and_new_files_are(
    stored: httpx.Client, stored_home: Path, earlier_files: set[Path]
) -> None:
    assert stat.S_IMODE(stored_home.stat().st_mode) == 0o700
    assert "mode 755" in (stored_home / "logs" / "launcher.jsonl").read_text()
    log = stored_home / "tests.support.forking_house.log"  # the shell's redirection, in the user's terminal
    new = {path for path in stored_home.rglob("*") if not path.is_symlink()} - earlier_files - {log}
    assert {"service.jsonl", "worker.jsonl", "broker.jsonl"} <= {path.name for path in new}
    assert [path for path in new if path.stat().st_mode & 0o077] == []
