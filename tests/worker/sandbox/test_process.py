"""A process with limits answers, or ends with a typed error that names its limit, and never outlives its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snf_models.errors import ErrorKind, ModelsError
from snf_worker.sandbox.process import NICENESS, LimitExceeded, ProcessDied, ProcessKilled, ProcessLimits, run_sandboxed
from tests.support.paths import IMPORT_PATH, ROOT
from tests.worker.support.helpers import alive, until
from tests.worker.support.limited_child import work

pytestmark = pytest.mark.usefixtures("new_sandboxes")

LIMITS = ProcessLimits(memory_bytes=512 * 2**20, cpu_s=60, wall_s=60)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts this memory, and has /proc")

PARENT = """
import sys
from tests.worker.support.limited_child import work
from snf_worker.sandbox.process import ProcessLimits, run_sandboxed
run_sandboxed(work, {"wait beside a child": sys.argv[1]}, ProcessLimits(2**30, 60, 600))
"""


@pytest.fixture(autouse=True)
def _tasks_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORT_PATH)


def run(order: object, limits: ProcessLimits = LIMITS, **options: Any) -> Any:
    return run_sandboxed(work, order, limits, **options)


def no_more(pids: Path) -> bool:
    return not any(alive(int(pid)) for pid in pids.read_text().split())


def test_it_answers_and_inherits_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SNF_API_KEYS", "REDIS_URL", "SNF_REDIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    content = {"name \udcff": [1, 2.5, None], "large": "x" * 2**20}
    answer = run({"echo": content})
    assert answer["content"] == content
    assert "secret" not in answer["environment"].values()
    assert answer["environment"]["PATH"] == os.environ["PATH"]
    assert answer["nice"] >= min(19, os.nice(0) + NICENESS)


def test_typed_errors_keep_their_fields() -> None:
    with pytest.raises(ModelsError) as caught:
        run("refuse")
    error = caught.value
    assert (error.slug, error.title, error.kind, error.detail) == (
        "some-slug",
        "Some title",
        ErrorKind.INVALID,
        "some detail \udcff",
    )


@linux
def test_the_limit_of_memory() -> None:
    with pytest.raises(LimitExceeded, match="more than 536870912 bytes of memory"):
        run("hold memory")


@linux
def test_a_lower_limit_that_was_inherited_stays() -> None:
    program = (
        "import resource\n"
        "from tests.worker.support.limited_child import work\n"
        "from snf_worker.sandbox.process import ProcessLimits, run_sandboxed\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (50, 50))\n"
        "print(run_sandboxed(work, 'limits', ProcessLimits(2**33, 60, 60)))\n"
    )
    answer = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert answer.strip() == str({"DATA": [2**31] * 2, "CPU": [50, 50], "CORE": [0, 0]})


def test_the_limit_of_processor_time() -> None:
    with pytest.raises(LimitExceeded, match="more than 1 s of processor time"):
        run("compute", ProcessLimits(2**30, cpu_s=1, wall_s=60))


def test_the_limit_of_time_ends_the_children_too(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(LimitExceeded, match=r"more than 4 s"):
        run(
            {"wait beside a child": str(tmp_path / "pids")},
            ProcessLimits(2**30, 60, wall_s=4),
            progress=lambda *at: told.append(at),
        )
    assert told[-1] == (3, 7)
    until(lambda: no_more(tmp_path / "pids"))


def test_progress_can_end_it(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run({"wait beside a child": str(tmp_path / "pids")}, progress=stop)
    until(lambda: no_more(tmp_path / "pids"))


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(pids)], cwd=ROOT)
    until(lambda: pids.exists() and pids.read_text())
    parent.kill()
    parent.wait()
    until(lambda: no_more(pids))


@pytest.mark.parametrize(
    ("order", "error", "text"),
    [
        ("crash", ProcessDied, "ZeroDivisionError: by purpose"),
        ("die", ProcessKilled, "SIGSEGV"),
        ("leave", ProcessDied, "no answer"),
    ],
)
def test_an_end_without_an_answer(order: str, error: type[ProcessDied], text: str) -> None:
    with pytest.raises(ProcessDied, match=text) as caught:
        run(order)
    assert type(caught.value) is error


def test_a_flood_of_output_is_neither_kept_nor_waited_for() -> None:
    with pytest.raises(LimitExceeded):
        run("talk without end", ProcessLimits(2**30, 60, wall_s=1))
