"""`snf bulk`: what it refuses, and how it goes on."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from snf_app.cli.bulk_scoring import download_table
from snf_app.cli.main import cli
from snf_client import Client
from snf_client.schemas.jobs import JobView
from snf_models.bulk.output import stored_output
from snf_models.bulk.tables import part_bytes
from snf_models.locations.location import Location
from snf_runtime.errors import NOT_JUDGED, USAGE
from tests.support.paths import DIGITS

FILES = DIGITS[:3]
MODEL = "mnist-snf-glow"


@pytest.fixture(autouse=True)
def images(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three digits; it is the working directory of the command, and `SNF_HOME` is beside it."""
    folder = own_home / "images"
    folder.mkdir()
    for file in FILES:
        shutil.copy(file, folder)
    monkeypatch.chdir(own_home)
    return folder


def bulk(*options: str, images: str = "images") -> Any:
    return CliRunner().invoke(cli, ["bulk", images, "-m", MODEL, "--out", "scores", *options])


def test_a_service_named_by_the_environment_is_not_taken_for_the_place_of_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNF_URL", "http://127.0.0.1:1")
    result = bulk()
    assert result.exit_code == USAGE
    assert "snf bulk works on this machine alone, not on SNF_URL=http://127.0.0.1:1" in result.stderr


def test_a_table_is_made_of_the_scores_of_the_job_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Others may write to the output of a job, after it has ended."""
    assert bulk().exit_code == 0
    output = stored_output(Location.parse(str(tmp_path / "scores")))
    result = {
        "output": output.location.url,
        "plan": output.plan.digest,
        "images": 3,
        "errors": 0,
        "anomalies": output.finish().anomalies,
    }
    job = SimpleNamespace(id="j", type="score", model=f"{MODEL}:1", dataset="lots", parameters={}, result=result)

    def download(out: str) -> Path:
        download_table(cast(Client, None), cast(JobView, job), tmp_path / out, force=False)
        return tmp_path / out

    def refused(out: str) -> str:
        """Return why there is no table."""
        with pytest.raises(typer.Exit) as end:
            download(out)
        assert (end.value.exit_code, (tmp_path / out).exists()) == (USAGE, False)
        return capsys.readouterr().err

    assert download("own.csv").read_text().count("\n") == 4
    job.result = result | {"errors": 1}
    assert "expected PartSummary(images=3, errors=1" in refused("counts.csv")
    job.result = result
    whole = output.part(0).read()
    table = parquet.read_table(BytesIO(whole))
    output.part(0).write(part_bytes(table[:2], output.plan.metadata))
    assert "part-000000.parquet holds 2 rows, expected 3" in refused("short.csv")
    output.part(0).write(part_bytes(table, output.plan.metadata))
    assert "part-000000.parquet holds other scores" in refused("foreign.csv")
    assert bulk("--alpha", "0.05", "--force").exit_code == 0
    assert " in float32 now: expected a plan of SHA-256" in refused("other.csv")


def test_a_repeated_command_computes_by_the_engine_that_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SNF_ENGINE", "torch")
        assert bulk().exit_code == 0
    place = Location.parse(str(tmp_path / "scores"))
    begun = stored_output(place)
    assert (begun.plan.engine, begun.plan.precision) == ("torch", "float32")
    written = begun.part(0).read()
    begun.part(0).delete()
    assert bulk().exit_code == 0
    assert stored_output(place).plan == begun.plan
    assert begun.part(0).read() == written


def test_a_name_of_a_dataset_and_of_a_folder_is_refused(images: Path) -> None:
    images.rename(images.with_name("mnist-mini"))
    refused = bulk(images="mnist-mini")
    assert refused.exit_code == USAGE
    assert "mnist-mini is a dataset and a folder: the folder is ./mnist-mini" in refused.stderr
    assert bulk("--json", images="./mnist-mini").exit_code == 0


def test_images_that_the_model_cannot_take_are_refused_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        Image.open(path).resize((30, 30)).save(path)
    refused = bulk()
    assert refused.exit_code == USAGE
    assert f"{MODEL}:1 takes none of the first 3 images: " in refused.stderr
    assert "30" in refused.stderr
    assert not (tmp_path / "scores").exists()
    shutil.copy(FILES[0], images)
    assert bulk().exit_code == NOT_JUDGED


def test_a_damaged_part_is_scored_again_by_the_same_command(tmp_path: Path) -> None:
    assert bulk().exit_code == 0
    part = tmp_path / "scores" / "part-000000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-20])
    again = bulk("--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["images"] == 3
    assert "part-000000.parquet is missing or damaged" in again.stderr
    assert part.read_bytes() == whole
    assert parquet.read_table(part).num_rows == 3
