# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf score --out``: score any number of images in this process into one Parquet file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.common import INTERRUPTED, fail, print_json, read_settings, registry, stop_on_signals
from app.cli.progress import duration, images_bar

if TYPE_CHECKING:
    from models.bulk.plan import BulkPlan, OpenPlan
    from models.bulk.table import PartSummary
    from models.datasets.image_source import ImageSource
    from models.registry.version import ModelVersion
    from models.scorer import Scorer


@dataclass(frozen=True)
class ScoringRate:
    """The number of images that one run of ``snf score --out`` scored, and the seconds that it took.

    Images that an interrupted run scored before do not count.
    """

    images: int
    seconds: float

    @property
    def rate(self) -> float:
        """Number of images that were scored per second."""
        return self.images / max(self.seconds, 1e-9)


def score_to_file(paths: list[Path], out: Path, model: str, alpha: float | None, as_json: bool) -> PartSummary:
    """Score image files into a Parquet file with a row for each; return the numbers of images, anomalies and errors.

    The finished parts of an interrupted run are kept beside ``out``; the same command continues from them.
    """
    from models.bulk.part import Stopped
    from models.bulk.plan import open_plan
    from models.bulk.sources import ImageFiles
    from models.bulk.table import merge_parts

    with stop_on_signals() as stop:
        scorer, version = _load(model)
        reference = f"{version.name}:{version.version}"
        source = ImageFiles(paths, scorer.preprocessing)
        plan = _plan(scorer, version, source, alpha)
        work = open_plan(out.absolute().parent / f".{out.name}.parts", plan)
        try:
            throughput = _score_missing(scorer, source, work, stop.is_set)
        except Stopped as error:
            raise fail("interrupted; repeat the command to continue", INTERRUPTED) from error
        summary = merge_parts(work.part_paths, out, plan.metadata)
        shutil.rmtree(work.folder)
    if as_json:
        counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
        seconds, rate = round(throughput.seconds, 3), round(throughput.rate, 1)
        print_json({"model": reference, "out": str(out), **counts, "seconds": seconds, "images_per_second": rate})
    else:
        _table(reference, out, summary, throughput)
    return summary


def _load(model: str) -> tuple[Scorer, ModelVersion]:
    from models.scorer import Scorer
    from models.threads import one_blas_thread

    one_blas_thread()
    settings = read_settings()
    version = registry().resolve(model)
    return Scorer.load(version.path, version.calibration_path, settings.engine_options), version


def _plan(scorer: Scorer, version: ModelVersion, source: ImageSource, alpha: float | None) -> BulkPlan:
    from models.bulk.plan import BulkPlan
    from models.errors import AlphaUnattainable

    if alpha is not None and alpha < scorer.smallest_p:
        raise AlphaUnattainable(alpha, scorer.smallest_p)
    return BulkPlan(
        model=f"{version.name}:{version.version}",
        weights_sha256=scorer.log_det_digest,
        kind=scorer.density.kind,
        calibration=version.calibration,
        dataset="files",
        source_digest=source.digest,
        alpha=scorer.default_alpha if alpha is None else alpha,
        count=source.count,
    )


def _score_missing(scorer: Scorer, source: ImageSource, work: OpenPlan, should_stop: Callable[[], bool]) -> ScoringRate:
    from models.bulk.part import score_part

    ranges, missing = work.plan.ranges, work.missing()
    images = sum(ranges[index][1] - ranges[index][0] for index in missing)
    started = time.monotonic()
    with images_bar("scoring", source.count, done=source.count - images) as advance:
        for index in missing:
            score_part(
                scorer,
                source,
                *ranges[index],
                work.part_path(index),
                alpha=work.plan.alpha,
                should_stop=should_stop,
                progress=advance,
            )
    return ScoringRate(images, time.monotonic() - started)


def _table(reference: str, out: Path, summary: PartSummary, throughput: ScoringRate) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{reference} -> {escape(str(out))}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("images", str(summary.images))
    table.add_row("anomalies", str(summary.anomalies))
    table.add_row("not judged", str(summary.errors))
    table.add_row("time", duration(throughput.seconds))
    table.add_row("images/s", f"{throughput.rate:.1f}")
    Console().print(table)
