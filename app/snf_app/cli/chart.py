"""Line charts in Braille characters. At this height plotext takes half of the rows for frame and legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.text import Text

ROWS = 5
MARGIN = 9
"""Characters of the axis labels."""
BLANK = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a Braille character, by row and column (Unicode 2800 to 28FF)."""
RANGE, LOG_RANGE = (0.0, 0.9), (0.05, 0.95)
"""Quantiles of the values at the ends of the axis: the first values of a training would flatten all later ones."""
MIN_LOG_VALUE = 1e-30


@dataclass
class Line:
    """Coloured line of a chart: finite values by training step."""

    name: str
    style: str
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: float, value: float | None) -> None:
        """Append a value, or a gap; points from its step on go, because a resumed training repeats them."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        if value is not None and math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)


@dataclass
class Chart:
    """Line chart over training steps, with a linear or logarithmic value axis."""

    title: str
    lines: list[Line]
    log: bool = False

    def draw(self, width: int) -> list[Text]:
        """Return a title and 5 rows of ``width`` characters; none for fewer than two values or too small a width."""
        series = [(line, [self._scaled(value) for value in line.values]) for line in self.lines]
        values = sorted(value for _, scaled in series for value in scaled)
        columns = width - MARGIN
        if len(values) < 2 or columns < 2:
            return []
        low, high = (values[round(share * (len(values) - 1))] for share in (LOG_RANGE if self.log else RANGE))
        high = high if high > low else low + 1e-9
        last = max(line.steps[-1] for line in self.lines if line.steps)
        cells: list[list[tuple[int, str]]] = [[(0, "")] * columns for _ in range(ROWS)]
        for line, scaled in series:
            for x, value in _columns(line.steps, scaled, last, 2 * columns):
                height = (min(max(value, low), high) - low) / (high - low)
                y = round((1 - height) * (4 * ROWS - 1))
                bits, _ = cells[y // 4][x // 2]
                cells[y // 4][x // 2] = (bits | DOTS[y % 4][x % 2], line.style)
        ends = {0: high, ROWS - 1: low}
        return [self._title(), *(self._row(cells[row], ends.get(row)) for row in range(ROWS))]

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, MIN_LOG_VALUE)) if self.log else value

    def _title(self) -> Text:
        text = Text(" " * MARGIN, no_wrap=True)
        text.append(self.title, "bold")
        for line in self.lines:
            if line.values:
                text.append(f"  {line.name} {line.values[-1]:.4g}", line.style)
        return text

    def _row(self, cells: Sequence[tuple[int, str]], end: float | None) -> Text:
        number = "" if end is None else f"{10**end:.1e}" if self.log else f"{end:.4g}"
        text = Text(no_wrap=True)
        text.append(f"{number:>{MARGIN - 2}} │", "dim")
        for bits, style in cells:
            text.append(chr(BLANK + bits), style)
        return text


def _columns(steps: Sequence[float], values: Sequence[float], last: float, columns: int) -> list[tuple[int, float]]:
    """Return the mean value in each column, interpolated linearly in columns without values."""
    sums: dict[int, tuple[float, int]] = {}
    for step, value in zip(steps, values, strict=True):
        x = min(columns - 1, int(step / max(last, 1) * columns))
        total, count = sums.get(x, (0.0, 0))
        sums[x] = (total + value, count + 1)
    known = sorted((x, total / count) for x, (total, count) in sums.items())
    points = known[:1]
    for (left, low), (right, high) in pairwise(known):
        points += ((x, low + (high - low) * (x - left) / (right - left)) for x in range(left + 1, right + 1))
    return points
