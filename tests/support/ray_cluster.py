"""A Ray cluster of two nodes of a core each, whose processes are on this machine and listen on loopback alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest.mock import patch

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
    with (
        TemporaryDirectory(prefix="snf-ray-") as user_home,
        patch.dict(os.environ, ENVIRONMENT | {"HOME": user_home}),
    ):
        # Without this file the head node asks the metadata service of a cloud.
        Path(user_home, "ray_bootstrap_config.yaml").write_text("provider: {type: local}")
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
            add_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


def add_node(cluster: Cluster) -> None:
    """Add a node of one core."""
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


def lose_node(cluster: Cluster) -> None:
    """End a node that is not the head with all its processes, without a chance to stop orderly."""
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
