"""Plans of bulk scoring, which divide images into parts. The module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from snf_models.artifacts.manifest import Precision
from snf_models.bulk.completion import DamagedPart, PartsDamaged
from snf_models.disk import make_folder, remove_leftovers, sync_folder, write_atomically
from snf_models.errors import PlanDiffers
from snf_runtime.kinds import DensityKind

if TYPE_CHECKING:
    import pyarrow as pa

    from snf_models.bulk.part_tables import PartSummary

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
    """Inputs of a bulk scoring: equal plans give equal rows. A part is a range of images with its own output file."""

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
        """The ranges ``(start, stop)`` of all parts."""
        return [self.range(index) for index in range(self.parts)]

    @property
    def parts(self) -> int:
        return -(-self.count // self.images_per_part)

    def range(self, index: int) -> tuple[int, int]:
        """Return ``(start, stop)`` of a part.

        >>> plan = BulkPlan(
        ...     model="m:1", weights_sha256="", dataset="d", source_digest="", alpha=0.01, count=4500
        ... )
        >>> plan.parts, plan.range(2)
        (3, (4000, 4500))
        """
        start = index * self.images_per_part
        return start, min(start + self.images_per_part, self.count)

    def images_in(self, parts: Iterable[int]) -> int:
        return sum(stop - start for start, stop in map(self.range, parts))

    @property
    def digest(self) -> str:
        """The digest by which the files of other plans are recognised."""
        return sha256(self.model_dump_json().encode()).hexdigest()

    def with_engine_of(self, stored: BulkPlan | None) -> BulkPlan:
        """Return ``stored`` if it equals this plan in all but the engine, which a resumed scoring keeps."""
        if stored is not None and stored == self.model_copy(update={"engine": stored.engine}):
            return stored
        return self

    def continues(self, stored: BulkPlan | None) -> bool:
        """Return whether this plan can resume a stored one; what one of them lacks is not compared."""
        if stored is None:
            return False
        unknown = {name: None for name in NEWER if None in (getattr(self, name), getattr(stored, name))}
        return self.model_copy(update=unknown) == stored.model_copy(update=unknown)

    def require_same(self, weights_sha256: str, source_digest: str) -> None:
        """Raise ``PlanDiffers`` for another model or other images."""
        if (weights_sha256, source_digest) != (self.weights_sha256, self.source_digest):
            raise PlanDiffers("the model or the images of this process are not those of the job")

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of Parquet files of scores."""
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
    """Return images a part: at least 2,000, for at most 10,000 parts, a multiple of row groups up to 20,000.

    >>> part_size(600), part_size(10**6), part_size(10**9), part_size(10**6, group=1500)
    (2000, 2000, 100000, 3000)
    """
    least = max(IMAGES_PER_PART, -(-count // MAX_PARTS))
    group = min(max(group, 1), LARGEST_GROUP)
    return -(-least // group) * group


class Parts(Protocol):
    """Store of a file for each part."""

    @property
    def plan(self) -> BulkPlan: ...

    def has(self, index: int) -> bool: ...

    def missing(self) -> list[int]: ...

    def write(self, index: int, table: pa.Table) -> PartSummary:
        """Write a part whole."""
        ...

    def finish(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> PartSummary:
        """Check all parts; delete bad ones and raise ``PartsDamaged``, or raise ``Stopped``."""
        ...


@dataclass(frozen=True)
class OpenPlan:
    """Bulk scoring in a folder of this machine."""

    folder: Path
    plan: BulkPlan

    def part_path(self, index: int) -> Path:
        return self.folder / f"part-{index:06d}.parquet"

    @property
    def part_paths(self) -> list[Path]:
        return [self.part_path(index) for index in range(self.plan.parts)]

    def has(self, index: int) -> bool:
        return self.part_path(index).exists()

    def write(self, index: int, table: pa.Table) -> PartSummary:
        from snf_models.bulk.part_tables import write_table  # noqa: PLC0415  # a service plans jobs without pyarrow

        return write_table(table, self.part_path(index))

    def missing(self) -> list[int]:
        return [index for index, path in enumerate(self.part_paths) if not path.exists()]

    def merge(self, table: Path) -> PartSummary:
        """Check and join the parts; delete bad ones and raise ``PartsDamaged``."""
        from snf_models.bulk.merge_parts import merge_parts  # noqa: PLC0415  # a service plans jobs without pyarrow
        from snf_models.bulk.part_tables import read_footer  # noqa: PLC0415

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
    """Open a new or resumed scoring; parts of other inputs are deleted."""
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
    """Open a stored scoring to help with it; raise ``PlanDiffers`` if model or images here are others."""
    if stored_plan(folder) != plan:
        raise PlanDiffers("the model or the images of this machine are not those of the job")
    return OpenPlan(folder, plan)


def stored_plan(folder: Path) -> BulkPlan | None:
    """Return None if the file is missing or damaged."""
    try:
        return BulkPlan.model_validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
