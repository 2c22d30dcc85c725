"""A Ray cluster of two nodes of a core each, whose processes are on this machine and listen on loopback alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 2**20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray reads this when it is imported: its servers listen on the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
}


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Yield a cluster of a head and a second node."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster  # noqa: PLC0415  # after the environment is set

        # A lost node is noticed in two seconds instead of twenty.
        quick = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 2,
        }
        head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False, "_system_config": quick}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
            yield cluster
        finally:
            cluster.shutdown()
