"""Benjamini-Hochberg q-values, for the client and for the service.

The client computes them over all images of a call, which may take several requests.
"""

from __future__ import annotations

from collections.abc import Sequence


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return the Benjamini-Hochberg q-value of each p-value.

    A q-value is the smallest false-discovery rate at which its image is flagged.

    The false-discovery rate is the expected share of false alarms among the flagged images. With the p-values in
    ascending order p_(1) <= ... <= p_(n), the q-value of p_(i) is the minimum over j >= i of p_(j) n / j, at most 1
    (Benjamini and Hochberg 1995).

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
