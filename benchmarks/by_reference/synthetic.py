"""Rows of synthetic images: nothing lost or changed by kills, speed beside memory, two workers over one, memory."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import snf_models
import snf_runtime
from benchmarks.by_reference import ways
from benchmarks.by_reference.images import digits, first_files
from benchmarks.by_reference.kills import SPREAD_OVER, Kills
from benchmarks.by_reference.memory import MAX_MIB_AN_HOUR, SHORTEST_S, Memory
from benchmarks.by_reference.output import different, images_per_second, lost_and_doubled, parts, values
from benchmarks.by_reference.rows import Row, Rows, busy_cores, verdict
from benchmarks.by_reference.ways import MODEL, Scoring
from benchmarks.scaling.compute import limit, together
from snf_models.bulk.plan import part_size
from snf_models.score_rows.judged_rows import BATCH

PROCESSES = 2
MAX_KILLS, PARTS_A_KILL = 10, 4
RATE_IMAGES = 40_000
"""Most images of a run whose rate counts."""
ROUNDS = 3
MEMORY_S = 60.0
"""Seconds of scoring in memory, before and after each run whose rate counts."""
WITHIN, TWO_OVER_ONE = 0.9, 1.6
LARGE_PART, LARGE_MORE_MIB = 100_000, 128
"""Images of a large part, and how much more memory it may take than parts of the usual size."""
Begin = Callable[[Path], Scoring]
"""A function that begins a scoring with its output folder."""
NAMES = {
    "job": "a job with two workers",
    "bulk": "`snf bulk --processes 2`",
    "ray": "`snf bulk --engine ray`, two nodes",
}


@dataclass(frozen=True)
class Work:
    """What the rows share.

    Attributes:
        rows: Their results.
        images: The folder of the images.
        count: Number of images.
        folder: A folder for all else.
        random_kills: Number of kills at random moments of the whole work; None for one in each of equal spans.
    """

    rows: Rows
    images: Path
    count: int
    folder: Path
    random_kills: int | None = None

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
        if work.rows.wants(f"{name}/killed", f"{name}/memory"):
            expected = _undisturbed(work)
            with way(work, work.images, PROCESSES) as begin:
                _killed(work, name, begin, expected)
    if work.rows.wants("job/large"):
        _large(work)
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
def _ray(work: Work, images: Path, _nodes: int) -> Iterator[Begin]:
    with work.home("ray") as home, ways.ray_cluster() as cluster:
        yield lambda out: ways.bulk(
            home,
            str(images),
            str(out),
            "--engine",
            "ray",
            scorers=ways.ray_actors,
            variables={"SNF_RAY_ADDRESS": cluster.address},
            lose_node=lambda: ways.replace_node(cluster),
        )


def _undisturbed(work: Work) -> NDArray[np.float64]:
    """Return what a run without kills writes; what an earlier run of the same code has scored is kept."""
    out = work.folder / "scores" / f"undisturbed-{work.count}-{_code_digest()}"
    out.mkdir(parents=True, exist_ok=True)
    with work.home("undisturbed") as home:  # the command goes on with the parts that are missing
        ways.bulk(home, str(work.images), str(out), "--processes", str(PROCESSES)).wait()
    return values(out, work.count)


def _code_digest() -> str:
    """Return 12 hex digits of the code that scores: another version of it may round otherwise."""
    digest = hashlib.sha256()
    for package in (snf_models, snf_runtime):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _killed(work: Work, name: str, begin: Begin, expected: NDArray[np.float64]) -> None:
    out = work.output(f"{name}-killed")
    total = -(-work.count // part_size(work.count))
    count = work.random_kills or max(1, min(MAX_KILLS, total // PARTS_A_KILL))
    started = time.monotonic()
    scoring = begin(out)
    kills = Kills(
        lambda: scoring.scorers() + scoring.others(),
        lambda: len(parts(out)) / total,
        count,
        spread=work.random_kills is None,
        lose_node=scoring.lose_node,
    )
    failure = ""
    with Memory(scoring.kinds) as memory:
        try:
            kills.during(scoring.wait)
        except RuntimeError as error:  # it gave up
            failure = f"; {str(error).splitlines()[-1].replace('|', '/')}"
    seconds = time.monotonic() - started
    lost, doubled = lost_and_doubled(out, work.count)
    differ = different(values(out, work.count), expected)
    nodes = f" and {kills.nodes_lost} node lost" if kills.nodes_lost else ""
    moments = f"spread over the first {SPREAD_OVER:.0%}" if work.random_kills is None else "at random moments"
    rate = work.count / seconds
    work.rows.record(
        Row(
            f"{name}/killed",
            f"{work.count:,} images, {NAMES[name]}, {len(kills.killed) - kills.nodes_lost} processes killed{nodes}, "
            f"{moments}; values of the rows beside those of an undisturbed run",
            f"lost {lost}, doubled {doubled}, {differ} differ; {rate:.0f} images/s with start and kills{failure}",
            f"lost 0, doubled 0, 0 differ in a bit, {count} kills",
            verdict(lost == doubled == differ == 0 and len(kills.killed) == count and not failure),
            {"killed_at": kills.killed, "nodes_lost": kills.nodes_lost, "seconds": seconds},
        )
    )
    _memory(work, name, memory.growth())


def _rate(work: Work, name: str, begin: Begin) -> None:
    images, count = digits(0, 2_000)[:, None], work.few[1]
    in_memory = partial(together, MODEL, PROCESSES, MEMORY_S, BATCH, images)
    others = busy_cores()
    memory, rates = [sum(in_memory())], []
    for number in range(ROUNDS):  # in turns, because machines change their pace
        out = work.output(f"{name}-rate-{number}")
        begin(out).wait()
        rates.append(images_per_second(out, PROCESSES))
        memory.append(sum(in_memory()))
    beside = [statistics.mean(pair) for pair in itertools.pairwise(memory)]
    ratios = [rate / reference for rate, reference in zip(rates, beside, strict=True)]
    ratio, rate = statistics.median(ratios), statistics.median(rates)
    work.rows.record(
        Row(
            f"{name}/rate",
            f"{count:,} images, {NAMES[name]}, over `Scorer.judge_each` in as many processes on arrays in memory, "
            "which neither reads, decodes nor writes; median of three rounds in turns",
            f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}; {rate:.0f} of {statistics.median(beside):.0f} "
            f"images/s); others took {others:.1f} cores",
            f">= {WITHIN}",
            verdict(ratio >= WITHIN, others),
            {"images_per_second": rate, "rounds": rates, "in_memory": memory, "busy_cores": others},
        )
    )


def _memory(work: Work, name: str, growth: dict[str, dict[str, Any]]) -> None:
    shown = [
        f"{kind}: {one['mib_an_hour']:+.0f} MiB an hour, at most {one['second_half_most_mib']:.0f} MiB, "
        f"{one['seconds'] / 60:.0f} min"
        for kind, one in growth.items()
    ]
    long_enough = bool(growth) and all(one["long_enough"] for one in growth.values())
    flat = all(one["mib_an_hour"] <= MAX_MIB_AN_HOUR for one in growth.values())
    work.rows.record(
        Row(
            f"{name}/memory",
            f"memory in the run with kills of {NAMES[name]}: slope over the second half of the life of the process of "
            "each kind that lived longest",
            "; ".join(shown),
            f"flat: at most {MAX_MIB_AN_HOUR:g} MiB an hour over at least {SHORTEST_S / 60:g} minutes each",
            verdict(flat) if long_enough else "TOO SHORT",
            growth,
        )
    )


def _named_scorers(scoring: Scoring) -> dict[int, str]:
    return dict.fromkeys(scoring.scorers(), "scoring process")


def _large(work: Work) -> None:
    folder, count = (
        first_files(work.images, LARGE_PART, work.folder / f"large-{LARGE_PART}"),
        min(work.count, LARGE_PART),
    )
    most = {}
    for size in (part_size(count), count):
        with work.home("large") as home, ways.jobs(home, folder, 1, images_per_part=size) as begin:
            scoring = begin(work.output(f"large-{size}"))
            with Memory(partial(_named_scorers, scoring)) as memory:
                scoring.wait()
        halves = memory.growth().get("scoring process", {})
        most[size] = max(halves.get("first_half_most_mib", 0.0), halves.get("second_half_most_mib", 0.0))
    usual, large = most.values()
    work.rows.record(
        Row(
            "job/large",
            f"most memory of a scoring process: one part of {count:,} images, beside parts of {part_size(count):,}",
            f"{large:.0f} MiB, {usual:.0f} MiB",
            f"at most {LARGE_MORE_MIB} MiB more",
            verdict(0 < large <= usual + LARGE_MORE_MIB),
            {"most_mib": most},
        )
    )


def _two_over_one(work: Work) -> None:
    images = digits(0, 2_000)[:, None]
    others = busy_cores()
    most, alone = limit(MODEL, PROCESSES, MEMORY_S / ROUNDS, batch=BATCH, images=images)
    rates: dict[int, list[float]] = {1: [], PROCESSES: []}
    for number in range(ROUNDS):
        for workers, found in rates.items():
            with _jobs(work, work.few[0], workers) as begin:
                out = work.output(f"workers-{workers}-{number}")
                begin(out).wait()
                found.append(images_per_second(out, workers))
    ratio = statistics.median(two / one for one, two in zip(*rates.values(), strict=True))
    work.rows.facts["core_images_per_second"] = statistics.median(alone)
    work.rows.record(
        Row(
            "two",
            "a job by two workers of one thread over one worker, median of three rounds in turns",
            f"{ratio:.2f}; two plain scoring loops over one give {most:.2f} here; others took {others:.1f} cores",
            f">= {TWO_OVER_ONE}",
            verdict(ratio >= TWO_OVER_ONE, others),
            {"images_per_second": rates, "plain_loops": most, "over_plain_loops": ratio / most, "busy_cores": others},
        )
    )
