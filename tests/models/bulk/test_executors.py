"""Executors: every image once, whoever dies or is stopped; retries of parts; the engine that computes."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from snf_models.artifacts.files import cached_artifact, write_artifact
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.bulk import executors
from snf_models.bulk.executors import Callbacks, Member, PartQueue, executor, typed
from snf_models.bulk.output import Output, open_output
from snf_models.bulk.plan import BulkPlan
from snf_models.bulk.work import BulkWork, choose_engine
from snf_models.datasets.image_source import DatasetImages, ImageSource
from snf_models.errors import (
    AlphaUnattainable,
    ArtifactError,
    DatasetNotFound,
    EngineUnavailable,
    ImageError,
    Interrupted,
    LocationUnavailable,
    ModelsError,
    NoLiveVersion,
    PartFailed,
    PlanDiffers,
    StorageFull,
)
from snf_models.loading.verification import MAX_FETCHED_BYTES, ModelFiles, content_digest
from snf_models.locations.location import Location
from snf_models.scorer import load_files
from snf_models.scoring import EngineOptions
from snf_runtime.images.batch import NamedImage
from snf_runtime.images.preprocessing import Preprocessing
from tests.models.helpers import bulk_plan
from tests.support.compiled_cache import compiled
from tests.support.forked_context import forked_context
from tests.support.paths import IMPORT_PATH
from tests.support.slow_images import Fault, SlowImages, WorkWithoutModel, slow_work
from tests.support.trained import barely_trained
from tests.support.unmeasured import MEASURED
from tests.worker.support.helpers import alive, until

IMAGES = 600
TORCH = EngineOptions("torch")
"""Starts in less time than an engine that compiles."""


@dataclass(frozen=True)
class DeadlyImages:
    """Digits of which one part ends the process that reads it, once or each time."""

    folder: Path
    deaths: int

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        source = DatasetImages("mnist-mini", None, self.folder).open(preprocessing)
        return DeadlySource(source, self.folder, self.deaths)


class DeadlySource:
    def __init__(self, images: ImageSource, folder: Path, deaths: int) -> None:
        self.count, self.digest = images.count, images.digest
        self._images, self._folder, self._deaths = images, folder, deaths

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        yield from self._images.read(start, start + 64)
        died = len(list(self._folder.glob("death-*")))
        if start == 200 and died < self._deaths:
            (self._folder / f"death-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from self._images.read(start + 64, stop)


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forks of one that has imported what they need; those of `driver` start as users have it."""
    monkeypatch.delenv(MEASURED, raising=False)
    monkeypatch.setattr(executors, "get_context", lambda _method: forked_context())


@pytest.fixture
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that scores an image in the least time."""
    return barely_trained(tmp_path_factory, preset="snf-fc-2l")


def work_of(artifact: Path, folder: Path, deaths: int = 0, options: EngineOptions = TORCH) -> BulkWork:
    manifest = read_manifest(artifact)
    images = DeadlyImages(folder, deaths)
    source = images.open(manifest.preprocessing)
    weights = manifest.log_dets.weights_sha256
    plan = bulk_plan(weights_sha256=weights, source_digest=source.digest, count=source.count, images_per_part=100)
    output = open_output(Location.parse(str(folder / "scores")), plan)
    return BulkWork(output, ModelFiles(artifact, None, options), images)


def rows(output: Output) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pa.concat_tables(map(parquet.read_table, output.files())).to_pylist()
    return found


@pytest.mark.timeout(300)
def test_processes_that_die_or_are_stopped_lose_and_double_nothing(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone, shared = work_of(dense, tmp_path / "one"), work_of(dense, tmp_path / "two", deaths=1)
    told: list[int] = []
    with pytest.raises(Interrupted):
        executor("local").run(alone, alone.output.missing(), Callbacks(lambda: sum(told) > 150, told.append))
    assert alone.output.missing() == [1, 2, 3, 4, 5]
    executor("local").run(alone, alone.output.missing(), Callbacks())

    told.clear()
    engine = executor("local", processes=2)
    with pytest.raises(Interrupted):
        engine.run(shared, shared.output.missing(), Callbacks(lambda: len(shared.output.missing()) < 6))
    left = shared.output.missing()
    assert 0 < len(left) < 6
    told.clear()
    written: list[int] = []
    engine.run(shared, left, Callbacks(advance=told.append, part_written=written.append))
    assert (tmp_path / "two" / "death-0").exists()
    assert sum(told) == 100 * len(left), "images of the part that was lost are counted once"
    assert written == [100] * len(left)
    assert shared.output.finish().images == len({row["path"] for row in rows(shared.output)}) == IMAGES
    assert rows(shared.output) == rows(alone.output)


@pytest.mark.timeout(300)
def test_a_part_that_ends_each_process_is_named(artifact: Path, tmp_path: Path) -> None:
    work = work_of(artifact, tmp_path, 99, compiled())  # as users have it
    expected = (
        "^images 200 to 299 failed 3 times, the last time with: a process ended by signal SIGKILL, .*fewer processes"
    )
    with pytest.raises(PartFailed, match=expected):
        executor("local", processes=2).run(work, [2, 3], Callbacks())
    assert 2 in work.output.missing()


@pytest.mark.timeout(300)
def test_a_brief_outage_is_met_by_another_process_and_a_lasting_error_keeps_its_class(
    artifact: Path, tmp_path: Path
) -> None:
    faults = Fault(200, LocationUnavailable("no answer"), 1), Fault(500, StorageFull("the disk is full"))
    work, journal = slow_work(artifact, tmp_path, 100, work=WorkWithoutModel, faults=faults)
    engine = executor("local", processes=2)
    engine.run(work, [1, 2], Callbacks())
    first, second = journal.readers(200)
    assert first != second
    assert work.output.missing() == [0, 3, 4, 5]
    expected = "^images 500 to 599 failed 3 times, the last time with: the disk is full$"
    with pytest.raises(StorageFull, match=expected):
        engine.run(work, [0, 5], Callbacks())


DRIVER = """
import signal, sys
from pathlib import Path
from snf_models.bulk import executors
from snf_models.bulk.executors import Callbacks
from snf_models.bulk.executors import Processes, ThisProcess
from snf_models.errors import Interrupted
from tests.support.slow_images import WorkWithoutModel, slow_work

if __name__ == "__main__":
    stop = []
    work, _ = slow_work(Path(sys.argv[1]), Path(sys.argv[2]), 100, work=WorkWithoutModel, seconds=120)
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    print("begins", flush=True)
    try:
        Processes(2).run(work, work.output.missing(), Callbacks(lambda: len(stop) >= 20))
    except Interrupted:
        print("stopped", flush=True)
"""


@pytest.fixture
def driver(artifact: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The first process of a group of three that begin to score parts whose first image takes a minute to read."""
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, tmp_path / "driver.py", artifact, tmp_path]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=os.environ | {"PYTHONPATH": IMPORT_PATH},
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == "begins\n"
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_while_processes_start_ends_all_without_a_traceback(driver: subprocess.Popen[str]) -> None:
    for _ in range(30):
        time.sleep(0.1)
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGINT)
    assert driver.communicate(timeout=60) == ("stopped\n", "")
    assert driver.returncode == 0


def test_processes_end_with_their_killed_parent(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    journal = SlowImages(tmp_path / "journal")
    until(lambda: len(journal.readers()) == 2)
    driver.kill()
    until(lambda: not any(alive(process) for _, process in journal.readers()), 5)


def test_other_images_than_those_of_the_plan_are_not_scored(artifact: Path, tmp_path: Path) -> None:
    work = work_of(artifact, tmp_path)
    plan = work.output.plan.model_copy(update={"source_digest": "another"})
    other = BulkWork(Output(work.output.location, plan), work.model, work.images)
    with pytest.raises(PlanDiffers):
        executor("local").run(other, [0], Callbacks())
    assert work.output.missing() == list(range(6))


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'snf-density\[ray\]'"):
        executor("ray")


def plan_of(files: ModelFiles, folder: Path) -> tuple[BulkPlan, DatasetImages]:
    manifest = read_manifest(files.path)
    images = DatasetImages("mnist-mini", None, folder)
    plan = bulk_plan(
        weights_sha256=manifest.log_dets.weights_sha256,
        source_digest=images.open(manifest.preprocessing).digest,
        count=600,
        model_sha256=content_digest(files.path, files.calibration),
        precision="float32",
    )
    return plan, images


def test_all_processes_of_a_scoring_compute_by_the_engine_that_began_it(artifact: Path, tmp_path: Path) -> None:
    files = ModelFiles(artifact, None, compiled())
    plan, images = plan_of(files, tmp_path)
    begun, chosen, _ = choose_engine(plan, files, None)
    assert begun.engine == chosen.options.name == load_files(files).density.engine_name
    assert begun != plan

    other = "torch" if begun.engine == "openvino" else "openvino"
    earlier = begun.model_copy(update={"engine": other})
    resumed, chosen, _ = choose_engine(plan, files, earlier)
    assert (resumed, chosen.options.name) == (earlier, other)
    assert choose_engine(plan, files, earlier.model_copy(update={"alpha": 0.1}))[0] == begun
    on_gpu = ModelFiles(artifact, None, EngineOptions(device="cuda:0"))
    assert choose_engine(plan, on_gpu, None)[0].engine == "torch"

    output = Output(Location.parse(str(tmp_path / "scores")), earlier)
    with pytest.raises(EngineUnavailable, match=f"computed by {other}, which this machine cannot: it computes by "):
        BulkWork(output, files, images).open()


def test_a_model_that_changed_is_not_that_of_the_plan(copy: Path, tmp_path: Path) -> None:
    """Its weights are the same, so that these alone would not show it."""
    files = ModelFiles(copy, None, compiled())
    plan, images = plan_of(files, tmp_path)
    plan, files, _ = choose_engine(plan, files, None)
    (copy / FILE).write_bytes((copy / FILE).read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="has changed: expected SHA-256"):
        BulkWork(Output(Location.parse(str(tmp_path / "scores")), plan), files, images).open()


def test_a_machine_without_the_model_fetches_it_from_its_location(artifact: Path, tmp_path: Path) -> None:
    location = Location.parse(str(tmp_path / "shared"))
    write_artifact(artifact, location)
    path = cached_artifact(location, tmp_path / "cache", MAX_FETCHED_BYTES, check=lambda _folder: None)
    files = ModelFiles(path, None, compiled(), location)
    shutil.rmtree(path)
    assert load_files(files).log_det_digest == read_manifest(artifact).log_dets.weights_sha256

    location.child(FILE).write((artifact / FILE).read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"^{location} has another model than when the scoring began$"):
        load_files(files)


QUEUED = bulk_plan(count=250, images_per_part=100)
KILLED = PartFailed("killed")


def queue(callbacks: Callbacks | None = None) -> PartQueue[Member]:
    return PartQueue(QUEUED, [0, 1, 2], 3, callbacks or Callbacks())


def test_processes_that_die_at_random_never_end_a_long_run() -> None:
    parts = queue()
    for _ in range(2):
        for _ in range(2):
            parts.fail(None, time.monotonic(), KILLED)
        parts.finish(None)
    part = parts.take()
    assert part == 0
    for _ in range(2):
        parts.fail(None, time.monotonic(), KILLED)
    parts.finish(part)
    for _ in range(2):
        parts.fail(None, time.monotonic(), KILLED)
    with pytest.raises(PartFailed, match=r"^loading the model failed 3 times, the last time with: killed$"):
        parts.fail(None, time.monotonic(), KILLED)


def test_processes_that_are_lost_together_count_once() -> None:
    parts = queue()
    began = time.monotonic()
    for _ in range(100):
        parts.fail(None, began, KILLED)
    parts.fail(None, time.monotonic(), KILLED)
    with pytest.raises(PartFailed, match="failed 3 times"):
        parts.fail(None, time.monotonic(), KILLED)


def test_a_part_is_repeated_where_the_cause_may_pass_and_its_last_error_keeps_its_class() -> None:
    advanced: list[int] = []
    written: list[int] = []
    parts = queue(Callbacks(advance=advanced.append, part_written=written.append))
    for error in (LocationUnavailable("no answer"), KILLED):
        part = parts.take()
        assert part == 0
        parts.advance(part, 64)
        parts.fail(part, 0.0, error)
    assert advanced == [64, -64, 64, -64]
    assert (parts.take(), parts.take(), parts.take(), parts.take()) == (0, 1, 2, None)
    parts.advance(2, 30)
    parts.finish(2)
    assert (parts.left, parts.unfinished) == (0, 2)
    assert (sum(advanced), written) == (50, [50])
    with pytest.raises(LocationUnavailable, match=r"^images 0 to 99 failed 3 times, the last time with: no answer$"):
        parts.fail(0, 0.0, LocationUnavailable("no answer"))
    with pytest.raises(DatasetNotFound, match=r"^images 100 to 199: deleted$") as raised:
        parts.fail(1, 0.0, DatasetNotFound("deleted"))
    assert raised.value.detail == str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ImageError("unreadable-image", "The image is damaged", "no PNG"),
        AlphaUnattainable(0.001, 0.01),
        NoLiveVersion("all are unfit", [("hardly-trained", "too few steps")]),
        LocationUnavailable("no answer"),
    ],
)
def test_errors_are_pickled_with_all_that_they_say(error: ModelsError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is type(error)
    assert (vars(copied), str(copied), copied.slug, copied.title) == (
        vars(error),
        str(error),
        error.slug,
        error.title,
    )


def test_errors_of_a_process_become_ours() -> None:
    assert isinstance(typed(OSError(28, "No space left on device")), StorageFull)
    unknown = typed(ValueError("a bug"))
    assert type(unknown) is PartFailed
    assert unknown.detail == "ValueError: a bug"
