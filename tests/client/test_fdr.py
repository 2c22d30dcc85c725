"""Benjamini-Hochberg q-values against their definition."""

import numpy as np
import pytest

from snf_client.schemas.scores import q_values


def test_known_values() -> None:
    assert q_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_none() -> None:
    assert q_values([]) == []


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_flags_what_the_step_up_rule_flags(n: int) -> None:
    p = np.random.default_rng(n).uniform(size=n) ** 3
    q = np.array(q_values(list(p)))
    for rate in (0.01, 0.05, 0.2, 0.7):
        below = np.nonzero(np.sort(p) <= rate * np.arange(1, n + 1) / n)[0]
        flagged = p <= (np.sort(p)[below[-1]] if len(below) else -1)
        assert ((q <= rate + 1e-12) == flagged).all()
