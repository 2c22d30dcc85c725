"""What a measurement is told: how many rounds, which rows, how many threads, and where its rows go."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from benchmarks.speed.pairing import Ratio, Target
from benchmarks.speed.results import Results, Row


@dataclass(frozen=True)
class Context:
    """The settings of one run of one subject; ``rows`` are patterns of row keys, all rows where there are none."""

    results: Results
    rounds: int
    threads: int
    images: int
    seconds: float
    rows: tuple[str, ...] = ()
    quick: bool = False

    @property
    def glow(self) -> str:
        """The preset of the Glow, a tiny one where the benchmark itself is only tried out."""
        return "snf-glow-tiny" if self.quick else "snf-glow-2l-16k"

    def wants(self, *keys: str) -> bool:
        """Whether any of these rows is to be measured."""
        return not self.rows or any(fnmatch(key, pattern) for key in keys for pattern in self.rows)

    def record(self, key: str, what: str, found: Ratio | None, target: Target | None = None, **details: object) -> None:
        """Write down a row, where it is wanted."""
        if self.wants(key):
            self.results.record(Row(key, what, found, target, details))

    def failed(self, key: str, what: str, problem: str, target: Target | None = None) -> None:
        """Write down why there is no figure, where it is wanted."""
        if self.wants(key):
            self.results.record(Row(key, what, None, target, problem=problem))
