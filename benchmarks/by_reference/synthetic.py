"""Rows of synthetic images: nothing lost under kills, as fast as in memory, two workers over one, memory."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.by_reference import ways
from benchmarks.by_reference.images import digits, first_files
from benchmarks.by_reference.kills import Kills, Memory
from benchmarks.by_reference.output import images_per_second, lost_and_doubled, parts
from benchmarks.by_reference.rows import Row, Rows
from benchmarks.by_reference.ways import MODEL, Scoring
from benchmarks.scaling.compute import limit, together
from models.bulk.plan import part_size
from models.score_rows.judged_rows import BATCH

PROCESSES = 2
MOST_KILLS, PARTS_A_KILL = 10, 4
RATE_IMAGES = 100_000
"""Most images of a run without kills, whose rate counts."""
MEMORY_S = 10.0
WITHIN, TWO_OVER_ONE = 0.9, 1.6
Begin = Callable[[Path], Scoring]
"""A function that begins a scoring with its output folder."""


@dataclass(frozen=True)
class Work:
    """What the rows share: their results, the folder of the images, their number, and a folder for all else."""

    rows: Rows
    images: Path
    count: int
    folder: Path

    @property
    def few(self) -> tuple[Path, int]:
        """The images of a run whose rate counts, and their number."""
        count = min(self.count, RATE_IMAGES)
        return first_files(self.images, count, self.folder / "few"), count

    def output(self, name: str) -> Path:
        """Return a folder for scores, without earlier ones."""
        path = self.folder / "scores" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    @contextmanager
    def home(self, name: str) -> Iterator[Path]:
        """Give a new ``SNF_HOME`` below the folder, and delete it."""
        path = self.folder / f"home-{name}"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def measure(work: Work) -> None:
    """Measure all rows that are wanted."""
    for name, way in (("job", _jobs), ("bulk", _bulk), ("ray", _ray)):
        if work.rows.wants(f"{name}/rate"):
            with way(work, work.few[0], PROCESSES) as begin:
                _rate(work, name, begin)
        if work.rows.wants(f"{name}/killed"):
            with way(work, work.images, PROCESSES) as begin:
                _killed(work, name, begin)
        if work.rows.wants(f"{name}/memory"):
            _memory(work, name)
    if work.rows.wants("two"):
        _two_over_one(work)


@contextmanager
def _jobs(work: Work, images: Path, processes: int) -> Iterator[Begin]:
    with work.home("job") as home, ways.jobs(home, images, processes) as begin:
        yield begin


@contextmanager
def _bulk(work: Work, images: Path, processes: int) -> Iterator[Begin]:
    with work.home("bulk") as home:
        options = ("--processes", str(processes))
        yield lambda out: ways.bulk(home, str(images), str(out), *options, scorers=ways.local_processes)


@contextmanager
def _ray(work: Work, images: Path, processes: int) -> Iterator[Begin]:
    with work.home("ray") as home, ways.ray_cluster(processes) as address:
        yield lambda out: ways.bulk(
            home,
            str(images),
            str(out),
            "--engine",
            "ray",
            scorers=ways.ray_actors,
            variables={"SNF_RAY_ADDRESS": address},
        )


def _killed(work: Work, name: str, begin: Begin) -> None:
    out = work.output(f"{name}-killed")
    total = -(-work.count // part_size(work.count))
    count = max(1, min(MOST_KILLS, total // PARTS_A_KILL))
    started = time.monotonic()
    scoring = begin(out)
    kills = Kills(lambda: scoring.scorers() + scoring.others(), lambda: len(parts(out)) / total, count)
    with kills, Memory(scoring.scorers) as memory:
        scoring.wait()
    seconds = time.monotonic() - started
    lost, doubled = lost_and_doubled(out, work.count)
    work.rows.record(
        Row(
            f"{name}/killed",
            f"{work.count:,} images, {NAMES[name]}, {len(kills.killed)} processes killed",
            f"lost {lost}, doubled {doubled}; {work.count / seconds:.0f} images/s with start and kills",
            f"lost 0, doubled 0, {count} kills",
            lost == doubled == 0 and len(kills.killed) == count,
            {"killed_at": kills.killed, "seconds": seconds, "memory": memory.growth()},
        )
    )


NAMES = {
    "job": "a job with two workers",
    "bulk": "`snf bulk --processes 2`",
    "ray": "`snf bulk --engine ray`, two nodes",
}


def _rate(work: Work, name: str, begin: Begin) -> None:
    images, count = digits(0, 2_000)[:, None], work.few[1]
    in_memory = partial(together, MODEL, PROCESSES, MEMORY_S, BATCH, images)
    out = work.output(f"{name}-rate")
    before = sum(in_memory())
    scoring = begin(out)
    with Memory(scoring.scorers) as memory:
        scoring.wait()
    reference = statistics.mean([before, sum(in_memory())])  # machines change their pace
    rate = images_per_second(out, PROCESSES)
    work.rows.record(
        Row(
            f"{name}/rate",
            f"{count:,} images, {NAMES[name]}, over `Scorer` in memory in as many processes",
            f"{rate / reference:.2f} ({rate:.0f} of {reference:.0f} images/s)",
            f">= {WITHIN}",
            rate >= WITHIN * reference,
            {"images_per_second": rate, "in_memory": reference, "memory": memory.growth()},
        )
    )


def _memory(work: Work, name: str) -> None:
    samples = [work.rows.details(f"{name}/{run}")["memory"] for run in ("rate", "killed")]
    growth = max(samples, key=lambda sample: float(sample["seconds"]))
    text = f"{growth['first_mib']:.0f} -> {growth['last_mib']:.0f} MiB" if growth["seconds"] else "too short to tell"
    work.rows.record(
        Row(
            f"{name}/memory",
            f"memory of the process of {NAMES[name]} that lived longest, {growth['seconds']:.0f} s after its start",
            text,
            "flat: last third <= 1.1 of the first",
            growth["flat"],
            growth,
        )
    )


def _two_over_one(work: Work) -> None:
    images = digits(0, 2_000)[:, None]
    most, alone = limit(MODEL, PROCESSES, MEMORY_S, batch=BATCH, images=images)
    rates = {}
    for workers in (1, PROCESSES):
        with _jobs(work, work.few[0], workers) as begin:
            out = work.output(f"workers-{workers}")
            begin(out).wait()
            rates[workers] = images_per_second(out, workers)
    ratio = rates[PROCESSES] / rates[1]
    work.rows.facts["core_images_per_second"] = statistics.median(alone)
    work.rows.record(
        Row(
            "two",
            "a job by two workers of one thread over one worker",
            f"{ratio:.2f}; two plain scoring loops over one give {most:.2f} here",
            f">= {TWO_OVER_ONE}",
            ratio >= TWO_OVER_ONE,
            {"images_per_second": rates, "plain_loops": most, "over_plain_loops": ratio / most},
        )
    )
