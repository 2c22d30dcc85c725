"""The raw scores of one set of images, with its most and least anomalous ones."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.atomic_files import write_atomically
from models.evaluation.image_sets import ImageSet
from models.evaluation.scores import ImageScores, ScoreSuite

Images: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Extremes:
    """Images ``(n, C, H, W)`` at the end of an order, the extreme one first, their T in nats and places in the set."""

    images: Images
    statistics: NDArray[np.float64]
    places: NDArray[np.int64]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Self:
        """Return no images of this shape."""
        return cls(np.zeros((0, *shape), dtype=np.uint8), np.zeros(0), np.zeros(0, dtype=np.int64))

    def merged(self, other: Self, count: int, sign: int) -> Self:
        """Return the ``count`` images with the largest (``sign`` -1) or smallest (1) T of both."""
        statistics = np.concatenate([self.statistics, other.statistics])
        best = np.argsort(sign * statistics, kind="stable")[:count]
        images = np.concatenate([self.images, other.images])[best]
        return type(self)(images, statistics[best], np.concatenate([self.places, other.places])[best])


@dataclass(frozen=True)
class RawSet:
    """What is kept of a set of ``images`` images; memory does not grow with their size, but for the few shown."""

    images: int
    scored: ImageScores
    most: Extremes
    least: Extremes

    @property
    def failed(self) -> int:
        """Images without a finite likelihood."""
        return self.images - len(self.scored)

    def arrays(self) -> Arrays:
        """Return it as named arrays."""
        found = {"images": np.array(self.images), **{f"scored.{k}": v for k, v in vars(self.scored).items()}}
        for end in ("most", "least"):
            found |= {f"{end}.{k}": v for k, v in vars(getattr(self, end)).items()}
        return found

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """Return what :meth:`arrays` took apart. Raises ``KeyError``."""
        scored = ImageScores(*(arrays[f"scored.{name}"] for name in ImageScores.__dataclass_fields__))
        ends = [Extremes(*(arrays[f"{end}.{k}"] for k in Extremes.__dataclass_fields__)) for end in ("most", "least")]
        return cls(int(arrays["images"]), scored, *ends)


def score_set(scores: ScoreSuite, images: ImageSet, shown: int, progress: Callable[[int], None]) -> RawSet:
    """Score all images of a set, keeping ``shown`` at either end of T; ``progress`` is told images, and may raise.

    Raises ``DatasetUnfit``, ``DatasetNotFound``.
    """
    parts: list[ImageScores] = []
    most = least = None
    done = 0
    for batch in images.batches():
        scored = scores(batch)
        found = Extremes(batch[scored.kept], scored.statistics, scored.kept + done)
        most = (most or Extremes.none(batch.shape[1:])).merged(found, shown, -1)
        least = (least or Extremes.none(batch.shape[1:])).merged(found, shown, 1)
        parts.append(ImageScores(scored.values, scored.log_likelihoods, scored.p_values, scored.kept + done))
        done += len(batch)
        progress(len(batch))
    if most is None or least is None:
        raise ValueError("a set without images")
    return RawSet(done, ImageScores.join(parts), most, least)


log = logging.getLogger(__name__)

PLAN = "plan.json"
Arrays = Mapping[str, NDArray[Any]]


class RawScoreCache:
    """``folder/<set>.npz`` for each finished set, whole or not there; without a folder nothing is kept.

    ``plan``, as JSON, is what the numbers depend on: where the folder has another one, what lies there is thrown away.
    """

    def __init__(self, folder: Path | None, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        wanted = json.dumps(plan, sort_keys=True, indent=1).encode()
        try:
            found = (folder / PLAN).read_bytes()
        except OSError:
            found = b""
        if found != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            write_atomically(folder / PLAN, wanted)

    def get(self, name: str) -> Arrays | None:
        """Return the arrays of a set, None where there are none that can be read."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read and is computed again: %s", path.name, error)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep the arrays of a set."""
        if self._folder is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_atomically(self._folder / f"{name}.npz", content.getvalue())
