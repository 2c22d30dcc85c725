"""Bulk scoring on a Ray cluster, by an actor a core or GPU. Each holds a model and writes the files of its parts.

Images and scores never go through Ray: an actor reads its images from where they are, and writes to the output. Ray has
the numbers of parts alone, so that memory does not grow with the images. A part is a file that appears whole, and is
scored again by another actor if its own one dies.

The actors are those of Ray's core. Ray Data has no call that stops a pipeline, and repeats without end what kills its
process.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models.bulk.part import Stopped
from models.bulk.ray_connection import places, ray_at
from models.errors import ModelsError, PartFailed, RayUnavailable

if TYPE_CHECKING:
    from models.bulk.work import BulkWork, OpenWork

log = logging.getLogger(__name__)

MAX_DEATHS = 5
"""Actors that a part may end before it is given up: they may die with their nodes, too."""
TICK_S = 0.2
LOOK_S = 2.0
"""Time in seconds between two looks for nodes that joined or left the cluster."""


@dataclass(frozen=True)
class RayEngine:
    """Engine that scores on a Ray cluster, with an actor a GPU, or an actor a core.

    An actor on CPUs takes as many cores as the model's options have threads, one by default.

    Args:
        address: ``HOST:PORT`` of the cluster that this machine is a part of, or ``local`` to start one of this machine.
    """

    address: str

    def run(
        self,
        work: BulkWork,
        missing: Sequence[int],
        should_stop: Callable[[], bool],
        advance: Callable[[int], None],
    ) -> None:
        """Score parts; see :meth:`models.bulk.engines.BulkEngine.run`.

        Raises:
            Stopped: ``should_stop`` returned true.
            PartFailed: A part cannot be scored.
            RayUnavailable: The cluster cannot be reached, or has no room.
        """
        with ray_at(self.address) as ray:
            actors = _Actors(ray, work, missing)
            try:
                while actors.are_busy:
                    if should_stop():
                        raise Stopped("scoring was stopped")
                    actors.step(advance)
            except ray.exceptions.RayError as error:
                raise RayUnavailable(f"Ray at {self.address} failed: {_last_line(error)}") from error


class PartActor:
    """Actor that scores the parts whose numbers it gets. Its calls return why that failed, or ''."""

    def __init__(self, work: BulkWork, threads: int) -> None:
        self._work, self._threads = work, threads
        self._opened: OpenWork | None = None

    def open(self) -> str:
        """Load the model and open the images; return why they cannot be used."""
        return _problem(self._open)

    def score(self, part: int) -> str:
        """Score a part into its file; return why it cannot be scored."""
        return _problem(lambda: self._open().score(part, should_stop=lambda: False))

    def _open(self) -> OpenWork:
        self._opened = self._opened or self._work.open(self._threads)
        return self._opened


class _Actors:
    """The actors of one run, and the parts that are left. An actor gets parts once it has loaded its model."""

    def __init__(self, ray: Any, work: BulkWork, missing: Sequence[int]) -> None:
        options = work.model.options
        self._ray = ray
        self._ranges = work.output.plan.ranges
        self._left = deque(missing)
        self._deaths: Counter[int | None] = Counter()
        self._calls: dict[Any, tuple[Any, int | None]] = {}  # actor and part of each call that has not returned
        self._threads = options.threads or 1
        self._on_gpu = options.device.startswith("cuda")
        if self._on_gpu:  # Ray shows an actor only the GPU that it may use
            work = replace(work, model=replace(work.model, options=replace(options, device="cuda:0")))
        self._work = work
        self._actor = ray.remote(PartActor).options(num_cpus=self._threads, num_gpus=int(self._on_gpu))
        self._look_at = 0.0

    @property
    def are_busy(self) -> bool:
        """Whether a part is left or being scored."""
        return bool(self._left) or any(part is not None for _, part in self._calls.values())

    def step(self, advance: Callable[[int], None]) -> None:
        """Wait a moment for actors, and give those that are ready a part."""
        if self._left and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            room = places(self._ray, self._threads, on_gpu=self._on_gpu)
            for _ in range(min(room, len(self._left) + len(self._calls)) - len(self._calls)):
                actor = self._actor.remote(self._work, self._threads)
                self._calls[actor.open.remote()] = actor, None
        done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=TICK_S)
        for call in done:
            self._take(call, advance)

    def _take(self, call: Any, advance: Callable[[int], None]) -> None:
        actor, part = self._calls.pop(call)
        try:
            problem = self._ray.get(call)
        except self._ray.exceptions.RayActorError as error:
            self._bury(actor, part, error)
            return
        if problem:
            raise PartFailed(f"{self._label(part)}: {problem}")
        if part is not None:
            start, stop = self._ranges[part]
            advance(stop - start)
        if self._left:
            following = self._left.popleft()
            self._calls[actor.score.remote(following)] = actor, following
        # Otherwise Ray ends the actor, because nothing refers to it.

    def _bury(self, actor: Any, part: int | None, error: Exception) -> None:
        """Let another actor score the part of one that died or cannot be reached."""
        self._ray.kill(actor)
        self._deaths[part] += 1
        log.warning("an actor of Ray was lost, %s: %s", self._label(part), _last_line(error))
        if self._deaths[part] >= MAX_DEATHS:
            raise PartFailed(f"{self._label(part)}: {MAX_DEATHS} actors of Ray died, the last with {_last_line(error)}")
        if part is not None:
            self._left.appendleft(part)
        self._look_at = 0.0

    def _label(self, part: int | None) -> str:
        if part is None:
            return "loading the model"
        start, stop = self._ranges[part]
        return f"images {start} to {stop - 1}"


def _problem(work: Callable[[], Any]) -> str:
    """Do some work in an actor; return the error that it raised in words, or ''. Exceptions of ours need no Ray."""
    try:
        work()
    except ModelsError as error:
        return f"{error.title}: {error.detail}"
    except Exception as error:
        log.exception("the actor failed")
        return f"{type(error).__name__}: {error}"
    return ""


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no cause was given"]
    return f"{type(error).__name__}: {lines[-1].strip()}"
