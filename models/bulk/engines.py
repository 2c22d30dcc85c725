"""The engines of bulk scoring, and the choice of one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from models.bulk.local_engine import LocalEngine
from models.bulk.work import BulkWork
from models.errors import EngineUnavailable

BulkEngineName = Literal["local", "ray"]


class BulkEngine(Protocol):
    """Protocol of what scores the parts of a bulk scoring: this process, several, or a cluster."""

    def run(
        self,
        work: BulkWork,
        missing: Sequence[int],
        should_stop: Callable[[], bool],
        advance: Callable[[int], None],
    ) -> None:
        """Score parts and write each to the output; return after the last.

        An interrupted call leaves whole parts alone. Another call with the parts that are missing then goes on.

        Args:
            work: Model, images and output, which may be pickled.
            missing: The indices of the parts to score.
            should_stop: Called several times a second; where it returns true, scoring stops.
            advance: Called with the number of images that were scored since the last call. It is negative where a part
                has to be scored again.

        Raises:
            Stopped: ``should_stop`` returned true.
            PartFailed: A part cannot be scored.
        """
        ...


def bulk_engine(name: BulkEngineName, processes: int = 1, ray_address: str | None = None) -> BulkEngine:
    """Return an engine by its name.

    Args:
        name: ``local`` for this machine, ``ray`` for a Ray cluster.
        processes: Number of processes of the local engine; 1 for this process.
        ray_address: ``HOST:PORT`` of the Ray cluster, or ``local`` for one of this machine alone.

    Raises:
        EngineUnavailable: The engine is not installed, or has no address.
    """
    if name == "local":
        return LocalEngine(processes)
    if importlib.util.find_spec("ray") is None:
        raise EngineUnavailable("the engine ray is not installed: pip install 'snf-density[ray]'")
    if ray_address is None:
        raise EngineUnavailable(
            "expected SNF_RAY_ADDRESS for the engine ray, got none: HOST:PORT of a cluster, or local for a Ray of this "
            "machine alone"
        )
    from models.bulk.ray_engine import RayEngine  # noqa: PLC0415  # it needs the extra

    return RayEngine(ray_address)
