"""Work of a bulk scoring: the calibrated model, its plan and engine, and the scoring of one part after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast

import pyarrow as pa

from snf_models.artifacts.manifest import CalibrationSummary, Manifest
from snf_models.bulk.output import Output
from snf_models.bulk.plan import BulkPlan, part_size
from snf_models.bulk.tables import PartSummary, table_of
from snf_models.datasets.image_source import ImageSource, ReferencedImages
from snf_models.errors import EngineUnavailable, Interrupted, PartFailed, PlanDiffers
from snf_models.loading.verification import ModelFiles, content_digest
from snf_models.score_rows import SCHEMA, judged_rows
from snf_models.scoring import EngineName, EngineOptions
from snf_models.threads import one_blas_thread, prefetch
from snf_runtime.anomaly.calibration import attainable_alpha
from snf_runtime.images.batch import batches_of
from snf_runtime.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from snf_models.registry.registry import ModelVersion
    from snf_models.scorer import Scorer

AHEAD = 2
"""Batches that are decoded ahead."""


class Images(Protocol):
    """Picklable handle of images."""

    def open(self, preprocessing: Preprocessing) -> ImageSource: ...


@dataclass(frozen=True)
class BulkModel:
    """A calibrated model: its reference, files and descriptions."""

    ref: str  # ``name:version``, or the URL of a folder
    calibration: int
    files: ModelFiles
    manifest: Manifest
    summary: CalibrationSummary

    @classmethod
    def of_version(cls, version: ModelVersion, options: EngineOptions) -> BulkModel:
        files = ModelFiles(version.path, version.calibration_path, options)
        ref = f"{version.name}:{version.version}"
        return cls(ref, version.calibration, files, version.manifest, version.calibration_summary)

    def plan(
        self, dataset: str, source: ImageSource, alpha: float | None, images_per_part: int | None = None
    ) -> BulkPlan:
        """Return the plan without its engine; raise ``AlphaUnattainable``, or ``ArtifactError``."""
        group = source.largest_group if isinstance(source, ReferencedImages) else 1
        return BulkPlan(
            model=self.ref,
            weights_sha256=self.manifest.log_dets.weights_sha256,
            kind=self.manifest.architecture.kind,
            calibration=self.calibration,
            dataset=dataset,
            source_digest=source.digest,
            alpha=attainable_alpha(alpha, self.summary.smallest_p),
            count=source.count,
            images_per_part=images_per_part or part_size(source.count, group),
            model_sha256=content_digest(self.files.path, self.files.calibration),
            precision=self.files.options.precision or self.summary.precision,
        )


def choose_engine(
    plan: BulkPlan, model: ModelFiles, stored: BulkPlan | None
) -> tuple[BulkPlan, ModelFiles, Scorer | None]:
    """Return the stored plan of the same inputs, or the plan with its engine: that of the options, or the best here.

    Also return the model with this engine, and the scorer where it was loaded to learn its engine.
    """
    resumed, scorer, options = plan.resumed(stored), None, model.options
    if resumed is not stored:
        engine: str = "torch" if options.device != "cpu" else options.name
        if engine == "auto":
            scorer = load_scorer(model)
            engine = engine_of(scorer)
        resumed = plan.model_copy(update={"engine": engine})
    # Of a hybrid model each part may have its engine, which no option names: the choice is compared after loading.
    name = cast(EngineName, resumed.engine) if resumed.engine in ("torch", "openvino") else options.name
    precision = resumed.precision or options.precision
    options = replace(options, name=name, precision=precision)
    return resumed, replace(model, options=options, digest=resumed.model_sha256), scorer


def load_scorer(model: ModelFiles) -> Scorer:
    from snf_models.scorer import load_files  # noqa: PLC0415  # OpenVINO takes time to import

    one_blas_thread()
    return load_files(model)


def engine_of(scorer: Scorer) -> str:
    """Return a name such as ``torch``, of a hybrid model with two engines both, such as ``openvino+torch``."""
    features = getattr(scorer.density, "features", None)
    names = [scorer.density.engine_name] if features is None else [scorer.density.engine_name, features.engine_name]
    return "+".join(dict.fromkeys(names))


@dataclass(frozen=True)
class BulkWork:
    """Picklable description of a bulk scoring for its processes."""

    output: Output
    model: ModelFiles
    images: Images

    def open(self, threads: int | None = None, scorer: Scorer | None = None) -> OpenWork:
        """Load model and images; raise ``PlanDiffers`` or ``EngineUnavailable`` if they are not the plan's."""
        return OpenWork(self, scorer or load_scorer(self.model.with_threads(threads)))


class OpenWork:
    """ServedModel model and opened images of a bulk scoring."""

    def __init__(self, work: BulkWork, scorer: Scorer) -> None:
        self._output, plan = work.output, work.output.plan
        self.scorer = scorer
        self.source = work.images.open(scorer.preprocessing)
        if (scorer.log_det_digest, self.source.digest) != (plan.weights_sha256, plan.source_digest):
            raise PlanDiffers("the model or the images of this process are not those of the job")
        if plan.engine not in (None, engine_of(scorer)):
            raise EngineUnavailable(
                f"these scores are computed by {plan.engine}, which this machine cannot: it computes by "
                f"{engine_of(scorer)}. Install the same packages everywhere, or set SNF_ENGINE=torch everywhere and "
                "begin anew"
            )

    def score(
        self, index: int, should_stop: Callable[[], bool], progress: Callable[[int], None] = lambda _images: None
    ) -> PartSummary:
        """Score and write a part; raise as :func:`score_range`."""
        plan = self._output.plan
        table = score_range(self.scorer, self.source, *plan.range(index), plan.alpha, should_stop, progress)
        return self._output.write(index, table)


def score_range(
    scorer: Scorer,
    source: ImageSource,
    start: int,
    stop: int,
    alpha: float | None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _images: None,
) -> pa.Table:
    """Score the images ``start`` to ``stop - 1``, decoded ahead in a thread; ``should_stop`` is called before a batch.

    Raises ``Interrupted``, ``AlphaUnattainable``, or ``PartFailed`` for another number of images.
    """
    tables = [SCHEMA.empty_table()]
    images = batches_of(source.read(start, stop))
    # Large images are not decoded ahead: the memory is that of one batch.
    with closing(images if scorer.preprocessing.tiled else prefetch(images, AHEAD)) as batches:
        while True:
            if should_stop():
                raise Interrupted("scoring was stopped")
            batch = next(batches, None)
            if batch is None:
                break
            # As a table at once: the rows of a large part would take ten times its memory.
            tables.append(table_of(judged_rows(scorer, batch, alpha)))
            progress(len(batch))
    table = pa.concat_tables(tables).combine_chunks()
    if table.num_rows != stop - start:
        raise PartFailed(f"expected images {start} to {stop - 1}, got {table.num_rows} images")
    return table
