"""The local engine with real processes: every image once, whoever dies or is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from models.artifacts.manifest import read_manifest
from models.bulk.engines import bulk_engine
from models.bulk.output import Output, open_output
from models.bulk.part import Stopped
from models.bulk.plan import BulkPlan
from models.bulk.sources import DatasetImages
from models.bulk.work import BulkWork
from models.datasets.image_source import ImageSource, NamedImage
from models.errors import EngineUnavailable, PartFailed, PlanDiffers
from models.images.preprocessing import Preprocessing
from models.locations.location import Location
from models.model_files import ModelFiles
from models.scoring.options import EngineOptions
from tests.support.paths import ROOT

MODEL = ROOT / "models" / "zoo" / "mnist-snf-glow" / "1"
IMAGES = 600


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


def work_of(folder: Path, deaths: int = 0) -> BulkWork:
    manifest = read_manifest(MODEL)
    images = DeadlyImages(folder, deaths)
    source = images.open(manifest.preprocessing)
    plan = BulkPlan(
        model="mnist-snf-glow:1",
        weights_sha256=manifest.log_dets.weights_sha256,
        dataset="mnist-mini",
        source_digest=source.digest,
        alpha=0.01,
        count=source.count,
        images_per_part=100,
    )
    output = open_output(Location.parse(str(folder / "scores")), plan)
    return BulkWork(output, ModelFiles(MODEL, None, EngineOptions()), images)


def rows(output: Output) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pa.concat_tables(map(parquet.read_table, output.files())).to_pylist()
    return found


def never() -> bool:
    return False


@pytest.mark.timeout(300)
def test_processes_that_die_or_are_stopped_lose_and_double_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone, shared = work_of(tmp_path / "one"), work_of(tmp_path / "two", deaths=1)
    told: list[int] = []
    with pytest.raises(Stopped):
        bulk_engine("local").run(alone, alone.output.missing(), lambda: sum(told) > 150, told.append)
    assert alone.output.missing() == [1, 2, 3, 4, 5]
    bulk_engine("local").run(alone, alone.output.missing(), never, told.append)

    told.clear()
    engine = bulk_engine("local", processes=2)
    with pytest.raises(Stopped):
        engine.run(shared, shared.output.missing(), lambda: len(shared.output.missing()) < 6, told.append)
    left = shared.output.missing()
    assert 0 < len(left) < 6
    told.clear()
    engine.run(shared, left, never, told.append)
    assert (tmp_path / "two" / "death-0").exists()
    assert sum(told) == 100 * len(left), "images of the part that was lost are counted once"
    assert shared.output.finish().images == len({row["path"] for row in rows(shared.output)}) == IMAGES
    assert rows(shared.output) == rows(alone.output)


@pytest.mark.timeout(300)
def test_a_part_that_ends_each_process_is_named(tmp_path: Path) -> None:
    work = work_of(tmp_path, deaths=99)
    expected = "3 processes died while scoring images 200 to 299, the last by signal SIGKILL; .*: fewer processes"
    with pytest.raises(PartFailed, match=expected):
        bulk_engine("local", processes=2).run(work, [2, 3], never, lambda _images: None)
    assert 2 in work.output.missing()


def test_other_images_than_those_of_the_plan_are_not_scored(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    plan = work.output.plan.model_copy(update={"source_digest": "another"})
    other = BulkWork(Output(work.output.location, plan), work.model, work.images)
    with pytest.raises(PlanDiffers):
        bulk_engine("local").run(other, [0], never, lambda _images: None)
    assert work.output.missing() == list(range(6))


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'snf-density\[ray\]'"):
        bulk_engine("ray")
