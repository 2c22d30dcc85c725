"""Learning curves on a terminal."""

import io
import math
from itertools import pairwise

import pytest
from rich.console import Console

from snf_app.cli.live import BLANK, MARGIN, ROWS, Chart, Line, Observer, live_view, terminal_view

WIDTH = 49
COLUMNS = WIDTH - MARGIN


def line(*values: float) -> Line:
    found = Line("some", "cyan")
    for step, value in enumerate(values, start=1):
        found.add(step, value)
    return found


def dots(chart: Chart) -> list[tuple[int, int]]:
    """Column and row of every dot, from the left and from below."""
    rows = [text.plain[MARGIN:] for text in chart.draw(WIDTH)[1:]]
    places = {0x01: (0, 0), 0x02: (0, 1), 0x04: (0, 2), 0x40: (0, 3)}
    places |= {0x08: (1, 0), 0x10: (1, 1), 0x20: (1, 2), 0x80: (1, 3)}
    return sorted(
        (2 * column + x, 4 * ROWS - 1 - 4 * row - y)
        for row, text in enumerate(rows)
        for column, character in enumerate(text)
        for bit, (x, y) in places.items()
        if (ord(character) - BLANK) & bit
    )


def test_a_falling_line_falls() -> None:
    found = dots(Chart("t", [line(*range(200, 0, -1))]))
    assert [x for x, _ in found] == list(range(2 * COLUMNS))
    heights = [y for _, y in found]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (4 * ROWS - 1, 0)


def test_powers_are_a_straight_line_where_their_logarithms_are_drawn() -> None:
    found = dots(Chart("t", [line(*(10.0 ** (-step / 20) for step in range(2 * COLUMNS)))], log=True))
    assert max(abs(a - b) for (_, a), (_, b) in pairwise(found)) <= 1


def test_few_values_are_joined_by_lines() -> None:
    found = dots(Chart("t", [line(4.0, 1.0, 4.0)]))
    assert [x for x, _ in found] == list(range(found[0][0], 2 * COLUMNS))
    assert max(abs(a - b) for (_, a), (_, b) in pairwise(found)) <= 1


def test_numbers_beside_a_chart_are_its_ends() -> None:
    rows = Chart("t", [line(*([2.5] * 20), *([1.25] * 20))]).draw(WIDTH)
    assert "t" in rows[0].plain
    assert "1.25" in rows[0].plain
    assert (rows[1].plain.split()[0], rows[ROWS].plain.split()[0]) == ("2.5", "1.25")
    assert {len(row.plain) for row in rows[1:]} == {WIDTH}


def test_too_little_to_draw() -> None:
    assert Chart("t", [line()]).draw(WIDTH) == []
    assert Chart("t", [line(1.0)]).draw(WIDTH) == []
    assert Chart("t", [line(1.0, 2.0)]).draw(MARGIN) == []
    assert Chart("t", [line(math.nan, math.inf)]).draw(WIDTH) == []


def test_steps_that_come_again_replace_what_they_were() -> None:
    one = line(3.0, 2.0, 1.0)
    one.add(2, 7.0)
    assert (one.steps, one.values) == ([1, 2], [3.0, 7.0])


def training(observe: Observer) -> None:
    observe({"event": "state", "status": "running", "attempt": 1, "worker": "[host]:17"})
    observe({"event": "started", "step": 0, "steps": 40})
    for step in range(1, 41):
        rates = {"images_per_second": 1850.5, "eta_seconds": 40 - step}
        observe({"event": "metrics", "step": step, "steps": 40, "bits_per_dim": 4 / step, **rates})
    observe({"event": "validation", "step": 40, "bits_per_dim": 0.2})
    observe({"event": "log", "message": "[bold]no markup"})


def test_a_training_on_a_terminal() -> None:
    screen = io.StringIO()
    with terminal_view(Console(file=screen, force_terminal=True, width=100, height=40, markup=False)) as observe:
        training(observe)
    shown = screen.getvalue()
    for wanted in ("running, attempt 1 on [host]:17", "40/40", "validation", "[bold]no markup", "bits/dim"):
        assert wanted in shown, wanted
    assert any(BLANK < ord(character) <= BLANK + 0xFF for character in shown)


def test_a_training_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with live_view(as_json=False) as observe:
        training(observe)
    assert capsys.readouterr().out.splitlines() == [
        "running, attempt 1 on [host]:17",
        "1/40  1850 img/s  4.0000 bits/dim  ETA 0:39",
        "40/40  1850 img/s  0.1000 bits/dim  ETA 0:00",
        "step 40: validation 0.2000 bits/dim",
        "[bold]no markup",
    ]
