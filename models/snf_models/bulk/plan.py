"""Plans of bulk scoring, and what can be scored. The module imports neither torch nor pyarrow."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from snf_client.schemas.datasets import DatasetReport
from snf_client.schemas.training import TrainingConfig
from snf_models.artifacts.manifest import Precision
from snf_models.datasets.store import DatasetStore, builtin_file, shape_facts, summarize_builtin
from snf_models.errors import DatasetUnfit
from snf_runtime.images.preprocessing import GREY_MODES, Preprocessing
from snf_runtime.scoring.layout import DensityKind

IMAGES_PER_PART = 2000
MAX_PARTS = 10_000
"""Most parts of a bulk scoring, each of which is a file."""
LARGEST_GROUP = 20_000
"""Most images of a row group that parts are aligned with: larger parts would keep few processes busy."""
FILES = "files"
"""Label of images that are files and no dataset."""


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
    model_sha256: str | None = Field(None, description="Digest of manifest and calibration; null if unknown.")
    engine: str | None = Field(None, description="Library that computes; null if unknown.")
    precision: Precision | None = Field(None, description="Its arithmetic; null if unknown.")

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

    def resumed(self, stored: BulkPlan | None) -> BulkPlan:
        """Return ``stored`` if the plans agree in all that both of them name, else this plan."""
        if stored is None:
            return self
        theirs = stored.model_dump()
        agrees = all(theirs[name] in (None, value) or value is None for name, value in self.model_dump().items())
        return stored if agrees else self

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

    @property
    def label(self) -> str:
        return (
            f"scores of {self.count} images of {self.dataset} ({self.source_digest[:12]}) by {self.model} with "
            f"calibration {self.calibration}, alpha {self.alpha:g}, {self.images_per_part} a part"
            + ("" if self.engine is None else f", computed by {self.engine} in {self.precision}")
        )


def part_size(count: int, group: int = 1) -> int:
    """Return images a part: at least 2,000, for at most 10,000 parts, a multiple of row groups up to 20,000.

    >>> part_size(600), part_size(10**6), part_size(10**9), part_size(10**6, group=1500)
    (2000, 2000, 100000, 3000)
    """
    least = max(IMAGES_PER_PART, -(-count // MAX_PARTS))
    group = min(max(group, 1), LARGEST_GROUP)
    return -(-least // group) * group


def require_scorable(name: str, preprocessing: Preprocessing, data_dir: Path | None, store: DatasetStore) -> None:
    """Raise ``DatasetUnfit`` where no image of the dataset, as far as known, has the model's size and colour mode."""
    path = builtin_file(name, data_dir)
    if path is not None:
        shape = summarize_builtin(name, path, TrainingConfig()).image_shape
        facts, colours, known = shape_facts(shape), {shape[0]}, None
    elif not store.is_inspected(name):
        return  # sizes and colours are not known before the images are read
    else:
        report = store.report(name)
        facts, colours = report.facts, _colours(report)
        # Of more than a hundred different sizes, a report has the most frequent ones.
        listed = {(size.width, size.height) for size in report.sizes}
        known = listed if len(listed) == report.different_sizes else None
    problems = []
    width, height = preprocessing.size
    (narrowest, lowest), (widest, highest) = facts.smallest, facts.largest
    may_fit = (width, height) in known if known else narrowest <= width <= widest and lowest <= height <= highest
    if preprocessing.fit == "exact" and not may_fit:
        sizes = " to ".join(dict.fromkeys([f"{narrowest}x{lowest}", f"{widest}x{highest}"]))
        none = " and none of this size" if known and len(known) > 1 else ""
        problems.append(f"the model takes {width}x{height} pixels alone, the images have {sizes}{none}")
    if preprocessing.colour == "exact" and preprocessing.channels not in colours:
        found = " or ".join(map(str, sorted(colours)))
        problems.append(f"the model takes {preprocessing.channels} channel(s) alone, the images have {found}")
    if problems:
        raise DatasetUnfit(f"{name} has no image that the model can score: {'; '.join(problems)}")


def _colours(report: DatasetReport) -> set[int]:
    """Return the numbers of channels of models without conversion that take at least one of a dataset's images."""
    colours = {4} if "RGBA" in report.modes else set()
    if report.modes.keys() - GREY_MODES:
        colours.add(3)
    return colours | ({1} if report.coloured < report.images else set())
