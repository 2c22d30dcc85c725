"""Picklable description of a bulk scoring for its worker processes: model, images and output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from models.bulk.engine_choice import require_engine
from models.bulk.output import Output
from models.bulk.part import score_range
from models.datasets.image_source import ImageSource
from models.loading.model_files import ModelFiles
from snf_runtime.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from models.bulk.part_tables import PartSummary


class Images(Protocol):
    """Protocol of a picklable handle with which the processes of a bulk scoring open the images."""

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        """Open the images as an ``ImageSource`` for a model with the given preprocessing.

        They are converted to the model's input when they are read.
        """
        ...


@dataclass(frozen=True)
class BulkWork:
    """Model, images and output folder of a bulk scoring job, in a form that can be sent to a process.

    Attributes:
        output: The parts, and the plan.
        model: The model.
        images: The images.
    """

    output: Output
    model: ModelFiles
    images: Images

    def open(self, threads: int | None = None) -> OpenWork:
        """Load the model and open the images of the bulk scoring in this process.

        Raises ``PlanDiffers`` if they are not those of the plan, and ``EngineUnavailable`` if the model uses another
        engine than the plan.

        Args:
            threads: Threads on the CPU; None for those of the model's options.
        """
        return OpenWork(self, threads)


class OpenWork:
    """State of a bulk scoring job in one process: the loaded model and the opened images, ready to score parts.

    Attributes:
        scorer: The model.
        source: The images.
    """

    def __init__(self, work: BulkWork, threads: int | None) -> None:
        from models.scorer import load_files  # noqa: PLC0415  # OpenVINO takes time to import
        from models.threads import one_blas_thread  # noqa: PLC0415  # as above

        one_blas_thread()
        self._output = work.output
        self.scorer = load_files(work.model.with_threads(threads))
        self.source = work.images.open(self.scorer.preprocessing)
        work.output.plan.require_same(self.scorer.log_det_digest, self.source.digest)
        require_engine(work.output.plan, self.scorer)

    def score(
        self, index: int, should_stop: Callable[[], bool], progress: Callable[[int], None] = lambda _images: None
    ) -> PartSummary:
        """Score the images of part ``index`` and write the scores to the output folder of the bulk scoring.

        Returns the counts of images, errors and anomalies.

        Args:
            index: The part.
            should_stop: Called before every batch of 64 images; scoring stops where it returns true.
            progress: Called with the number of images of every batch.

        Raises:
            Stopped: ``should_stop`` returned true.
        """
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
