"""The arithmetic of the scaling benchmarks: the simulation against queueing theory, costs, plans and counted rows."""

import json
import math
import os
import random
import statistics
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from benchmarks.by_reference.images import digits, synthetic
from benchmarks.by_reference.memory import MAX_MIB_AN_HOUR, growth_of
from benchmarks.by_reference.output import different, images_per_second, lost_and_doubled, values
from benchmarks.by_reference.rows import Row, Rows
from benchmarks.overload import Row as Load
from benchmarks.scaling import page, plan, replicas
from benchmarks.scaling.broker import Traffic, divide
from benchmarks.scaling.compute import line
from benchmarks.scaling.simulation import BATCH, MAX_WAITING, Cores, Costs, Simulation, Thread

SCORING = Costs(batch=0.01, image=0.005, head=0.0001, body=0.0001, answer=0.0001, wake=0.0, client=0.0001)
MACHINE = {"cpu": "c", "cores": 2, "load_before": 0.0}


def test_waiting_is_that_of_the_formula_of_pollaczek_and_khinchine() -> None:
    cores, chance = Cores(math.inf), random.Random(1)
    thread = Thread(cores)
    waits: list[float] = []
    service, load, due = 1.0, 0.7, 0.0

    def note_wait(arrived: float) -> None:
        waits.append(cores.now - arrived - service)

    for _ in range(40_000):
        due += chance.expovariate(load / service)
        cores.at(due, partial(thread.do, service, partial(note_wait, due)))
    cores.run(math.inf)
    assert statistics.mean(waits) == pytest.approx(service * load / (2 * (1 - load)), rel=0.05)


def test_threads_share_cores_equally() -> None:
    cores = Cores(1.5)
    ends: dict[str, float] = {}

    def note_end(name: str) -> None:
        ends[name] = cores.now

    for name, seconds in (("short", 0.75), ("long", 1.5)):
        cores.work(seconds, partial(note_end, name))
    cores.run(math.inf)
    # Both run at 0.75 until the short one ends, then the long one alone at full speed.
    assert ends == pytest.approx({"short": 1.0, "long": 1.75})


def test_replicas_with_cores_of_their_own_double_the_capacity() -> None:
    one, two = (Simulation(SCORING, count, math.inf).closed(64 * count, 60.0).admitted_per_s for count in (1, 2))
    assert one == pytest.approx(SCORING.most_per_second, rel=0.02)
    assert two == pytest.approx(2 * one, rel=0.02)


def test_replicas_on_one_core_gain_nothing() -> None:
    one, two = (Simulation(SCORING, count, 1.0).closed(64, 60.0).admitted_per_s for count in (1, 2))
    assert two == pytest.approx(one, rel=0.05)


def test_beyond_the_capacity_the_rest_is_refused_and_waits_are_bounded() -> None:
    found = Simulation(SCORING, 1, math.inf).poisson(2 * SCORING.most_per_second, 60.0, seed=0)
    assert found.admitted_per_s == pytest.approx(SCORING.most_per_second, rel=0.02)
    assert found.refused == pytest.approx(0.5, abs=0.02)
    longest = (MAX_WAITING / BATCH + 2) * (SCORING.batch + BATCH * SCORING.image)
    assert found.p99_ms < 1e3 * longest


def test_costs_of_a_batch_lie_on_a_line() -> None:
    assert line({size: 0.003 + 0.002 * size for size in (1, 2, 8, 32)}) == pytest.approx((0.003, 0.002))


def test_traffic_is_divided_among_jobs_shards_and_seconds() -> None:
    def of(shards: int, seconds: float) -> Traffic:
        return Traffic(100 + 7 * shards + 2 * seconds, 5 * shards, 3 * seconds, 0.1, seconds)

    costs = divide({"few": of(1, 9), "many": of(6, 50), "fine": of(48, 52)}, {"few": 1, "many": 6, "fine": 48})
    assert [costs[name].commands for name in costs] == pytest.approx([100, 7, 2])
    assert [costs[name].received for name in costs] == pytest.approx([0, 5, 0])


def test_a_plan_follows_from_its_costs(tmp_path: Path) -> None:
    traffic = {"commands": 10.0, "received": 100.0, "sent": 100.0, "cpu_s": 0.001, "seconds": 1.0}
    layout = {
        "read_bytes_an_image": 300.0,
        "reads_an_image": 0.001,
        "written_bytes_an_image": 50.0,
        "index_bytes_an_image": 0.5,
    }
    reference: dict[str, Any] = {
        "storage": {"core_images_per_second": 100.0, "layouts": {"parquet": layout}},
        "rows": [],
    }
    for name, content in (
        ("scaling_replicas", {"costs": vars(SCORING)}),
        ("scaling_broker", dict.fromkeys(("job", "shard", "busy_worker_a_second"), traffic)),
        ("by_reference", reference),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    options = ArgumentParser()
    plan.add_arguments(options)
    made = plan.make(options.parse_args(["--images", "1e9", "--hours", "100", "--images-per-second", "1000"]), tmp_path)
    assert made.bulk.processes == math.ceil(1e9 / 90 / 360_000)
    assert made.bulk.files == 10_000
    assert (made.bulk.read_terabytes, made.bulk.reads) == pytest.approx((0.3, 1e6))
    assert made.bulk.commands_per_s == pytest.approx(10 * 1e9 / 90 / 360_000, rel=0.01)
    assert made.online.replicas == math.ceil(1000 / (0.6 * SCORING.most_per_second))
    assert made.online.latency.admitted_per_s == pytest.approx(1000 / made.online.replicas, rel=0.1)
    assert (made.bulk.listings, made.bulk.index_bytes) == pytest.approx((100, 5e8))
    assert "10,000" in plan.text_of(made)
    assert made.inputs.core_measured_by == "0.9 of one process alone on images in memory"
    together = {"images_per_second": 160.0}
    rate = vars(Row("bulk/rate", "what", "measured", "wanted", "PASS", together))
    assert plan.core_rate({**reference, "rows": [rate]})[0] == 80
    assert plan.core_rate({**reference, "rows": [{**rate, "verdict": "BUSY"}]})[0] == 90


def test_a_plan_without_results_names_them(tmp_path: Path) -> None:
    with pytest.raises(plan.Missing, match=r"scaling_broker\.json"):
        plan.read_results(tmp_path, "scaling_broker")
    with pytest.raises(plan.Missing, match="--rows s3/requests"):
        plan.fact({"storage": {}}, "layouts", "s3/requests")


def test_a_table_that_was_not_measured_says_so(tmp_path: Path) -> None:
    lines = page.measured(lambda: page.broker_lines(plan.read_results(tmp_path, "scaling_broker")))
    assert lines == ["Not measured yet: this needs scaling_broker.json, which docs/figures.md has the command of."]


def test_a_picture_of_other_results_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scaling_replicas.json").write_text('{"seconds": 60}')
    monkeypatch.setattr(page, "PICTURE", tmp_path / "scaling.svg")
    page.PICTURE.write_text(f"<svg>{page.digest(tmp_path)}</svg>")
    assert page.measured(lambda: page.picture_lines(tmp_path))[0].endswith("(images/scaling.svg)")
    (tmp_path / "scaling_replicas.json").write_text('{"seconds": 61}')
    [line] = page.measured(lambda: page.picture_lines(tmp_path))
    assert line.startswith("Not measured yet: this needs `python -m benchmarks.scaling.plot`")


def compared(images_per_second: float, p99_ms: float, others: float = 0.0) -> dict[str, Any]:
    measured = Load(0.5, 10.0, 100, 100, 0, images_per_second, 15.0, p99_ms, 50.0, 0.0, 0.0, 0, {})
    return replicas.compare(measured, SCORING, 1, math.inf, 60.0, others)


@pytest.mark.parametrize(
    ("measured", "verdict", "use"),
    [
        ((10.0, 30.0), {"rate": "PASS", "latency": "PASS"}, "for latencies on similar machines"),
        ((10.0, 300.0), {"rate": "PASS", "latency": "FAIL"}, "measure latencies"),
        ((8.0, 30.0), {"rate": "FAIL", "latency": "PASS"}, "Do not plan from the simulation"),
        ((8.0, 30.0, 1.0), {"rate": "BUSY", "latency": "BUSY"}, "says nothing"),
    ],
)
def test_the_comparison_says_what_the_simulation_is_good_for(
    measured: tuple[float, ...], verdict: dict[str, str], use: str
) -> None:
    row = compared(*measured)
    assert row["verdict"] == verdict
    assert use in replicas.use_of({"rows": [row], "busy_cores": 1.0})


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
