"""Benjamini-Hochberg q-values of the p-values of one request."""

from __future__ import annotations

from collections.abc import Sequence


def q_values(p_values: Sequence[float]) -> list[float]:
    """The q-value of each p-value: the smallest false-discovery rate that flags it."""
    n = len(p_values)
    order = sorted(range(n), key=p_values.__getitem__)
    found = [1.0] * n
    running = 1.0
    for rank in range(n, 0, -1):
        index = order[rank - 1]
        running = min(running, p_values[index] * n / rank)
        found[index] = running
    return found
