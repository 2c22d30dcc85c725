"""Anomaly scores of image sets, with their most and least anomalous images, and a cache on disk."""

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

from snf_models.disk import write_atomically
from snf_models.evaluation.compared_scores import ImageScores, ScoreSuite
from snf_models.evaluation.image_sets import ImageSet
from snf_models.evaluation.same_size_pixels import pictures

Images: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Extremes:
    """The most or least anomalous images of a set."""

    images: Images  # ``(n, C, H, W)``, small pictures for a model of tiles
    statistics: NDArray[np.float64]  # nats, ``(n,)``, the most extreme first
    places: NDArray[np.int64]  # indices in the set, ``(n,)``

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Self:
        return cls(np.zeros((0, *shape), dtype=np.uint8), np.zeros(0), np.zeros(0, dtype=np.int64))

    def merged(self, other: Self, count: int, sign: int) -> Self:
        """Keep the ``count`` images with the highest (``sign=-1``) or lowest (``sign=1``) scores of both."""
        statistics = np.concatenate([self.statistics, other.statistics])
        best = np.argsort(sign * statistics, kind="stable")[:count]
        images = np.concatenate([self.images, other.images])[best]
        return type(self)(images, statistics[best], np.concatenate([self.places, other.places])[best])


@dataclass(frozen=True)
class ScoredSet:
    """Scores of a set. Of its images only ``most`` and ``least`` are kept."""

    images: int
    scored: ImageScores
    most: Extremes
    least: Extremes

    @property
    def failed(self) -> int:
        """Images that are not judged."""
        return self.images - len(self.scored)

    def arrays(self) -> Arrays:
        """Return arrays to be saved, with keys such as ``scored.values``."""
        arrays = {"images": np.array(self.images), **{f"scored.{k}": v for k, v in vars(self.scored).items()}}
        for end in ("most", "least"):
            arrays |= {f"{end}.{k}": v for k, v in vars(getattr(self, end)).items()}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """Rebuild a set from :meth:`arrays`; raise ``KeyError`` if one is missing."""
        scored = ImageScores(*(arrays[f"scored.{name}"] for name in ImageScores.__dataclass_fields__))
        ends = [Extremes(*(arrays[f"{end}.{k}"] for k in Extremes.__dataclass_fields__)) for end in ("most", "least")]
        return cls(int(arrays["images"]), scored, *ends)


def score_set(scores: ScoreSuite, images: ImageSet, shown: int, progress: Callable[[int], None]) -> ScoredSet:
    """Score a set and keep ``shown`` images at either end; raise ``DatasetUnfit``, ``DatasetNotFound``."""
    parts: list[ImageScores] = []
    most = least = None
    done = 0
    for batch in images.batches():
        scored = scores(batch)
        shown_images = pictures(batch, images.preprocessing.height)
        extremes = Extremes(shown_images[scored.kept], scored.statistics, scored.kept + done)
        none = Extremes.none(shown_images.shape[1:])
        most, least = (most or none).merged(extremes, shown, -1), (least or none).merged(extremes, shown, 1)
        parts.append(ImageScores(scored.values, scored.log_likelihoods, scored.p_values, scored.kept + done))
        done += len(batch)
        progress(len(batch))
    if most is None or least is None:
        raise ValueError("expected a set with images, got none")
    return ScoredSet(done, ImageScores.join(parts), most, least)


log = logging.getLogger(__name__)

PLAN = "plan.json"
Arrays = Mapping[str, NDArray[Any]]


class ScoredSetCache:
    """Results of finished sets in a folder, which is emptied for another ``plan``. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is None:
            return
        wanted = json.dumps(plan, sort_keys=True, indent=1).encode()
        try:
            stored = (folder / PLAN).read_bytes()
        except OSError:
            stored = b""
        if stored != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            write_atomically(folder / PLAN, wanted)

    def get(self, name: str) -> Arrays | None:
        """Return the arrays of a set, or None if missing or unreadable."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read and is computed again: %s", path.name, error)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        if self._folder is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_atomically(self._folder / f"{name}.npz", content.getvalue())
