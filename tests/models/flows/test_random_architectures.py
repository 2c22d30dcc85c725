"""Random flows as data score as the determinant of their whole Jacobian says."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.architectures import TOLERANCE, compare, random_architecture
from snf_models.flows.layers import layer_types

SEEDS = range(26)
"""Each type of layer is in three of the flows at least, as in those of forty seeds."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_flow_is_exact(seed: int) -> None:
    compared = compare(seed)
    assert compared.difference <= TOLERANCE, compared


def test_every_layer_type_is_among_the_random_flows() -> None:
    names = Counter(word for seed in SEEDS for word in str(random_architecture(seed)).split("'"))
    assert {layer_type.type_name() for layer_type in layer_types()} <= names.keys()
