"""Bulk scoring engines, for this machine or a Ray cluster, and their selection by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, Protocol

from models.bulk.callbacks import Callbacks
from models.bulk.local_engine import LocalEngine
from models.bulk.work import BulkWork
from models.errors import EngineUnavailable

BulkEngineName = Literal["local", "ray"]


class BulkEngine(Protocol):
    """Protocol of an engine that scores many images in parts, on this machine or on a Ray cluster."""

    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        """Score the given parts (image ranges) of a bulk scoring job and write one result file for each.

        Returns after the last part.

        An interrupted call leaves whole parts alone. Another call with the parts that are missing then goes on.

        Args:
            work: Model, images and output, which may be pickled.
            missing: The indices of the parts to score.
            callbacks: Functions that are called meanwhile.

        Raises:
            Stopped: ``callbacks.should_stop`` returned true.
            PartFailed: The processes that score a part, or load the model, fail again and again.
            ModelsError: Any other error of a process, of the class that it has there. Where the cause may pass, such as
                a location that cannot be reached or a full disk, other processes have tried before.
        """
        ...


def bulk_engine(name: BulkEngineName, processes: int = 1, ray_address: str | None = None) -> BulkEngine:
    """Return the engine that runs bulk scoring jobs, either on this machine or on a Ray cluster.

    Args:
        name: ``local`` for this machine, ``ray`` for a Ray cluster.
        processes: Number of processes of the local engine; 1 for this process.
        ray_address: ``HOST:PORT`` of the Ray cluster.

    Raises:
        EngineUnavailable: The engine is not installed, or has no address.
    """
    if name == "local":
        return LocalEngine(processes)
    if importlib.util.find_spec("ray") is None:
        raise EngineUnavailable("the engine ray is not installed: pip install 'snf-density[ray]'")
    if ray_address is None:
        raise EngineUnavailable("the engine ray needs a cluster: set SNF_RAY_ADDRESS to its HOST:PORT")
    from models.bulk.ray_engine import RayEngine  # noqa: PLC0415  # it needs the extra

    return RayEngine(ray_address)
