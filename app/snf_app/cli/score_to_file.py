# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf score --out``: score image files into one table, in this process or by a service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from snf_app.cli.common import INTERRUPTED, fail, print_json, read_settings, registry, stop_on_signals
from snf_app.cli.existing_output import check_held, check_unfinished
from snf_app.cli.judging_model import JudgingModel
from snf_app.cli.progress import duration, images_bar
from snf_app.cli.remarks import Remarks, print_notes
from snf_app.cli.score_tables import preprocessing_note
from snf_app.cli.tables import print_facts
from snf_runtime.judged_counts import USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_client import Client
    from snf_client.resources.scores import ImageResult
    from snf_client.schemas.models import ModelDetail
    from snf_models.bulk.part_tables import PartSummary
    from snf_models.bulk.plan import BulkPlan, OpenPlan
    from snf_models.registry.registry import ModelVersion
    from snf_models.score_rows.row import Row
    from snf_models.scorer import Scorer


@dataclass(frozen=True)
class TableRequest:
    """Options of a run of ``snf score --out``."""

    files: list[Path]
    out: Path
    model: str
    alpha: float | None  # false-alarm rate; None for that of the model
    source: str | None  # source of the images, for a service
    force: bool  # whether a file with other content is written over
    as_json: bool  # whether the counts are printed as JSON


@dataclass(frozen=True)
class GivenFiles:
    """Image files that ``snf score --out`` is to score, in the given order."""

    paths: list[Path]

    @cached_property
    def names(self) -> list[str]:
        from snf_runtime.images.policy import path_text

        return [path_text(path) for path in self.paths]

    @cached_property
    def digest(self) -> str:
        """Hash of the paths, sizes and modification times of the image files, to notice changes."""
        from snf_models.bulk.sources import files_digest

        return files_digest(self.paths)


@dataclass(frozen=True)
class ScoringRate:
    """Number and seconds of images that a run scored, without those of an interrupted run before."""

    images: int
    seconds: float

    @property
    def rate(self) -> float:
        """Number of images that were scored per second."""
        return self.images / max(self.seconds, 1e-9)


class PartScorer(Protocol):
    """Interface for scoring a list of image files in consecutive ranges, in this process or by a service."""

    model: JudgingModel

    def plan(self, files: GivenFiles, alpha: float | None) -> BulkPlan:
        """Return the plan by which a run is recognised; equal plans give equal tables, wherever they run."""
        ...

    def score(
        self, plan: BulkPlan, files: GivenFiles, part: tuple[int, int], path: Path, advance: Callable[[int], None]
    ) -> None:
        """Write the scores of files ``part[0]`` to ``part[1] - 1`` to a Parquet file."""
        ...


def score_to_file(request: TableRequest, client: Client | None) -> PartSummary:
    """Write a table of scores, and return the counts; the same command continues an interrupted run."""
    from snf_models.bulk.part import Stopped
    from snf_models.bulk.plan import open_plan

    out = request.out
    files = GivenFiles(request.files)
    with stop_on_signals() as stop:
        scorer: PartScorer = (
            LocalPartScorer(request.model, stop.is_set)
            if client is None
            else RemotePartScorer(client, request.model, request.source, stop.is_set)
        )
        check_held(out, scorer.model, files.names, force=request.force)
        plan = scorer.plan(files, request.alpha)
        folder = out.absolute().parent / f".{out.name}.parts"
        check_unfinished(out, folder, plan, force=request.force)
        work = open_plan(folder, plan)
        try:
            summary, throughput = _score(scorer, files, work, out)
        except Stopped as error:
            raise fail("interrupted; repeat the command to continue", INTERRUPTED) from error
        notes = [*scorer.model.warnings, *_remarks(work.part_paths)]
        shutil.rmtree(work.folder)
    print_summary(summary, throughput, plan.model, str(out), as_json=request.as_json)
    print_notes(notes, to_stderr=True)
    return summary


def print_summary(summary: PartSummary, throughput: ScoringRate, model: str, out: str, *, as_json: bool) -> None:
    if as_json:
        counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
        seconds, rate = round(throughput.seconds, 3), round(throughput.rate, 1)
        print_json({"model": model, "out": out, **counts, "seconds": seconds, "images_per_second": rate})
    else:
        facts = {
            "images": str(summary.images),
            "anomalies": str(summary.anomalies),
            "not judged": str(summary.errors),
            "time": duration(throughput.seconds),
            "images/s": f"{throughput.rate:.1f}" if throughput.images else "all were scored before",
        }
        print_facts(facts, f"{model} -> {out}")


class LocalPartScorer:
    def __init__(self, model: str, should_stop: Callable[[], bool]) -> None:
        self._version: ModelVersion = registry().resolve(model)
        self._should_stop = should_stop
        self._scorer: Scorer | None = None
        self.model = JudgingModel.of_version(self._version)

    def plan(self, files: GivenFiles, alpha: float | None) -> BulkPlan:
        """Load the model, and return a ``BulkPlan`` that records every input on which the scores depend."""
        from snf_models.bulk.engine_choice import engine_of
        from snf_models.loading.model_files import content_digest
        from snf_models.scorer import Scorer
        from snf_models.threads import one_blas_thread

        one_blas_thread()
        version = self._version
        scorer = Scorer.load(version.path, version.calibration_path, read_settings().engine_options)
        self._scorer = scorer
        plan = _plan(self.model, files, scorer.log_det_digest, scorer.density.kind, scorer.smallest_p, alpha)
        computed = {
            "model_sha256": content_digest(version.path, version.calibration_path),
            "engine": engine_of(scorer),
            "precision": scorer.precision,
        }
        return plan.model_copy(update=computed)

    def score(
        self, plan: BulkPlan, files: GivenFiles, part: tuple[int, int], path: Path, advance: Callable[[int], None]
    ) -> None:
        """Write the scores of a range of files; raise ``Stopped`` if the user has asked to stop."""
        from snf_models.bulk.part import score_part
        from snf_models.bulk.sources import ImageFiles

        assert self._scorer is not None
        source = ImageFiles(files.paths, self._scorer.preprocessing)
        score_part(self._scorer, source, *part, path, alpha=plan.alpha, should_stop=self._should_stop, progress=advance)


class RemotePartScorer:
    """Scorer by a service, several requests at a time; ``source`` is for its drift tests."""

    def __init__(self, client: Client, model: str, source: str | None, should_stop: Callable[[], bool]) -> None:
        self._client = client
        self._source = source
        self._should_stop = should_stop
        self._alpha: float | None = None
        self._detail: ModelDetail = client.models.get(model)
        self.model = JudgingModel.of_detail(self._detail)

    def plan(self, files: GivenFiles, alpha: float | None) -> BulkPlan:
        """Return the plan; exit with code 2 if the model's calibration cannot judge images."""
        smallest = self._detail.calibration.smallest_p
        if smallest is None:
            raise fail(f"{self.model.label} cannot judge: {self._detail.calibration.problem}", USAGE)
        # Sent as it was asked for: the default stays the default where the service compares calibrations.
        self._alpha = alpha
        weights = str(self._detail.manifest["log_dets"]["weights_sha256"])
        plan = _plan(self.model, files, weights, self._detail.kind, smallest, alpha)
        serving = self._detail.serving
        if serving is None:
            return plan
        return plan.model_copy(update={"engine": serving.engine, "precision": serving.precision})

    def score(
        self, plan: BulkPlan, files: GivenFiles, part: tuple[int, int], path: Path, advance: Callable[[int], None]
    ) -> None:
        """Write the scores of a range; raise ``Stopped``; exit with code 3 if the calibration has changed."""
        from snf_models.bulk.part import Stopped
        from snf_models.bulk.part_tables import write_part

        paths, names = files.paths[slice(*part)], files.names[slice(*part)]
        rows: list[Row] = []
        scores = self._client.score_parts(plan.model, paths, alpha=self._alpha, source=self._source)
        with closing(scores) as answers:
            for answer in answers:
                self.model.check_scores(answer)
                rows += map(_row, names[len(rows) :], answer.results)
                advance(len(answer.results))
                if self._should_stop():
                    raise Stopped("asked to stop")
        write_part(rows, path)


def _plan(
    model: JudgingModel, files: GivenFiles, weights: str, kind: str, smallest: float, alpha: float | None
) -> BulkPlan:
    from snf_models.bulk.part_tables import FILES
    from snf_models.bulk.plan import BulkPlan
    from snf_runtime.anomaly.conformal import attainable_alpha

    return BulkPlan.model_validate(
        {
            "model": model.ref,
            "weights_sha256": weights,
            "kind": kind,
            "calibration": model.calibration,
            "dataset": FILES,
            "source_digest": files.digest,
            "alpha": attainable_alpha(alpha, smallest),
            "count": len(files.paths),
        }
    )


def _row(name: str, result: ImageResult) -> Row:
    from snf_models.score_rows.row import failed_row, row_of

    if result.status != "ok":
        return failed_row(name, result.error.type, result.error.detail)
    note = preprocessing_note(result) or None
    return row_of(name, result.log_likelihood, result.bits_per_dim, result.anomaly, note)


def _score(scorer: PartScorer, files: GivenFiles, work: OpenPlan, out: Path) -> tuple[PartSummary, ScoringRate]:
    from snf_models.bulk.completion import complete

    plan, began = work.plan, time.monotonic()
    scored = 0

    def score(missing: list[int]) -> None:
        nonlocal scored
        images = plan.images_in(missing)
        with images_bar("scoring", plan.count, done=plan.count - images) as advance:
            for index in missing:
                scorer.score(plan, files, plan.range(index), work.part_path(index), advance)
        scored += images

    def finish() -> PartSummary:
        with user_umask():
            return work.merge(out)

    summary = complete(work.missing, score, finish, partial(typer.echo, err=True))
    return summary, ScoringRate(scored, time.monotonic() - began)


def _remarks(parts: Sequence[Path]) -> list[str]:
    from snf_models.bulk.part_tables import read_warnings

    remarks = Remarks()
    for part in parts:
        for name, text in read_warnings(part):
            remarks.add(text, name)
    return remarks.lines
