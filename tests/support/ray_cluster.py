"""A Ray cluster of one or two nodes of a core each, whose processes are on this machine and listen on loopback alone.

The nodes have folders of their own as current folder and as ``SNF_HOME``, so that only what an actor gets reaches it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.support.compiled_cache import share_compiled_with_user
from tests.support.paths import IMPORT_PATH
from tests.support.unmeasured import MEASURED

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 2**20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray reads this when it is imported: its servers listen on the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray Data starts 32 processes, a second of a core each, to read how Parquet files begin, even of a single file.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    "PYTHONPATH": IMPORT_PATH,
}
# A lost node is noticed in two seconds instead of twenty.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 2}


class RayCluster:
    """A head node, and a second one while a test needs it, which may be lost."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415  # after the environment is set

        self._folder = folder
        # Without this file the head node asks the metadata service of a cloud.
        (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}")
        share_compiled_with_user(folder)
        self._cluster: Cluster = Cluster()
        self._add_node(include_dashboard=False, no_monitor=True, _system_config=QUICK)
        self.address: str = self._cluster.address

    @property
    def has_second(self) -> bool:
        return bool(self._cluster.worker_nodes)

    def add_second(self) -> None:
        self._add_node()

    def lose_second(self) -> None:
        self._remove_second(gracefully=False)

    def dismiss_second(self) -> None:
        self._remove_second(gracefully=True)
        self._cluster.wait_for_nodes()

    def shut_down(self) -> None:
        self._cluster.shutdown()

    def _remove_second(self, *, gracefully: bool) -> None:
        [second] = self._cluster.worker_nodes
        self._cluster.remove_node(second, allow_graceful=gracefully)

    def _add_node(self, **options: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        own = {"HOME": str(self._folder), "SNF_HOME": str(self._folder / "home-of-the-node")}
        # Coverage writes nothing in processes that Ray kills, but makes them start twice as slowly.
        left_out = ("SNF_", "AWS_", MEASURED)
        others = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        with patch.dict(os.environ, others | ENVIRONMENT | own, clear=True), chdir(self._folder):
            self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, include_log_monitor=False, **options)
        signal.signal(signal.SIGTERM, handler)  # Ray's own one exits with code 1, from wherever this process is


@contextmanager
def cluster_of_one() -> Iterator[RayCluster]:
    """Yield a cluster of a head node, to which tests add a second one."""
    own = {name: value for name, value in ENVIRONMENT.items() if name.startswith("RAY_")}
    # One by one: tests set other variables before the cluster starts, and undo that before it ends.
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        with TemporaryDirectory(prefix="snf-ray-") as folder:
            cluster = RayCluster(Path(folder))
            try:
                yield cluster
            finally:
                cluster.shut_down()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
