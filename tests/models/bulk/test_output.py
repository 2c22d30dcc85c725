"""Scores as Parquet files at a location: what is left, what is refused, and what other programs read."""

import errno
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pytest
from pyarrow import parquet

from snf_models.bulk.output import PLAN, SUMMARY, Output, PartsDamaged, complete, open_output, stored_output
from snf_models.bulk.plan import BulkPlan, part_size
from snf_models.bulk.tables import PartSummary, merge_parts, part_bytes, table_of
from snf_models.datasets.image_source import ReferencedImages, index_location
from snf_models.disk import waits_for_room
from snf_models.errors import Interrupted, OutputTaken, PartFailed, PlanDiffers, StorageFull
from snf_models.locations.disk import FileEntry
from snf_models.locations.location import Location
from snf_models.score_rows import failed_row
from snf_runtime.images.codec import Preprocessing
from tests.models.helpers import bulk_plan
from tests.support.disks import refuse_writes
from tests.support.s3 import S3Server, faulty_server

PLAN_OF_25 = bulk_plan(dataset="lots", source_digest="0123456789abcdef", count=25, images_per_part=10)


@pytest.fixture(params=["disk", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return Location.parse(str(tmp_path / "scores"))
    server: S3Server = request.getfixturevalue("s3")
    return server.bucket(f"output-{sha256(request.node.name.encode()).hexdigest()[:12]}").child("scores")


def scores(index: int, plan: BulkPlan = PLAN_OF_25) -> pa.Table:
    """Rows of a part, the second of which has an error, and the third is an anomaly."""
    start, stop = plan.range(index)
    rows = [
        {
            "path": f"{image}.png",
            "log_likelihood": -100.0 / 3 - image,
            "is_anomaly": image % 10 == 2,
            "p_value": 0.5,
            "reasons": [f"rows {image}", "more"],
            "box": (0, 1, image, 3),
        }
        for image in range(start, stop)
    ]
    rows[1] = failed_row(f"{start + 1}.png", "undecodable-image", "not an image")
    return table_of(rows)


def write_all(output: Output) -> None:
    for index in output.missing():
        output.write(index, scores(index))


def test_the_files_say_what_is_left_and_make_the_table_of_their_rows(location: Location, tmp_path: Path) -> None:
    output = open_output(location, PLAN_OF_25)
    assert output.missing() == [0, 1, 2]
    output.write(1, scores(1))
    again = open_output(location, PLAN_OF_25)
    assert (again.missing(), again.part(0).exists(), again.part(1).exists()) == ([0, 2], False, True)
    written = output.part(1).read()
    write_all(again)
    assert (output.missing(), output.part(1).read()) == ([], written)
    assert output.finish() == PartSummary(25, 3, 3)
    summary = json.loads(location.child(SUMMARY).read())
    assert summary == {"plan": output.plan.digest, "parts": 3, "images": 25, "errors": 3, "anomalies": 3}
    names = {entry.name for entry in location.files()}
    assert names == {SUMMARY, PLAN, *(f"part-{index:06d}.parquet" for index in range(3))}

    stored = stored_output(location)
    bare = (io.BytesIO(part_bytes(scores(index), {})) for index in range(PLAN_OF_25.parts))
    merge_parts(bare, tmp_path / "here.parquet", PLAN_OF_25.metadata)
    assert stored.merge(tmp_path / "there.parquet", PartSummary(25, 3, 3)) == PartSummary(25, 3, 3)
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()


def test_other_programs_read_the_same_rows(tmp_path: Path) -> None:
    output = open_output(Location.parse(str(tmp_path)), PLAN_OF_25)
    write_all(output)
    output.finish()
    table = pa.concat_tables(parquet.read_table(file) for file in output.files())
    rows = [tuple(row.values()) for row in table.to_pylist()]
    labels = table.select(["model", "calibration", "alpha", "dataset"]).to_pylist()
    assert labels == [{"model": "digits:1", "calibration": 0, "alpha": 0.05, "dataset": "lots"}] * 25
    assert duckdb.sql(f"SELECT * FROM '{tmp_path}/*.parquet'").fetchall() == rows
    assert polars.read_parquet(f"{tmp_path}/*.parquet").rows() == rows


def test_other_scores_are_kept_unless_that_is_forced(location: Location) -> None:
    write_all(open_output(location, PLAN_OF_25))
    other = PLAN_OF_25.model_copy(update={"model": "digits:2", "images_per_part": 20})
    with pytest.raises(PlanDiffers, match=r"holds scores of 25 images of lots .* by digits:1 .* expected .* digits:2"):
        open_output(location, other)
    assert open_output(location, PLAN_OF_25).missing() == []
    forced = open_output(location, other, force=True)
    assert forced.missing() == [0, 1]
    assert [entry.name for entry in location.files()] == [PLAN]


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_deleted(location: Location, force: bool) -> None:
    location.child("lots/a.png").write(b"an image")
    location.child("_of_others").write(b"hidden from readers")
    with pytest.raises(OutputTaken, match=r"scores holds lots/a.png; expected no files"):
        open_output(location, PLAN_OF_25, force=force)
    location.child("lots/a.png").delete()
    output = open_output(location, PLAN_OF_25, force=force)
    location.child("part-000003.parquet").write(b"of a larger plan")
    with pytest.raises(OutputTaken, match="holds part-000003"):
        open_output(location, PLAN_OF_25)
    location.child("part-000003.parquet").delete()
    location.child("README.md").write(b"a note of a person")
    write_all(open_output(location, PLAN_OF_25))
    assert output.missing() == []
    assert output.finish().images == 25
    with pytest.raises(OutputTaken, match=r"holds README.md"):
        open_output(location, PLAN_OF_25.model_copy(update={"alpha": 0.1}), force=True)
    assert output.part(0).exists(), "nothing is deleted where something is refused"


def test_of_two_plans_that_begin_at_once_one_has_the_location(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PLAN_OF_25.model_copy(update={"model": "digits:2"})
    write_new = Location.write_new

    def late(file: Location, data: bytes) -> bool:
        """Let the other process begin, and write a part, between the check of this one and its plan."""
        monkeypatch.setattr(Location, "write_new", write_new)
        open_output(location, PLAN_OF_25).write(0, scores(0))
        return file.write_new(data)

    monkeypatch.setattr(Location, "write_new", late)
    with pytest.raises(PlanDiffers, match=r"holds scores .* by digits:1 .* expected .* digits:2"):
        open_output(location, other)
    first = stored_output(location)
    assert first.plan == PLAN_OF_25
    write_all(first)
    assert first.finish().images == 25


def test_processes_that_begin_at_once_write_one_plan(location: Location) -> None:
    plans = [PLAN_OF_25.model_copy(update={"model": f"digits:{number % 2}"}) for number in range(16)]

    def begin(plan: BulkPlan) -> BulkPlan | None:
        try:
            return open_output(location, plan).plan
        except PlanDiffers:
            return None

    with ThreadPoolExecutor(len(plans)) as pool:
        begun = list(pool.map(begin, plans))
    assert begun == [plan if plan == stored_output(location).plan else None for plan in plans]


def test_a_place_of_many_other_files_is_refused_at_the_first(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(_location: Location) -> Iterator[FileEntry]:
        yield FileEntry("a.png", 1, "v")
        raise AssertionError("more files were listed")

    monkeypatch.setattr(Location, "files", files)
    with pytest.raises(OutputTaken, match=r"scores holds a\.png; expected no files"):
        open_output(location, PLAN_OF_25)


def test_parts_without_their_plan_are_refused(location: Location) -> None:
    open_output(location, PLAN_OF_25).write(0, scores(0))
    location.child(PLAN).write(b"{}")
    with pytest.raises(OutputTaken, match="holds part-000000"):
        open_output(location, PLAN_OF_25)
    with pytest.raises(OutputTaken, match="expected scores at"):
        stored_output(location)


def test_parts_that_are_damaged_or_of_other_scores_are_scored_again(location: Location) -> None:
    output = open_output(location, PLAN_OF_25)
    write_all(output)
    whole = [file.read() for file in output.files()]
    other = Output(location, PLAN_OF_25.model_copy(update={"model": "digits:2"}))
    other.write(0, scores(0))  # a process that was still at work when these scores began
    output.part(1).write(whole[1][:-100])
    output.write(2, scores(0))
    with pytest.raises(PartsDamaged, match=r"part-000000\.parquet holds other scores$"):
        list(output.files())
    scored: list[list[int]] = []
    notes: list[str] = []

    def score(missing: list[int]) -> None:
        scored.append(missing)
        write_all(output)

    assert complete(output, score, output.finish, notes.append) == PartSummary(25, 3, 3)
    assert scored == [[0, 1, 2]]
    assert [file.read() for file in output.files()] == whole
    [note] = notes
    assert "part-000000.parquet holds other scores, and 2 other parts" in note


def test_a_part_that_is_never_whole_ends_the_scoring(location: Location) -> None:
    output = open_output(location, PLAN_OF_25)

    def score(missing: list[int]) -> None:
        for index in missing:
            output.write(index, scores(0))

    with pytest.raises(PartFailed, match=r"part-000002\.parquet holds 10 rows, expected 5; so it was 3 times"):
        complete(output, score, output.finish, lambda _note: None)
    assert output.missing() == [2]


def test_the_check_of_the_parts_shows_its_progress_and_can_be_stopped(location: Location) -> None:
    output = open_output(location, PLAN_OF_25)
    write_all(output)
    told: list[tuple[int, int]] = []
    with pytest.raises(Interrupted):
        output.finish(lambda: len(told) == 2, lambda done, total: told.append((done, total)))
    assert not location.child(SUMMARY).exists()
    output.finish(progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (1, 3), (2, 3), (3, 3)]


def test_files_that_a_killed_process_left_are_no_scores(tmp_path: Path) -> None:
    output = open_output(Location.parse(str(tmp_path)), PLAN_OF_25)
    (tmp_path / f".part-000001.parquet.{'0' * 32}").write_bytes(b"half")
    write_all(output)
    assert output.finish().images == 25


def test_a_full_disk_leaves_whole_parts_and_the_work_goes_on_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_output(Location.parse(str(tmp_path)), PLAN_OF_25)
    output.write(0, scores(0))
    with monkeypatch.context() as patch:
        refuse_writes(patch, errno.ENOSPC)
        with pytest.raises(StorageFull) as refused:
            output.write(1, scores(1))
    assert waits_for_room(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PLAN, "part-000000.parquet"]
    write_all(output)
    assert output.finish().images == 25


def test_a_server_that_fails_a_tenth_of_its_requests_loses_nothing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3_server.bucket("faulty-output")
    plan = PLAN_OF_25.model_copy(update={"count": 400})
    with faulty_server(s3_server) as (faulty, proxy):
        for name, value in faulty.environment.items():
            monkeypatch.setenv(name, value)
        output = open_output(bucket, plan)
        for index in output.missing():
            assert not output.part(index).exists()
            output.write(index, scores(index, plan))
        assert output.missing() == []
        assert output.finish() == PartSummary(400, 40, 40)
        assert merge_parts(output.files(), tmp_path / "all.parquet", plan.metadata).images == 400
        assert proxy.failed.total() > 10
    paths = parquet.read_table(tmp_path / "all.parquet")["path"].to_pylist()
    assert paths == [f"{image}.png" for image in range(400)]


def test_parts_follow_row_groups(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        table = pa.table({"image": [b"no image"] * 6000})
        parquet.write_table(table, tmp_path / "images" / f"{name}.parquet", row_group_size=3000)
    location = Location.parse(str(tmp_path / "images"))

    def stop(_done: int, _total: int) -> None:
        raise Interrupted("asked to stop")

    with pytest.raises(Interrupted):
        index_location(location, tmp_path / "cache", stop)
    assert not (tmp_path / "cache").exists()
    images = index_location(location, tmp_path / "cache")
    assert index_location(location, tmp_path / "cache") == images
    source = images.open(Preprocessing(channels=1, height=28, width=28))
    assert isinstance(source, ReferencedImages)
    assert part_size(source.count, source.largest_group) == 3000
    location.child("c.parquet").write(b"PAR1")
    assert index_location(location, tmp_path / "cache") != images, "another file is there"


def test_parts_grow_so_that_there_are_at_most_ten_thousand() -> None:
    for count in (0, 1, 2000, 20_000_000, 20_000_001, 10**9):
        plan = PLAN_OF_25.model_copy(update={"count": count, "images_per_part": part_size(count)})
        assert plan.parts <= 10_000
