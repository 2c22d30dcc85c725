"""Bulk scoring: parts, their merging, formats of the table, and what an interruption leaves."""

import csv
import dataclasses
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from snf_models.bulk.output import Output, PartsDamaged, open_scratch, plan_at
from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.tables import convert_table, merge_parts, summary_of, table_of
from snf_models.bulk.work import score_range
from snf_models.datasets.image_source import ImageFiles, ImageSource, open_source
from snf_models.errors import AlphaUnattainable, DatasetNotFound, ImageError, Interrupted
from snf_models.locations.location import Location
from snf_models.score_rows import SCHEMA
from snf_models.scorer import Scorer
from snf_runtime.images.batch import NamedImage
from snf_runtime.images.codec import Preprocessing
from tests.models.datasets.upload_files import pngs
from tests.models.helpers import bulk_plan
from tests.support.paths import DATA

EXACT = Preprocessing(channels=1, height=28, width=28)
COUNT = 70
"""More than one batch."""


def test_a_part_of_an_earlier_version_is_merged(tmp_path: Path) -> None:
    """It lacks the columns that were added later."""
    later = ("reason", "box", "statistic", "reasons", "model", "calibration", "alpha", "dataset")
    row = {"path": "a.png", "log_likelihood": 1.5, "is_anomaly": True}
    whole = table_of([row, {**row, "reason": "rows 1-2", "box": (0, 1, 4, 3)}])
    parquet.write_table(whole, tmp_path / "new")
    parquet.write_table(whole.drop_columns(list(later)), tmp_path / "old")
    summary = merge_parts([tmp_path / "old", tmp_path / "new"], tmp_path / "all.parquet", {})
    assert (summary.images, summary.anomalies) == (4, 4)
    rows = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["box"] for row in rows] == [None, None, None, [0, 1, 4, 3]]
    assert list(rows[0]) == SCHEMA.names


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Digits as files, three of them bad: no image, another size, not there."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{index:03d}.png" for index in range(COUNT)]
    for path, data in zip(paths, pngs(COUNT).values(), strict=True):
        path.write_bytes(data)
    paths[3].write_bytes(b"no image")
    paths[66].write_bytes((DATA / "mnist/00027-4.png").read_bytes()[:200])
    paths[7].unlink()
    return paths


def test_a_row_is_the_score_of_its_image_alone(scorer: Scorer, files: list[Path]) -> None:
    images = ImageFiles(files, scorer.preprocessing)
    told: list[int] = []
    found = score_range(scorer, images, 0, COUNT, alpha=1.0, progress=told.append)
    assert told == [64, 6]
    rows = found.to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in files]
    bad = {row["path"]: row["error"] for row in rows if row["error"]}
    assert bad == {
        str(files[3]): "undecodable-image",
        str(files[7]): "unreadable-image",
        str(files[66]): "truncated-image",
    }
    assert dataclasses.astuple(summary_of(found)) == (COUNT, 3, COUNT - 3)
    for row, (_, image) in zip(rows, images.read(0, COUNT), strict=True):
        if isinstance(image, ImageError):
            assert row["error_detail"] == image.detail
            assert row["log_likelihood"] is row["p_value"] is row["is_anomaly"] is row["warning"] is None
            continue
        alone = scorer.score(image.pixels[None])[0]
        verdict = scorer.verdicts([alone], 1.0)[0]
        wanted = {
            "log_likelihood": alone.log_likelihood,
            "bits_per_dim": alone.bits_per_dim,
            "p_value": verdict.p_value,
            "score": verdict.score,
            "is_anomaly": verdict.is_anomaly,
            "reason": verdict.reasons[0].text,
            "reasons": [reason.text for reason in verdict.reasons],
        }
        assert {name: row[name] for name in wanted} == wanted
        assert row["statistic"] == round(verdict.statistic, 6)
    good = [row for row in rows if not row["error"]]
    assert len({row["statistic"] for row in good}) > len({row["p_value"] for row in good})


def test_parts_make_one_file_whatever_their_size(
    scorer: Scorer, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snf_models.bulk.tables.GROUP_ROWS", 16)
    images = ImageFiles(files[:40], scorer.preprocessing)
    merged = []
    for size in (7, 16, 40):
        output = open_scratch(tmp_path / f"{size}", plan_of(scorer, images, images_per_part=size))
        assert output.missing() == list(range(math.ceil(40 / size)))
        score_all(scorer, images, output)
        assert output.missing() == []
        merged.append(tmp_path / f"{size}.parquet")
        summary = output.merge(merged[-1])
        assert (summary.images, summary.errors) == (40, 2)
    assert len({path.read_bytes() for path in merged}) == 1
    with parquet.ParquetFile(merged[0]) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [16, 16, 8]
        assert file.read()["path"].to_pylist() == [str(path) for path in files[:40]]
        said = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert (said["snf.model"], said["snf.kind"]) == ("digits:1", "density")
    assert said["snf.dataset_digest"] == images.digest
    assert (float(said["snf.alpha"]), int(said["snf.count"])) == (scorer.calibration.default_alpha, 40)


def test_nothing_to_score_is_an_empty_table(tmp_path: Path) -> None:
    found = merge_parts([], tmp_path / "empty.parquet", {})
    assert dataclasses.astuple(found) == (0, 0, 0)
    assert parquet.ParquetFile(tmp_path / "empty.parquet").read().schema.equals(SCHEMA)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_every_format_has_the_same_values(scorer: Scorer, files: list[Path], tmp_path: Path, ending: str) -> None:
    odd = [tmp_path / "a\rb.png", tmp_path / 'c\r\n,"d\n.png']
    for path in odd:
        path.write_bytes(files[0].read_bytes())
    given = [*odd, *files[:6], odd[0]]
    images = ImageFiles(given, scorer.preprocessing)
    plan = plan_of(scorer, images, images_per_part=10).model_copy(update={"calibration": 2})
    part, out = tmp_path / "part", tmp_path / f"out{ending}"
    parquet.write_table(score_range(scorer, images, 0, len(given), plan.alpha), part)
    merge_parts([part], out, plan.metadata)
    wanted = parquet.read_table(part).to_pylist()
    for row in wanted:
        row |= {"model": "digits:1", "calibration": 2, "alpha": plan.alpha, "dataset": None}
    assert rows_of(out) == wanted
    if ending == ".csv":
        assert out.read_bytes().count(b"\r\n") == 1, "rows end with a newline, as those of earlier versions"


def rows_of(path: Path) -> list[dict[str, object]]:
    """The rows of a file, with the types of the table."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    texts = {field.name for field in SCHEMA if str(field.type) == "string"}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: None if not text else text if name in texts else json.loads(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def test_a_table_of_an_earlier_version_is_converted(tmp_path: Path) -> None:
    rows = [{"path": "a,b\n.png", "log_likelihood": 1.5, "is_anomaly": True, "p_value": 0.1}]
    later = ["reason", "box", "statistic", "reasons", "model", "calibration", "alpha", "dataset"]
    table = table_of(rows).drop_columns(later)
    told = {"snf.model": "m:3", "snf.dataset": "lots", "snf.alpha": "0.05"}
    parquet.write_table(table.replace_schema_metadata(told), tmp_path / "old.parquet")
    convert_table(tmp_path / "old.parquet", tmp_path / "new.csv")
    [row] = rows_of(tmp_path / "new.csv")
    assert (row["path"], row["model"], row["dataset"], row["alpha"]) == ("a,b\n.png", "m:3", "lots", 0.05)
    assert row["statistic"] is row["reasons"] is None


def score_all(scorer: Scorer, images: ImageSource, output: Output) -> None:
    for index in output.missing():
        output.write(index, score_range(scorer, images, *output.plan.range(index), output.plan.alpha))


def plan_of(scorer: Scorer, images: ImageSource, images_per_part: int) -> BulkPlan:
    weights, alpha = scorer.log_det_digest, scorer.calibration.default_alpha
    plan = bulk_plan(weights_sha256=weights, dataset="files", source_digest=images.digest, alpha=alpha)
    return plan.model_copy(update={"count": images.count, "images_per_part": images_per_part})


def test_an_equal_plan_resumes_and_another_starts_anew(scorer: Scorer, files: list[Path], tmp_path: Path) -> None:
    images = ImageFiles(files[:20], scorer.preprocessing)
    plan = plan_of(scorer, images, images_per_part=8)
    assert [plan.range(index) for index in range(plan.parts)] == [(0, 8), (8, 16), (16, 20)]
    output = open_scratch(tmp_path, plan)
    output.write(1, score_range(scorer, images, *plan.range(1), None))
    assert open_scratch(tmp_path, plan).missing() == [0, 2]
    other = plan.model_copy(update={"source_digest": "another"})
    assert open_scratch(tmp_path, other).missing() == [0, 1, 2]
    (tmp_path / "_plan.json").write_text("{}")
    output.part(0).write(b"of nobody knows what")
    assert open_scratch(tmp_path, plan).missing() == [0, 1, 2]


def test_a_plan_that_lacks_what_another_has_goes_on() -> None:
    """Plans of earlier versions name no engine, nor does a service before its model is loaded."""
    earlier = bulk_plan()
    plan = earlier.model_copy(update={"model_sha256": "a", "engine": "torch", "precision": "float32"})
    other = plan.model_copy(update={"engine": "openvino"})
    assert plan.resumed(earlier) is earlier
    assert earlier.resumed(plan) is plan
    assert other.resumed(plan) is other
    assert plan.resumed(None) is plan


def test_a_folder_of_an_earlier_version_is_begun_anew(tmp_path: Path) -> None:
    plan = bulk_plan()
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    (tmp_path / "part-000000.parquet").write_bytes(b"scored")
    assert open_scratch(tmp_path, plan).missing() == [0]
    assert plan_at(Location.parse(str(tmp_path))) == plan


class Watched:
    """A source that counts what was read and tells the thread in which reading ended."""

    def __init__(self, images: ImageSource, fail_at: int | None = None) -> None:
        self.count, self.digest = images.count, images.digest
        self.seen = 0
        self.threads: set[int] = set()
        self._images, self._fail_at = images, fail_at

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        self.threads.add(threading.get_ident())
        try:
            for found in self._images.read(start, stop):
                if self.seen == self._fail_at:
                    raise DatasetNotFound("deleted meanwhile")
                self.seen += 1
                yield found
        finally:
            self.threads.add(threading.get_ident())


def test_stopping_reads_little_ahead(scorer: Scorer) -> None:
    images = Watched(open_source("mnist-mini", None, None, scorer.preprocessing))
    told: list[int] = []
    with pytest.raises(Interrupted):
        score_range(scorer, images, 0, 500, None, lambda: len(told) == 1, told.append)
    assert images.seen <= 64 * 4
    assert len(images.threads) == 1
    assert threading.get_ident() not in images.threads


def test_a_source_that_goes_away_ends_the_part(scorer: Scorer) -> None:
    images = Watched(open_source("mnist-mini", None, None, scorer.preprocessing), fail_at=70)
    with pytest.raises(DatasetNotFound):
        score_range(scorer, images, 0, 200, None)


def test_an_alpha_that_nothing_can_attain(scorer: Scorer, files: list[Path]) -> None:
    images = ImageFiles(files, scorer.preprocessing)
    with pytest.raises(AlphaUnattainable):
        score_range(scorer, images, 0, 2, alpha=1e-9)


@pytest.mark.parametrize(("start", "end"), [(4, 200), (-200, -8)], ids=["page", "footer"])
def test_a_damaged_part_is_found_and_can_be_scored_again(
    scorer: Scorer, files: list[Path], tmp_path: Path, start: int, end: int
) -> None:
    images, table = ImageFiles(files[:6], scorer.preprocessing), tmp_path / "all.parquet"
    output = open_scratch(tmp_path / "work", plan_of(scorer, images, images_per_part=3))
    score_all(scorer, images, output)
    content = bytearray(output.part(1).read())
    content[start:end] = bytes(len(content[start:end]))
    output.part(1).write(bytes(content))
    with pytest.raises(PartsDamaged, match=r"part-000001\.parquet is missing or damaged") as raised:
        output.merge(table)
    assert not table.exists()
    output.delete(raised.value.problems)
    assert output.missing() == [1]
    score_all(scorer, images, output)
    assert output.merge(table).images == 6


def test_a_lack_of_memory_is_no_damage(
    scorer: Scorer, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageFiles(files[:3], scorer.preprocessing)
    output = open_scratch(tmp_path / "work", plan_of(scorer, images, images_per_part=3))
    score_all(scorer, images, output)

    def lacking(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", lacking)
    with pytest.raises(MemoryError):
        output.merge(tmp_path / "all.parquet")
    assert output.missing() == []
