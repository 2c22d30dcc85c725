"""The command line: output, files and exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from snf_app import package_version
from tests.end_to_end.support.jobs import SMALL
from tests.end_to_end.support.service import snf, snf_process
from tests.support.paths import DIGITS, ROOT


def test_help_needs_no_torch(tmp_path: Path) -> None:
    slow = ("torch", "fastapi", "httpx", "numpy", "PIL")
    code = f"import sys, snf_app.cli.main, snf_worker.settings; print(*(name in sys.modules for name in {slow}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False"] * 5
    started = time.monotonic()
    assert "score" in snf_process(tmp_path, "--help").stdout
    assert time.monotonic() - started < 10


def test_scores_into_a_file(home: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "scores.parquet", tmp_path / ".scores.parquet.parts"
    text = tmp_path / "images" / "text.png"
    text.parent.mkdir()
    text.write_text("no image")
    arguments = ["score", *map(str, DIGITS), str(text.parent), "-m", "digits"]
    done = snf(home, *arguments, "--out", str(out))
    assert done.returncode == 4, done.stderr
    assert f"{len(DIGITS)} images judged, " in done.stderr
    assert "1 not judged" in done.stderr
    assert "images/s" in done.stdout
    assert not parts.exists()
    rows = parquet.ParquetFile(out).read().to_pylist()
    alone = json.loads(snf(home, *arguments, "--json").stdout)["results"]
    assert [row["path"] for row in rows] == [one["filename"] for one in alone] == [*map(str, DIGITS), str(text)]
    for row, one in zip(rows[:-1], alone[:-1], strict=True):
        assert row["log_likelihood"] == one["log_likelihood"]
        assert row["p_value"] == one["anomaly"]["p_value"]
        assert row["statistic"] == pytest.approx(one["anomaly"]["statistic"], abs=1e-6)
        assert row["reasons"] == [reason["text"] for reason in one["anomaly"]["reasons"]]
        assert (row["model"], row["calibration"]) == ("digits:1", 0)
    assert rows[-1]["error"] == alone[-1]["error"]["type"]
    again = snf(home, *arguments, "--out", str(out), "--json", "--alpha", "1", "--fail-on-anomaly", "--force")
    told = json.loads(again.stdout)
    assert (told["images"], told["anomalies"], told["errors"]) == (len(rows), len(rows) - 1, 1)


def test_a_table_is_the_same_here_and_by_a_service(house_home: Path, house: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in DIGITS:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.png").write_text("no image")
    (folder / "gone.png").symlink_to("nowhere.png")
    Image.new("L", (28, 20)).save(folder / "small.png")
    Image.open(DIGITS[0]).save(folder / "turned.tif", tiffinfo={274: 3})
    os.mkfifo(folder / "pipe.png")
    tables = {}
    remote = ["--url", str(house.base_url), "--source", "line-7"]
    for name, where in (("here", []), ("there", remote)):
        out = tmp_path / f"{name}.parquet"
        done = snf(house_home, "score", str(folder), "-m", "digits", "--out", str(out), *where)
        assert done.returncode == 4, done.stderr
        assert f"{len(DIGITS) + 1} images judged, " in done.stderr
        assert "4 not judged" in done.stderr
        assert f"note: turned as its EXIF orientation 3 says: {folder}/turned.tif" in done.stderr
        tables[name] = out.read_bytes()
    assert tables["here"] == tables["there"]
    assert parquet.read_table(tmp_path / "there.parquet").num_rows == len(DIGITS) + 5
    assert "line-7" in {one["source"] for one in house.get("/v1/models/digits").json()["drift"]}
    assert {path.name for path in tmp_path.iterdir()} == {"images", "here.parquet", "there.parquet"}
    refused = snf(house_home, "score", str(DIGITS[0]), "-m", "digits", "--out", str(out), *remote)
    assert (refused.returncode, "there.parquet exists already" in refused.stderr) == (2, True)
    assert out.read_bytes() == tables["there"]


@pytest.mark.parametrize("where", ["here", "there"])
def test_heat_maps(home: Path, house: httpx.Client, tmp_path: Path, where: str) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image")
    maps = tmp_path / "maps"
    remote = ["--url", str(house.base_url)] if where == "there" else []
    arguments = ["score", str(text), *map(str, DIGITS[:3]), "-m", "mnist-snf-glow", "--json", *remote]
    done = snf(home, *arguments, "--explain", str(maps))
    assert done.returncode == 4, done.stderr
    answer = json.loads(done.stdout)
    assert [one["status"] for one in answer["results"]] == ["error", "ok", "ok", "ok"]
    assert [one["index"] for one in answer["results"]] == [0, 1, 2, 3]
    pictures = {path.name: path.read_bytes() for path in maps.glob("*.png")}
    assert pictures.keys() == {f"{n:05d}-{DIGITS[n - 1].stem}.png" for n in (1, 2, 3)}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert not any({"png", "npy"} & set(one["heat_map"]) for one in answer["results"][1:])
    assert all(one["heat_map"]["channels"] == ["nats", "z", "anomaly"] for one in answer["results"][1:])
    others = ["score", str(text), *map(str, DIGITS[:3]), "-m", "digits", "--explain", str(maps), *remote]
    refused = snf(home, *others)
    assert (refused.returncode, "holds heat maps already" in refused.stderr) == (2, True)
    assert {path.name: path.read_bytes() for path in maps.glob("*.png")} == pictures
    plain = json.loads(snf(home, *arguments).stdout)
    for explained, basic in zip(answer["results"][1:], plain["results"][1:], strict=True):
        assert explained["log_likelihood"] == pytest.approx(basic["log_likelihood"], abs=1e-4)
        assert explained["anomaly"]["p_value"] == basic["anomaly"]["p_value"]


def test_drift_is_shown_and_acknowledged(home: Path, house: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    remote = ["--url", str(house.base_url)]
    score = ["score", *map(str, DIGITS[:3]), "-m", "digits", *remote]
    assert snf(home, *score, "--source", "line 1/left").returncode == 0
    [before] = (one for one in _drift(home, remote) if one["source"] is None)
    assert snf(home, *score).returncode == 0
    [after] = (one for one in _drift(home, remote) if one["source"] is None)
    assert before == after
    table = snf(home, "models", "drift", "digits", *remote).stdout
    assert "no drift" in table
    done = snf(home, "models", "drift", "digits", "--acknowledge", "--source", "line 1/left", *remote)
    assert done.stdout == "acknowledged drift of digits: line 1/left\n"
    assert "line 1/left" not in {one["source"] for one in _drift(home, remote)}
    whole = snf(home, "models", "drift", "digits", "--acknowledge", "--json", *remote)
    assert json.loads(whole.stdout) == {"acknowledged": "digits", "source": None}
    assert None not in {one["source"] for one in _drift(home, remote)}


def _drift(home: Path, remote: list[str]) -> list[dict[str, Any]]:
    report = json.loads(snf(home, "models", "drift", "digits", "--json", *remote).stdout)
    drift: list[dict[str, Any]] = report["drift"]
    return drift


def test_a_dataset_is_scored_by_a_service(home: Path, house: httpx.Client, tmp_path: Path) -> None:
    out, remote = tmp_path / "scores.parquet", ["--url", str(house.base_url)]
    scoring = ["score", "--dataset", "mnist-mini", "-m", "digits", *remote]
    done = snf(home, *scoring, "--out", str(out), "--json", "--alpha", "0.1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert f"`snf jobs download {told['job']} {' '.join(remote)}` fetches its table" in done.stderr
    table = parquet.read_table(out)
    assert table.num_rows == told["images"] == 600
    assert sum(table["is_anomaly"].to_pylist()) == told["anomalies"]
    again = tmp_path / "again.parquet"
    download = ["jobs", "download", told["job"], *remote]
    assert snf(home, *download, "--out", str(again)).returncode == 0
    assert again.read_bytes() == out.read_bytes()
    assert snf(home, *download, "--out", str(tmp_path / "scores.jsonl")).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert lines == table.to_pylist()
    flagged = sorted((row for row in lines if row["is_anomaly"]), key=lambda row: -row["statistic"])
    assert len({row["statistic"] for row in flagged}) == len(flagged)
    assert all(row["reasons"][0] == row["reason"] for row in flagged)


def test_samples(home: Path, house: httpx.Client, tmp_path: Path) -> None:
    here, there = tmp_path / "here.npy", tmp_path / "there.npy"
    options = ["-m", "digits", "-n", "3", "--seed", "4"]
    assert snf(home, "sample", *options, "-o", str(here)).returncode == 0
    done = snf(home, "sample", *options, "-o", str(there), "--url", str(house.base_url), "--json")
    assert json.loads(done.stdout)["seed"] == 4
    assert np.load(here).shape == (3, 28, 28)
    assert (np.load(here) == np.load(there)).all()


def test_the_versions_of_command_and_service_are_shown(home: Path, house: httpx.Client) -> None:
    url = str(house.base_url)
    version = snf(home, "--version", "--url", url)
    assert version.stdout.splitlines() == [f"snf-density {package_version()}", f"{url} {package_version()}"]


def test_a_job_is_submitted_and_followed(home: Path, house: httpx.Client) -> None:
    scoring = ["jobs", "submit", "score", "dataset=mnist-mini", "model=digits", "alpha=0.05"]
    watched = snf(home, *scoring, "--watch", "--url", str(house.base_url))
    assert watched.returncode == 0, watched.stderr
    assert "600 images judged, " in watched.stdout


def quick(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command by the engine that compiles nothing; test_new_bijection.py trains by the default one."""
    return snf(home, *arguments, engine="torch")


def test_training_registers_a_model(home: Path) -> None:
    few = ["--max-steps", "6", "--set", "warmup_steps=2", "--set", "batch_size=32", "--set", "validation_images=20"]
    done = quick(home, "train", "--data", "mnist-mini", "--preset", "snf-glow-tiny", "--name", "made", *few, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    published = {"event": "published", "model": "made", "version": 1, "ref": "made:1", "live": True, "unfit": []}
    assert events[-1] == published | {"live_version": 1, "smallest_p": pytest.approx(1 / 51)}
    assert {"metrics", "validation", "checkpoint", "evaluation"} <= {one["event"] for one in events}
    [recorded] = json.loads(snf(home, "runs", "--json").stdout)["runs"]
    assert (recorded["origin"], recorded["state"], recorded["result"]["ref"]) == ("command", "finished", "made:1")
    assert (recorded["parameters"]["batch_size"], recorded["steps"]) == (32, 6)
    shown = json.loads(snf(home, "runs", "show", recorded["id"], "--json").stdout)
    assert [event["bits_per_dim"] for event in events if event["event"] == "metrics"] == [
        point["bits_per_dim"] for point in shown["points"]
    ]
    assert quick(home, "score", str(DIGITS[0]), "-m", "made").returncode == 0
    again = quick(home, "train", "--data", "mnist-mini", "--preset", "snf-glow-tiny", "--name", "made", *few)
    last = "registered made:2, smallest alpha 0.01961; made:1 stays live. To switch: snf models alias made live 2"
    assert again.stdout.splitlines()[-1] == last
    assert re.search(r"^test: \d\.\d{4} bits/dim on 100 images$", again.stdout, re.MULTILINE)
    assert re.search(r"^largest error of learned inverses: [\d.e-]{3,7}$", again.stdout, re.MULTILINE)


def test_a_hardly_trained_model_is_kept_but_not_live_and_every_command_says_why(home: Path, tmp_path: Path) -> None:
    (small := tmp_path / "small.json").write_text(json.dumps(SMALL))
    few = ["--architecture", str(small), "--max-steps", "1", "--set", "validation_images=20"]
    done = quick(home, "train", "--data", "mnist-mini", *few, "--name", "hasty")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("published as hasty:1, not live: hardly trained: 2.")
    assert last.endswith("To make it live all the same: snf models alias hasty live 1")
    refused = quick(home, "score", str(DIGITS[0]), "-m", "hasty")
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert "no live version: no version of hasty is live: hasty:1 is unfit, hardly trained" in refused.stderr
    scored = quick(home, "score", str(DIGITS[0]), "-m", "hasty:1")
    assert (scored.returncode, "note: hasty:1 is unfit: hardly trained: 2." in scored.stdout) == (0, True)
    moved = snf(home, "models", "alias", "hasty", "live", "1")
    assert moved.stdout.splitlines()[0] == "hasty@live is version 1"
    assert moved.stdout.splitlines()[1].startswith("unfit: hardly trained: 2.")
    assert quick(home, "score", str(DIGITS[0]), "-m", "hasty").returncode == 0


def test_an_architecture_file_is_trained_and_promoted_although_it_is_unfit(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "flow.json"
    shown = snf(home, "presets", "show", "snf-glow-tiny")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    document["levels"] = [{"steps": document["levels"][0]["steps"]}]
    document["levels"][0]["steps"][0]["steps"][1] = {"type": "woodbury", "channel_rank": 1, "spatial_rank": 2}
    path.write_text(json.dumps(document))
    few = ["--max-steps", "1", "--set", "validations=1", "--set", "validation_images=20", "--json"]
    done = quick(home, "train", "--data", "mnist-mini", "--architecture", str(path), *few, "--promote")
    assert done.returncode == 0, done.stderr
    published = json.loads(done.stdout.splitlines()[-1])
    assert published["ref"] == "mnist-mini-my-snf-glow-tiny:1"
    assert (published["live"], published["unfit"][0]["code"]) == (True, "hardly-trained")
    assert quick(home, "score", str(DIGITS[0]), "-m", "mnist-mini-my-snf-glow-tiny").returncode == 0


def test_a_damaged_data_set_is_a_message(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    done = snf(home, "datasets", data_dir=tmp_path)
    assert done.returncode == 0
    assert "mnist-mini" in done.stdout
    assert "mnist.npz" in done.stderr
    assert "Traceback" not in done.stderr
