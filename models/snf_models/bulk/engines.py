from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, Protocol

from snf_models.bulk.callbacks import Callbacks
from snf_models.bulk.local_engine import LocalEngine
from snf_models.bulk.work import BulkWork
from snf_models.errors import EngineUnavailable

BulkEngineName = Literal["local", "ray"]


class BulkEngine(Protocol):
    def run(self, work: BulkWork, missing: Sequence[int], callbacks: Callbacks) -> None:
        """Score the missing parts. Raises ``Stopped``, ``PartFailed``, or the ``ModelsError`` of a process."""
        ...


def bulk_engine(name: BulkEngineName, processes: int = 1, ray_address: str | None = None) -> BulkEngine:
    """Return the engine; raise ``EngineUnavailable`` if it is not installed, or Ray has no address."""
    if name == "local":
        return LocalEngine(processes)
    if importlib.util.find_spec("ray") is None:
        raise EngineUnavailable("the engine ray is not installed: pip install 'snf-density[ray]'")
    if ray_address is None:
        raise EngineUnavailable("the engine ray needs a cluster: set SNF_RAY_ADDRESS to its HOST:PORT")
    from snf_models.bulk.ray_engine import RayEngine  # noqa: PLC0415  # it needs the extra

    return RayEngine(ray_address)
