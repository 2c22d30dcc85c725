"""Benjamini-Hochberg q-values, for the service and for the client over all requests of a call."""

from __future__ import annotations

from collections.abc import Sequence


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return the least false-discovery rate at which each p-value is flagged (Benjamini and Hochberg 1995).

    >>> q_values([0.01, 0.04, 0.03, 0.005])
    [0.02, 0.04, 0.04, 0.02]
    """
    n = len(p_values)
    order = sorted(range(n), key=p_values.__getitem__)
    values = [1.0] * n
    smallest = 1.0
    for rank in range(n, 0, -1):
        index = order[rank - 1]
        smallest = min(smallest, p_values[index] * n / rank)
        values[index] = smallest
    return values
