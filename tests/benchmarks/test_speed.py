"""The arithmetic, the files and the client that the speed benchmark's figures rest on."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.raw_http import answer_of
from benchmarks.speed.ours import coupling_work, random_flow
from benchmarks.speed.pairing import Ratio, Target, exponent, in_turns, ratio
from benchmarks.speed.results import Context, Results


def test_ratios_are_taken_within_a_round() -> None:
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == Ratio(2.0, 1.0, 3.0, 3)


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    seconds = in_turns({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_exponent_of_a_power() -> None:
    assert exponent([10, 100, 1000], [3e2, 3e4, 3e6]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(Target(low=1.65), 1.65, True), (Target(high=0.05), 0.051, False), (Target(0.95, 1.05), 1.0, True)],
)
def test_targets(target: Target, value: float, met: bool) -> None:
    assert target.met(value) is met


def test_rows_stand_in_both_files_at_once_and_replace_those_of_their_key(tmp_path: Path) -> None:
    first = Context(Results("score", "Speed", 2, tmp_path), 3, 2, 64, 1.0)
    first.record("a", "ours / theirs", Ratio(1.5, 1.4, 1.6, 3), Target(low=1.65))
    first.record("b", "ours / nobody", None, problem="it does not start")
    again = Context(Results("score", "Speed", 2, tmp_path), 3, 2, 64, 1.0)
    again.record("a", "ours / theirs", Ratio(1.7, 1.6, 1.8, 3), Target(low=1.65), engine="torch")
    rows = json.loads((tmp_path / "speed_score.json").read_text())["rows"]
    assert [(row["key"], row["met"]) for row in rows] == [("a", True), ("b", None)]
    page = (tmp_path / "speed_score.md").read_text()
    assert "| ours / theirs | 1.7 | 1.6 | 1.8 | 3 | >= 1.65 | yes | 1 |" in page
    assert "not measured: it does not start" in page


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    ],
)
def test_the_client_reads_answers(answer: bytes) -> None:
    async def read() -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(answer)
        status, _, body = await answer_of(reader)
        return status, body

    assert asyncio.run(read()) == (200, b"abcd")


def test_work_of_the_coupling_nets() -> None:
    work = coupling_work(random_flow("snf-glow-tiny", (1, 8, 8)), (1, 8, 8))
    net = 4 * 4 * (9 * 2 * 32 + 32 * 32 + 9 * 32 * 4)
    assert work["products"] == 4 * net
