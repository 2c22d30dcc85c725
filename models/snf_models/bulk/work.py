"""Picklable description of a bulk scoring for its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from snf_models.bulk.engine_choice import require_engine
from snf_models.bulk.output import Output
from snf_models.bulk.part import score_range
from snf_models.datasets.image_source import ImageSource
from snf_models.loading.model_files import ModelFiles
from snf_runtime.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from snf_models.bulk.part_tables import PartSummary


class Images(Protocol):
    def open(self, preprocessing: Preprocessing) -> ImageSource: ...


@dataclass(frozen=True)
class BulkWork:
    output: Output
    model: ModelFiles
    images: Images

    def open(self, threads: int | None = None) -> OpenWork:
        """Load model and images; raise ``PlanDiffers`` or ``EngineUnavailable`` if they are not the plan's."""
        return OpenWork(self, threads)


class OpenWork:
    """Loaded model and opened images of a bulk scoring."""

    def __init__(self, work: BulkWork, threads: int | None) -> None:
        from snf_models.scorer import load_files  # noqa: PLC0415  # OpenVINO takes time to import
        from snf_models.threads import one_blas_thread  # noqa: PLC0415  # as above

        one_blas_thread()
        self._output = work.output
        self.scorer = load_files(work.model.with_threads(threads))
        self.source = work.images.open(self.scorer.preprocessing)
        work.output.plan.require_same(self.scorer.log_det_digest, self.source.digest)
        require_engine(work.output.plan, self.scorer)

    def score(
        self, index: int, should_stop: Callable[[], bool], progress: Callable[[int], None] = lambda _images: None
    ) -> PartSummary:
        """Score and write a part. ``should_stop`` is called before every batch; if true, ``Stopped`` is raised."""
        plan = self._output.plan
        table = score_range(
            self.scorer,
            self.source,
            *plan.range(index),
            alpha=plan.alpha,
            should_stop=should_stop,
            progress=progress,
        )
        return self._output.write(index, table)
