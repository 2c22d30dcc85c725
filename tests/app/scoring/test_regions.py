"""Boxes in pixels of the file, by every way out: HTTP, the command line, its Parquet file, the gallery of a report."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from snf_app.cli.main import cli
from snf_client.schemas.scores import Scores
from snf_models.registry.registry import Registry
from snf_runtime.images.preprocessing import Fit
from snf_worker.settings import Settings
from tests.support.fits import FITS, SIZES, covered, stained_file, with_fit
from tests.support.image_files import encoded, exif
from tests.support.paths import DIGITS
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import feature_artifact

ALPHA = 0.1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Settings:
    """An installation with a model of features for each way to resize a file."""
    found = service_settings(tmp_path_factory.mktemp("home"), backbones=backbones)
    folder = tmp_path_factory.mktemp("fits")
    for fit in FITS:
        artifact = with_fit(feature_artifact(tmp_path_factory), fit, folder / fit)
        Registry(found.registry_dir).publish(artifact, fit, promote=True)
    return found


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as found:
        yield found


def score(client: TestClient, fit: Fit, data: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post(
        f"/v1/models/{fit}/score", params={"alpha": ALPHA, **query}, files={"images": ("part.png", data)}
    ).raise_for_status()
    Scores.model_validate(answer.json())
    result: dict[str, Any] = answer.json()["results"][0]
    return result


@pytest.mark.parametrize("fit", FITS)
def test_a_box_covers_the_stain_in_the_file(client: TestClient, fit: Fit) -> None:
    data, stain = stained_file(fit)
    result = score(client, fit, data, explain=True)
    assert result["preprocessing"]["size"] == list(SIZES[fit])
    heat_map = result["heat_map"]
    (region, *_) = heat_map["regions"]
    assert covered(tuple(region["box"]), stain) >= 0.9
    left, top, right, bottom = region["box"]
    assert region["peak"] >= heat_map["threshold"]
    assert (right - left) * (bottom - top) < 0.7 * SIZES[fit][0] * SIZES[fit][1], "not the whole image"
    assert 0.5 * (right - left) * (bottom - top) <= region["area"] <= (right - left) * (bottom - top)
    assert left <= region["place"][0] < right
    assert top <= region["place"][1] < bottom
    (reason, *_) = [one for one in result["anomaly"]["reasons"] if one["box"] is not None]
    assert reason["box"] == region["box"]
    assert f"rows {top}-{bottom - 1}, columns {left}-{right - 1}" in reason["text"]
    # The same without a heat map, as a model of features has its map anyway.
    assert score(client, fit, data)["anomaly"] == result["anomaly"]
    # The map itself is that of the model's image; its regions are outlined in the picture.
    channels = np.load(io.BytesIO(base64.b64decode(heat_map["npy"])), allow_pickle=False)
    anomaly = channels[heat_map["channels"].index("anomaly")]
    assert anomaly.shape == (28, 28)
    assert anomaly.max() == pytest.approx(region["peak"])
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat_map["png"]))))
    yellow = (picture == (255, 210, 0)).all(2)
    assert 0 < yellow.mean() < 0.3


def test_a_turned_file_has_the_boxes_of_the_upright_one(client: TestClient) -> None:
    data, _ = stained_file("crop")
    upright = np.asarray(Image.open(io.BytesIO(data)))
    turned = encoded(np.rot90(upright), exif=exif(6))  # shown turned by 90 degrees clockwise
    expected, found = (score(client, "crop", one) for one in (data, turned))
    assert found["preprocessing"]["size"] == expected["preprocessing"]["size"] == list(SIZES["crop"])
    assert found["anomaly"]["reasons"] == expected["anomaly"]["reasons"]


def test_a_normal_image_has_a_threshold_and_no_region(client: TestClient) -> None:
    heat_map = score(client, "stretch", DIGITS[0].read_bytes(), explain=True, alpha=0.02)["heat_map"]
    assert heat_map["threshold"] > 0
    assert (heat_map["regions"], heat_map["region_count"]) == ([], 0)


def test_the_command_line_says_the_same(
    client: TestClient, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNF_HOME", str(settings.registry_dir.parent))
    monkeypatch.setenv("SNF_BACKBONES", str(settings.backbones))
    data, stain = stained_file("crop")
    (tmp_path / "part.png").write_bytes(data)
    expected = score(client, "crop", data)
    (reason,) = [one for one in expected["anomaly"]["reasons"] if one["box"] is not None]
    command = ["score", str(tmp_path / "part.png"), "-m", "crop", "--alpha", str(ALPHA)]
    done = CliRunner().invoke(cli, [*command, "--json"])
    (result,) = json.loads(done.stdout)["results"]
    assert result["anomaly"]["reasons"] == expected["anomaly"]["reasons"]
    done = CliRunner().invoke(cli, [*command, "--json", "--explain", str(tmp_path / "maps")])
    (result,) = json.loads(done.stdout)["results"]
    regions = score(client, "crop", data, explain=True)["heat_map"]["regions"]
    assert result["heat_map"]["regions"] == regions
    assert "png" not in result["heat_map"], "it is in the folder"
    shown = CliRunner().invoke(cli, command, env={"COLUMNS": "400"})
    assert expected["anomaly"]["reasons"][0]["text"] in " ".join(shown.stdout.split())
    assert CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "out.parquet")]).exit_code == 0
    (row,) = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert row["box"] == reason["box"]
    assert row["reason"] == expected["anomaly"]["reasons"][0]["text"]
    assert covered(tuple(row["box"]), stain) >= 0.9
