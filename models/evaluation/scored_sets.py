"""Anomaly scores and example images of image sets, with a disk cache for both.

The examples are the most and the least anomalous images of a set.
"""

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
from models.evaluation.compared_scores import ImageScores, ScoreSuite
from models.evaluation.image_sets import ImageSet
from models.evaluation.same_size_pixels import pictures

Images: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class Extremes:
    """The most or least anomalous images of a set, with their indices and anomaly scores in nats.

    Attributes:
        images: The images, ``(n, C, H, W)``; those of a model of tiles as small pictures.
        statistics: Their combined anomaly scores in nats, ``(n,)``, the most extreme first.
        places: Their indices in the set, ``(n,)``.
    """

    images: Images
    statistics: NDArray[np.float64]
    places: NDArray[np.int64]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Self:
        """Return an empty selection of most or least anomalous images, the initial value for ``merged``.

        ``shape`` is the (C, H, W) of the images.
        """
        return cls(np.zeros((0, *shape), dtype=np.uint8), np.zeros(0), np.zeros(0, dtype=np.int64))

    def merged(self, other: Self, count: int, sign: int) -> Self:
        """Merge two selections, keeping only the ``count`` images with the most extreme anomaly scores.

        These have the highest (``sign=-1``) or the lowest (``sign=1``) scores of both selections.
        """
        statistics = np.concatenate([self.statistics, other.statistics])
        best = np.argsort(sign * statistics, kind="stable")[:count]
        images = np.concatenate([self.images, other.images])[best]
        return type(self)(images, statistics[best], np.concatenate([self.places, other.places])[best])


@dataclass(frozen=True)
class ScoredSet:
    """Anomaly scores of all images of a set, and its most and least anomalous images for a report.

    ``images`` is the number of images; only those of the gallery, ``most`` and ``least``, are kept.
    """

    images: int
    scored: ImageScores
    most: Extremes
    least: Extremes

    @property
    def failed(self) -> int:
        """The number of images that are not judged, by their log-likelihood (NaN or infinite) or their size."""
        return self.images - len(self.scored)

    def arrays(self) -> Arrays:
        """Convert the scores and example images of this set to a dict of arrays that can be saved in a file.

        Its keys are such as ``scored.values``.
        """
        arrays = {"images": np.array(self.images), **{f"scored.{k}": v for k, v in vars(self.scored).items()}}
        for end in ("most", "least"):
            arrays |= {f"{end}.{k}": v for k, v in vars(getattr(self, end)).items()}
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """Rebuild a ``ScoredSet`` from the dictionary that :meth:`arrays` returned.

        Raises ``KeyError`` if an array is missing.
        """
        scored = ImageScores(*(arrays[f"scored.{name}"] for name in ImageScores.__dataclass_fields__))
        ends = [Extremes(*(arrays[f"{end}.{k}"] for k in Extremes.__dataclass_fields__)) for end in ("most", "least")]
        return cls(int(arrays["images"]), scored, *ends)


def score_set(scores: ScoreSuite, images: ImageSet, shown: int, progress: Callable[[int], None]) -> ScoredSet:
    """Return the scores of all images in a set, with pictures of its most and least anomalous ones.

    ``shown`` images are kept at either end.

    Args:
        scores: The scores to compute.
        images: The set.
        shown: The number of images to keep at either end of the order by the combined anomaly score.
        progress: Called with the number of images of each batch; an exception that it raises ends the work.

    Raises:
        DatasetUnfit: The model refuses an image.
        DatasetNotFound: The dataset was deleted meanwhile.
    """
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
    """Disk cache of anomaly scores, with which a restarted evaluation skips the image sets it has finished.

    Each finished set is one file, ``<set>.npz``, which is written atomically. ``plan`` holds everything that the scores
    depend on, such as the digest of the weights: a folder with another plan is emptied first. Without a folder nothing
    is kept.
    """

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
        """Return the cached results of image set ``name`` as a dict of arrays, or None if missing or unreadable."""
        if self._folder is None or not (path := self._folder / f"{name}.npz").is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read and is computed again: %s", path.name, error)
            return None

    def put(self, name: str, arrays: Arrays) -> None:
        """Store the results of image set ``name``, a dict of arrays, in the cache folder as ``<name>.npz``.

        Without a folder nothing is stored.
        """
        if self._folder is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        write_atomically(self._folder / f"{name}.npz", content.getvalue())
