"""What the pool of loaded models keeps, and how long a result is shared."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snf_app.registry.model_pool import MAX_AGE_S, ModelPool, PoolEntry, TtlCache
from snf_models.errors import ArtifactError, ModelNotFound
from snf_models.registry.registry import ModelVersion, Registry
from snf_models.scoring import EngineOptions
from tests.support.trained import barely_trained

pytestmark = pytest.mark.anyio


class Loads:
    """Loads in place of `load_model`: each is noted by its model and version, and waits for its event if it has one."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, int]] = []
        self.waves: list[tuple[str, int]] = []
        self.wait: dict[tuple[str, int], threading.Event] = {}
        self.made: dict[tuple[str, int], Any] = {}

    def load(self, path: Path, *_: Any) -> Any:
        key = (path.parent.name, int(path.name))
        self.noted.append(key)
        if key in self.wait:
            assert self.wait[key].wait(60)
        if key in self.made:
            return self.made[key]
        return SimpleNamespace(open_parallel_graphs=lambda: self.waves.append(key), is_flow_loaded=False)


@pytest.fixture
def registry(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    made = Registry(tmp_path / "models")
    for name in ("a", "b"):
        made.publish(barely_trained(tmp_path_factory), name, promote=True)
    return made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    made = Loads()
    monkeypatch.setattr("snf_models.scorer.load_model", made.load)
    return made


@pytest.fixture
def pool(registry: Registry, loads: Loads) -> Iterator[ModelPool]:
    """A pool that is not started, with room for one model."""
    made = ModelPool(registry, EngineOptions(), limit=1)
    yield made
    made.close()


def kept(pool: ModelPool) -> set[tuple[str, int]]:
    return {(version.name, version.version) for version in pool.states()}


def until_dropped(pool: ModelPool, most: int) -> None:
    end = time.monotonic() + 60
    while len(kept(pool)) > most:
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_a_model_that_has_just_been_loaded_is_not_the_one_to_drop(pool: ModelPool, loads: Loads) -> None:
    """Its load takes seconds, in which others are used."""
    loads.wait["b", 1] = threading.Event()
    await pool.acquire("a")
    loading = asyncio.create_task(pool.acquire("b"))
    while len(loads.noted) < 2:
        await asyncio.sleep(0.01)
    await pool.acquire("a")
    loads.wait["b", 1].set()
    await loading
    until_dropped(pool, 1)
    assert kept(pool) == {("b", 1)}


def test_the_next_version_of_an_alias_is_not_dropped(
    pool: ModelPool, loads: Loads, registry: Registry, monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Another model is loaded after it, before the alias moves."""
    asyncio.run(pool.acquire("a"))
    registry.publish(barely_trained(tmp_path_factory), "a", promote=True)
    other, find = registry.resolve("b"), pool._entry

    def entry_then_another(version: ModelVersion) -> PoolEntry:
        entry = find(version)
        entry.future.result()
        until_dropped(pool, 1)
        find(other).future.result()
        time.sleep(0.2)  # what is too much is dropped after the future is done
        return entry

    monkeypatch.setattr(pool, "_entry", entry_then_another)
    pool._follow()
    monkeypatch.undo()
    assert kept(pool) == {("a", 2), ("b", 1)}
    asyncio.run(pool.acquire("a"))
    assert loads.noted == [("a", 1), ("a", 2), ("b", 1)]


async def test_graphs_for_many_images_are_opened_once_no_model_is_loading(
    registry: Registry, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snf_app.registry.model_pool.POLL_S", 0.02)
    loads.wait["b", 1] = threading.Event()
    pool = ModelPool(registry, EngineOptions(), limit=2**40)
    pool.start()
    loading = asyncio.create_task(pool.acquire("b"))
    while not loads.noted:
        await asyncio.sleep(0.01)
    await pool.acquire("a")
    await asyncio.sleep(0.2)
    assert loads.waves == []
    loads.wait["b", 1].set()
    await loading
    end = time.monotonic() + 60
    while not {("a", 1), ("b", 1)} <= set(loads.waves):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    time.sleep(0.1)
    pool.close()
    assert len(loads.waves) == len(set(loads.waves)), "each once"


async def test_trained_flows_are_loaded_once_for_all(registry: Registry, loads: Loads) -> None:
    class Trained:
        loaded = 0
        is_flow_loaded = False

        @property
        def trained(self) -> None:
            time.sleep(0.2)
            self.loaded += 1

    pool, scorer = ModelPool(registry, EngineOptions(), limit=2**40), Trained()
    loads.made["a", 1] = scorer
    loaded = await pool.acquire("a")
    await asyncio.gather(*(pool.load_trained(loaded) for _ in range(8)))
    pool.close()
    assert scorer.loaded == 1


async def test_a_model_that_was_removed_before_its_flows_are_loaded_is_not_found(
    registry: Registry, loads: Loads, pool: ModelPool
) -> None:
    class Removed:
        is_flow_loaded = False

        @property
        def trained(self) -> None:
            registry.remove_model("a")
            raise ArtifactError("manifest.json is missing")

    loads.made["a", 1] = Removed()
    with pytest.raises(ModelNotFound):
        await pool.load_trained(await pool.acquire("a"))


class Clock:
    """A clock that the test moves, and a function that takes a given time by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost_s: float) -> None:
        self.now, self.calls, self._cost_s = 1000.0, 0, cost_s
        monkeypatch.setattr("snf_app.registry.model_pool.time", SimpleNamespace(monotonic=lambda: self.now))

    def compute(self) -> int:
        self.now += self._cost_s
        self.calls += 1
        return self.calls


@pytest.mark.parametrize(("cost_s", "used_s"), [(0.002, 0.1), (1.0, MAX_AGE_S), (60.0, MAX_AGE_S)])
async def test_a_result_is_used_for_a_short_time(monkeypatch: pytest.MonkeyPatch, cost_s: float, used_s: float) -> None:
    clock = Clock(monkeypatch, cost_s)
    recent = TtlCache(clock.compute)
    assert await recent.get() == 1
    clock.now += 0.99 * used_s
    assert await recent.get() == 1
    clock.now += 0.02 * used_s
    assert await recent.get() == 2


async def test_the_wait_for_a_free_thread_is_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.002)
    recent = TtlCache(clock.compute)
    free = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    blocker = asyncio.create_task(asyncio.to_thread(free.wait, 60))
    await asyncio.sleep(0)
    first = asyncio.create_task(recent.get())
    await asyncio.sleep(0.05)
    clock.now += 5.0
    free.set()
    assert await first == 1
    await blocker
    clock.now += 0.11
    assert await recent.get() == 2
