"""Plans of bulk scoring jobs, which divide the images into parts and are stored for later runs.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.artifacts.manifest import Precision
from models.atomic_files import make_folder, remove_leftovers, sync_folder, write_atomically
from models.bulk.completion import DamagedPart, PartsDamaged
from models.errors import PlanDiffers
from snf_runtime.kinds import DensityKind

if TYPE_CHECKING:
    import pyarrow as pa

    from models.bulk.part_tables import PartSummary

FILE = "plan.json"
IMAGES_PER_PART = 2000
MAX_PARTS = 10_000
"""Most parts of a bulk scoring, each of which is a file."""
LARGEST_GROUP = 20_000
"""Most images of a row group that parts are aligned with: larger parts would keep few processes busy."""
LEFTOVER_SECONDS = 3600
"""Age from which a temporary file belongs to a killed process; others may be writing parts now."""


NEWER = ("model_sha256", "engine", "precision")
"""Members of a plan that plans of earlier versions lack."""


class BulkPlan(BaseModel):
    """Inputs and settings of a bulk scoring job, which computes anomaly scores of many images part by part.

    They include the model, the images, the false-alarm rate and the number of images in each output file.

    Equal plans give equal rows of scores. A part is a range of images with an output file of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Name and version.")
    weights_sha256: str
    kind: DensityKind = Field("density", description="What the log-likelihoods are a density of.")
    calibration: int = Field(0, ge=0, description="Number of the calibration that gives the p-values.")
    dataset: str = Field(description="Name of the images, as a label.")
    source_digest: str
    alpha: float = Field(gt=0, le=1)
    count: int = Field(ge=0)
    images_per_part: int = Field(IMAGES_PER_PART, ge=1)
    model_sha256: str | None = Field(None, description="Digest of manifest and calibration; null in earlier versions.")
    engine: str | None = Field(None, description="Library that computes; null in earlier versions.")
    precision: Precision | None = Field(None, description="Its arithmetic; null in earlier versions.")

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The list of image index ranges ``(start, stop)``, one for each part of the bulk scoring job.

        ``stop`` is not included. Each part has one output file.

        One of them is :meth:`range`.
        """
        return [self.range(index) for index in range(self.parts)]

    @property
    def parts(self) -> int:
        """Number of parts that the images of the bulk scoring job are divided into, one output file each."""
        return -(-self.count // self.images_per_part)

    def range(self, index: int) -> tuple[int, int]:
        """Return ``(start, stop)`` for part ``index``: the index of its first image, and one after its last.

        >>> plan = BulkPlan(
        ...     model="m:1", weights_sha256="", dataset="d", source_digest="", alpha=0.01, count=4500
        ... )
        >>> plan.parts, plan.range(2)
        (3, (4000, 4500))
        """
        start = index * self.images_per_part
        return start, min(start + self.images_per_part, self.count)

    def images_in(self, parts: Iterable[int]) -> int:
        """Return how many images the parts with the given indices contain in total."""
        return sum(stop - start for start, stop in map(self.range, parts))

    @property
    def digest(self) -> str:
        """SHA-256 hash of all inputs of the bulk scoring job, in hexadecimal digits.

        An ``Output`` stores it in the Parquet file of each part, to recognise the files of another job.
        """
        return sha256(self.model_dump_json().encode()).hexdigest()

    def with_engine_of(self, stored: BulkPlan | None) -> BulkPlan:
        """Return ``stored`` if it equals this plan in all but the compute engine, else this plan.

        A resumed job thus keeps the engine that it was started with.
        """
        if stored is not None and stored == self.model_copy(update={"engine": stored.engine}):
            return stored
        return self

    def continues(self, stored: BulkPlan | None) -> bool:
        """Return whether a job with this plan can resume the bulk scoring of another plan.

        ``stored`` is that other plan; None for no plan.

        What one of them does not say is not compared: plans of earlier versions and of a service name no engine.
        """
        if stored is None:
            return False
        unknown = {name: None for name in NEWER if None in (getattr(self, name), getattr(stored, name))}
        return self.model_copy(update=unknown) == stored.model_copy(update=unknown)

    def require_same(self, weights_sha256: str, source_digest: str) -> None:
        """Check that the hashes of the model and images in this process equal those of the plan.

        Raises ``PlanDiffers`` otherwise.
        """
        if (weights_sha256, source_digest) != (self.weights_sha256, self.source_digest):
            raise PlanDiffers("the model or the images of this process are not those of the job")

    @property
    def metadata(self) -> dict[str, str]:
        """Dictionary of string metadata that describes the job, for the Parquet files of its scores.

        It names the model, the kind of density, the calibration, the dataset and the false-alarm rate.
        """
        return {
            "snf.model": self.model,
            "snf.weights_sha256": self.weights_sha256,
            "snf.kind": self.kind,
            "snf.calibration": str(self.calibration),
            "snf.dataset": self.dataset,
            "snf.dataset_digest": self.source_digest,
            "snf.alpha": repr(self.alpha),
            "snf.count": str(self.count),
        }


def part_size(count: int, group: int = 1) -> int:
    """Return the number of images per part (result file) of a bulk scoring; the last may have fewer.

    The number is at least 2,000, and large enough for at most 10,000 parts. It is rounded up to a multiple of the row
    groups of Parquet files.

    Args:
        count: The number of all images.
        group: The number of images of a row group of Parquet files, which is read from its beginning: a part that
            starts within one reads images of the part before. Of larger groups than 20,000 images a part has 20,000.

    >>> part_size(600), part_size(10**6), part_size(10**9), part_size(10**6, group=1500)
    (2000, 2000, 100000, 3000)
    """
    least = max(IMAGES_PER_PART, -(-count // MAX_PARTS))
    group = min(max(group, 1), LARGEST_GROUP)
    return -(-least // group) * group


class Parts(Protocol):
    """Protocol of a store for the result files of a bulk scoring, one for each part (image range).

    It finds missing parts, writes a part, and checks all of them.
    """

    @property
    def plan(self) -> BulkPlan:
        """The inputs of the bulk scoring, such as its model, images and false-alarm rate."""
        ...

    def has(self, index: int) -> bool:
        """Return whether the result file of part ``index`` of the bulk scoring has been written."""
        ...

    def missing(self) -> list[int]:
        """Return the indices of the parts of the bulk scoring that have no result file yet.

        This looks at all parts.
        """
        ...

    def write(self, index: int, table: pa.Table) -> PartSummary:
        """Write the score table of part ``index`` atomically; return counts of images, errors and anomalies."""
        ...

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check the result files of all parts; return the total counts of images, errors and anomalies.

        Args:
            should_stop: Called between two parts; where it returns true, the check stops.
            progress: Called with the number of parts that are checked, and of all.

        Raises:
            PartsDamaged: Parts are damaged, missing or of other scores. They are deleted.
            Stopped: ``should_stop`` returned true.
        """
        ...


@dataclass(frozen=True)
class OpenPlan:
    """Bulk scoring job opened in a folder on disk, to read or write its files of scores.

    The folder has the inputs of the job and one Parquet file of scores for each range of images.
    """

    folder: Path
    plan: BulkPlan

    def part_path(self, index: int) -> Path:
        """Return the path of the Parquet file for the scores of part ``index``, which is a range of images.

        The file may not exist yet.
        """
        return self.folder / f"part-{index:06d}.parquet"

    @property
    def part_paths(self) -> list[Path]:
        """Paths of the Parquet files for the scores of all parts of the images, in order.

        The files may not exist yet.
        """
        return [self.part_path(index) for index in range(self.plan.parts)]

    def has(self, index: int) -> bool:
        """Return whether the Parquet file with the scores of part ``index`` of the images exists."""
        return self.part_path(index).exists()

    def write(self, index: int, table: pa.Table) -> PartSummary:
        """Write the scores of part ``index``, a range of images, to its Parquet file, and return the part's counts.

        The counts are those of images, errors and anomalies.
        """
        from models.bulk.part_tables import write_table  # noqa: PLC0415  # a service plans jobs without pyarrow

        return write_table(table, self.part_path(index))

    def missing(self) -> list[int]:
        """Return the indices of the parts (image ranges) whose scores have not been written yet."""
        return [index for index, path in enumerate(self.part_paths) if not path.exists()]

    def merge(self, table: Path) -> PartSummary:
        """Check the Parquet files with the scores of the job's parts, and merge them into one file.

        Returns the counts of images, errors and anomalies.

        Args:
            table: The file, in the format of its ending; see :func:`models.bulk.merge_parts.merge_parts`.

        Raises:
            PartsDamaged: Parts are damaged or missing. They are deleted.
        """
        from models.bulk.merge_parts import merge_parts  # noqa: PLC0415  # a service plans jobs without pyarrow
        from models.bulk.part_tables import read_footer  # noqa: PLC0415

        problems = {}
        for index, path in enumerate(self.part_paths):
            try:
                read_footer(path, path.name, self.plan.images_in([index]))
            except DamagedPart as problem:
                problems[index] = str(problem)
        try:
            if problems:
                raise PartsDamaged(problems)
            return merge_parts(self.part_paths, table, self.plan.metadata)
        except PartsDamaged as damaged:
            for index in damaged.problems:
                self.part_path(index).unlink(missing_ok=True)
            raise


def open_plan(folder: Path, plan: BulkPlan) -> OpenPlan:
    """Create a bulk scoring job in a folder, or resume one there that has the same inputs.

    The inputs are stored there. Scores in the folder that belong to other inputs are deleted.
    """
    make_folder(folder)
    remove_leftovers(folder, LEFTOVER_SECONDS)
    stored = stored_plan(folder)
    if not plan.continues(stored):
        # The old plan is replaced last, so that parts always belong to the stored plan.
        for part in folder.glob("part-*.parquet"):
            part.unlink(missing_ok=True)
        sync_folder(folder)
        stored = None
    if stored is not None:
        known = {name: getattr(stored, name) for name in NEWER if getattr(plan, name) is None}
        plan = plan.model_copy(update=known)
    if stored != plan:
        write_atomically(folder / FILE, plan.model_dump_json(indent=1).encode())
    return OpenPlan(folder, plan)


def join_plan(folder: Path, plan: BulkPlan) -> OpenPlan:
    """Open a bulk scoring job that another process stored in ``folder``.

    Raises ``PlanDiffers`` if the stored plan is not ``plan``.

    This process can then help to score it. The plans differ where the model or the images of this machine are not those
    of the job.
    """
    if stored_plan(folder) != plan:
        raise PlanDiffers("the model or the images of this machine are not those of the job")
    return OpenPlan(folder, plan)


def stored_plan(folder: Path) -> BulkPlan | None:
    """Return the ``BulkPlan`` (job inputs) stored in a folder, or None if its file is missing or damaged."""
    try:
        return BulkPlan.model_validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
