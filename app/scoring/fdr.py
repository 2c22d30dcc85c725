"""Benjamini-Hochberg q-values."""

from __future__ import annotations

from collections.abc import Sequence


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return the q-value of each p-value: the smallest false-discovery rate at which it is flagged.

    Benjamini and Hochberg 1995.
    """
    n = len(p_values)
    order = sorted(range(n), key=p_values.__getitem__)
    q = [1.0] * n
    running = 1.0
    for rank in range(n, 0, -1):
        index = order[rank - 1]
        running = min(running, p_values[index] * n / rank)
        q[index] = running
    return q
