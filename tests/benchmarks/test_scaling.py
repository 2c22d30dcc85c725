"""The arithmetic of the scaling benchmarks: costs and counted rows."""

import math
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.by_reference.images import digits, synthetic
from benchmarks.by_reference.memory import MAX_MIB_AN_HOUR, growth_of
from benchmarks.by_reference.output import different, images_per_second, lost_and_doubled, values
from benchmarks.by_reference.rows import Row, Rows
from benchmarks.scaling import page
from benchmarks.scaling.broker import Traffic, divide

MACHINE = {"cpu": "c", "cores": 2, "load_before": 0.0}


def test_traffic_is_divided_among_jobs_shards_and_seconds() -> None:
    def of(shards: int, seconds: float) -> Traffic:
        return Traffic(100 + 7 * shards + 2 * seconds, 5 * shards, 3 * seconds, 0.1, seconds)

    costs = divide({"few": of(1, 9), "many": of(6, 50), "fine": of(48, 52)}, {"few": 1, "many": 6, "fine": 48})
    assert [costs[name].commands for name in costs] == pytest.approx([100, 7, 2])
    assert [costs[name].received for name in costs] == pytest.approx([0, 5, 0])


def test_a_table_that_was_not_measured_says_so(tmp_path: Path) -> None:
    lines = page.measured(lambda: page.broker_lines(page.read_results(tmp_path, "scaling_broker")))
    assert lines == ["Not measured yet: this needs scaling_broker.json, which docs/figures.md has the command of."]


def test_steady_growth_is_found_and_a_peak_is_not() -> None:
    mib = 2**20
    leak = growth_of([(second, 500 * mib + second * mib // 100) for second in range(0, 2400, 2)])
    assert leak["mib_an_hour"] == pytest.approx(36, rel=0.05)
    assert leak["mib_an_hour"] > MAX_MIB_AN_HOUR
    peak = growth_of([(second, (900 if 2000 < second < 2300 else 500) * mib) for second in range(0, 2400, 2)])
    assert (peak["mib_an_hour"], peak["second_half_most_mib"], peak["long_enough"]) == (0, 900, True)
    assert not growth_of([(second, mib) for second in range(300)])["long_enough"]


@pytest.mark.parametrize("later", [0.1, 5.0, 9.9])
def test_parts_that_were_begun_do_not_count(later: float, tmp_path: Path) -> None:
    # Two processes of 10 images a second each: 20 together, whatever the moments at which their parts end.
    ends = [4 + 10 * turn + start for turn in range(8) for start in (0.0, later)]
    for number, moment in enumerate(sorted(ends)):
        path = tmp_path / f"part-{number:06d}.parquet"
        parquet.write_table(pa.table({"path": ["a"] * 100}), path)
        os.utime(path, (moment, moment))
    assert images_per_second(tmp_path, 2) == pytest.approx(20)
    assert images_per_second(tmp_path, 1) == pytest.approx(20, rel=0.1)
    for path in sorted(tmp_path.iterdir())[5:]:
        path.unlink()
    with pytest.raises(ValueError, match="expected over 6 parts"):
        images_per_second(tmp_path, 2)


def test_rows_that_differ_in_a_bit_are_counted(tmp_path: Path) -> None:
    scores = [-1.0, -2.0, -3.0]
    for name, last in (("a", 0.5), ("b", math.nextafter(0.5, 1))):
        columns = {
            "path": [f"{number:08d}.png" for number in range(3)],
            "log_likelihood": scores,
            "statistic": scores,
            "p_value": [0.1, 0.2, last],
            "is_anomaly": [True, False, None],
        }
        (tmp_path / name).mkdir()
        parquet.write_table(pa.table(columns), tmp_path / name / "part-000000.parquet")
    ours, theirs = (values(tmp_path / name, 3) for name in ("a", "b"))
    assert (different(ours, ours), different(ours, theirs)) == (0, 1)


def test_lost_and_doubled_rows_are_counted(tmp_path: Path) -> None:
    for part, numbers in enumerate(([0, 1, 2], [2, 4])):
        names = [f"{number:08d}.png" for number in numbers]
        scores = [None if number == 4 else 1.0 for number in numbers]  # 3 has no row, 4 no score
        parquet.write_table(pa.table({"path": names, "log_likelihood": scores}), tmp_path / f"part-{part:06d}.parquet")
    assert lost_and_doubled(tmp_path, 5) == (2, 1)


def test_synthetic_images_are_the_same_every_time(tmp_path: Path) -> None:
    first = synthetic(tmp_path / "a", 30)
    again = synthetic(tmp_path / "b", 30)
    [file], [other] = first.iterdir(), again.iterdir()
    assert file.read_bytes() == other.read_bytes()
    assert len({image.tobytes() for image in digits(0, 1000)}) == 1000


def test_rows_of_an_interrupted_run_are_kept(tmp_path: Path) -> None:
    rows = Rows(tmp_path, 100, MACHINE, fresh=False, patterns=[])
    rows.facts["reads_an_image"] = 0.5
    rows.record(Row("s3", "what", "measured", "wanted", "PASS"))
    later = Rows(tmp_path, 100, MACHINE, fresh=False, patterns=[])
    assert (later.wants("s3"), later.wants("two"), later.facts) == (False, True, {"reads_an_image": 0.5})
    assert Rows(tmp_path, 200, MACHINE, fresh=False, patterns=[]).wants("s3")
    assert Rows(tmp_path, 100, MACHINE, fresh=True, patterns=[]).wants("s3")
    assert "`s3` | what" in Rows(tmp_path, 100, MACHINE, fresh=True, patterns=["bulk/*"]).text()
    rows.record(Row("s3", "what", "measured", "wanted", "BUSY"))
    assert Rows(tmp_path, 100, MACHINE, fresh=False, patterns=[]).wants("s3")
    later.record(Row("two", "what", "measured", "wanted", "FAIL"))
    assert not later.all_passed
    text = (tmp_path / "by_reference.md").read_text()
    assert "| FAIL |" in text
    assert "| `job/rate` |  |  |  | not measured |" in text
