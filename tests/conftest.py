"""What all processes of a test run share."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

import pytest
import typer.testing
from coverage import Coverage

from snf_worker.process_setup import tune_process
from tests.support import sandboxes
from tests.support.compiled_cache import FOLDER
from tests.support.fork_server import LISTENS_AT, listen
from tests.support.unmeasured import MEASURED, is_unmeasured

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

    from tests.support.ray_cluster import RayCluster
    from tests.support.s3 import S3Server

LONGEST = (
    "tests/end_to_end/",
    "tests/worker/",
    "tests/models/training/",
    "tests/test_checked_models",
)
"""Folders and files that take longest."""
MEASURED_TEST = "tests/test_checked_models.py::test_a_preset_lives_from_training_to_served_scores[snf-hybrid]"
"""The one case of an unmeasured test that is measured: no other trains a hybrid model while coverage is measured."""
FIRST = "gw0"
"""Name that pytest-xdist gives the first of its processes."""
FORKED = pytest.StashKey[socket]()
CLUSTER = pytest.StashKey[tuple[ExitStack, "RayCluster"]]()

# Where a test has several threads of torch, those that wait for each other sleep: those that spin take a core each.
# It is read when torch is imported, as some folders' fixtures do before any hook runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds an option that writes the documents which tests make."""
    parser.addoption(
        "--write-docs",
        action="store_true",
        help="write tables of docs and stored results anew instead of checking them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes what all processes of a test run share; those that pytest-xdist starts inherit the names of it."""
    tune_process()
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="snf-compiled-")
        address = Path(tempfile.mkdtemp(prefix="snf-", dir="/tmp")) / "fork-server"  # addresses have to be short
        os.environ[LISTENS_AT] = str(address)
        config.stash[FORKED] = listen(address)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it."""
    if not hasattr(config, "workerinput"):
        config.stash[FORKED].close()
        shutil.rmtree(Path(os.environ.pop(LISTENS_AT)).parent)
        shutil.rmtree(os.environ.pop(FOLDER))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collects tests without the garbage collector, as all that a collection makes is kept."""
    gc.disable()
    measuring = Coverage.current()
    if measuring is not None and os.environ.get("PYTEST_XDIST_WORKER", FIRST) != FIRST:
        measuring.stop()
    else:
        measuring = None
    try:
        return (yield)
    finally:
        if measuring is not None:
            measuring.start()
        gc.freeze()  # there are millions of objects of modules and tests, and all of them stay
        gc.enable()
        # Six times a test pytest adds a handler to each logger that does not propagate: PyTorch has fifty of them.
        for logger in logging.root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Looks for no doctests in the files of tests, which takes seconds: they have none."""
    collectors = yield
    return [collector for collector in collectors if type(collector) is pytest.Module]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first: then no process works on one of them when all others have nothing left to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds PyTorch's generator, before the fixtures: what ran before a test does not change the weights it draws."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measures no coverage of the tests that `unmeasured.txt` names, of their fixtures and their processes."""
    measuring = Coverage.current()
    if measuring is None or not is_unmeasured(item.nodeid) or item.nodeid == MEASURED_TEST:
        return (yield)
    measuring.stop()
    of_processes = os.environ.pop(MEASURED, None)
    try:
        return (yield)
    finally:
        if of_processes is not None:
            os.environ[MEASURED] = of_processes
        measuring.start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With `--dist loadfile`, files that share an installation go to one process."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.support.scheduler import OneHouseEach  # noqa: PLC0415 - pytest runs without pytest-xdist, too

    return OneHouseEach(config, log)


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once() -> Iterator[None]:
    """A call of the command line in a test does not build all its commands anew, which takes longer than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def sandboxes_are_forked() -> Iterator[None]:
    """Processes that read what users send start in milliseconds, but for tests with `new_sandboxes`."""
    with sandboxes.forked():
        yield


@pytest.fixture
def unmeasured_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts are not measured, as others run what they do: they start in half of the time."""
    monkeypatch.delenv(MEASURED, raising=False)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of backbones with EfficientNet-Lite0, for `SNF_BACKBONES`; do not add others to it."""
    from tests.support.backbones import backbone_folder  # noqa: PLC0415 - most processes do without

    return backbone_folder(tmp_path_factory)


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest) -> RayCluster:
    """A Ray cluster of two nodes, which tests share. They may lose the second one."""
    cluster = _shared_cluster(request.config.stash)
    if not cluster.has_second:
        cluster.add_second()
    return cluster


@pytest.fixture
def small_ray_cluster(request: pytest.FixtureRequest) -> RayCluster:
    """The same cluster without its second node: a scoring has one actor at a time."""
    cluster = _shared_cluster(request.config.stash)
    if cluster.has_second:
        cluster.dismiss_second()
    return cluster


def _shared_cluster(stash: pytest.Stash) -> RayCluster:
    from tests.support.ray_cluster import cluster_of_one  # noqa: PLC0415 - most processes do without

    if CLUSTER not in stash:
        stack = ExitStack()
        stash[CLUSTER] = stack, stack.enter_context(cluster_of_one())
    return stash[CLUSTER][1]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the Ray cluster before a file that does not use it: its idle processes take a part of a core."""
    stash = item.config.stash
    if CLUSTER in stash and not (nextitem and ray_cluster.__name__ in nextitem.path.read_text(encoding="utf-8")):
        stash[CLUSTER][0].close()
        del stash[CLUSTER]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server in a process of its own. Each test makes buckets of other names."""
    from tests.support import s3  # noqa: PLC0415 - most processes do without

    with s3.s3_server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, which is the one of the environment of this process."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
