# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf score --out`: any number of images scored in this process into one Parquet file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.common import USAGE, fail, print_json, settings
from app.cli.progress import duration, images_bar
from app.cli.train import INTERRUPTED, stop_on_signals

if TYPE_CHECKING:
    from models.bulk.plan import BulkPlan, OpenPlan
    from models.bulk.table import PartSummary
    from models.datasets.image_source import ImageSource
    from models.registry.version import ModelVersion
    from models.scorer import Scorer


@dataclass(frozen=True)
class Pace:
    """What this run scored itself, without the parts of one before it, and in what time."""

    images: int
    seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / max(self.seconds, 1e-9)


def score_to_file(paths: list[Path], out: Path, model: str, alpha: float | None, as_json: bool) -> PartSummary:
    """Scores files into `out`; what an interrupted run has done lies beside it, and the same command goes on."""
    from models.bulk.part import Stopped
    from models.bulk.plan import open_plan
    from models.bulk.sources import ImageFiles
    from models.bulk.table import merge_parts

    if out.is_dir():
        raise fail(f"{out} is a folder, --out wants a file", USAGE)
    with stop_on_signals() as stop:
        scorer, version = _load(model)
        reference = f"{version.name}:{version.version}"
        source = ImageFiles(paths, scorer.preprocessing)
        plan = _plan(scorer, version, source, alpha)
        work = open_plan(out.absolute().parent / f".{out.name}.parts", plan)
        try:
            pace = _score_missing(scorer, source, work, stop.is_set)
        except Stopped as error:
            raise fail("interrupted; the same command goes on from here", INTERRUPTED) from error
        found = merge_parts(work.part_paths, out, plan.metadata)
        shutil.rmtree(work.folder)
    if as_json:
        counts = {"images": found.images, "anomalies": found.anomalies, "errors": found.errors}
        seconds, rate = round(pace.seconds, 3), round(pace.rate, 1)
        print_json({"model": reference, "out": str(out), **counts, "seconds": seconds, "images_per_second": rate})
    else:
        _table(reference, out, found, pace)
    return found


def _load(model: str) -> tuple[Scorer, ModelVersion]:
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.scoring.threads import one_blas_thread

    one_blas_thread()
    found = settings()
    version = Registry(found.registry_dir).resolve(model)
    return Scorer.load(version.path, version.calibration_path, found.engine_options), version


def _plan(scorer: Scorer, version: ModelVersion, source: ImageSource, alpha: float | None) -> BulkPlan:
    from models.bulk.plan import BulkPlan
    from models.errors import AlphaUnattainable

    if alpha is not None and alpha < scorer.smallest_p:
        raise AlphaUnattainable(alpha, scorer.smallest_p)
    return BulkPlan(
        model=f"{version.name}:{version.version}",
        weights_sha256=scorer.log_det_digest,
        calibration=version.calibration,
        dataset="files",
        source_digest=source.digest,
        alpha=scorer.default_alpha if alpha is None else alpha,
        count=source.count,
    )


def _score_missing(scorer: Scorer, source: ImageSource, work: OpenPlan, should_stop: Callable[[], bool]) -> Pace:
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
    return Pace(images, time.monotonic() - started)


def _table(reference: str, out: Path, found: PartSummary, pace: Pace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{reference} -> {escape(str(out))}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("images", str(found.images))
    table.add_row("anomalies", str(found.anomalies))
    table.add_row("errors", str(found.errors))
    table.add_row("time", duration(pace.seconds))
    table.add_row("images/s", f"{pace.rate:.1f}")
    Console().print(table)
