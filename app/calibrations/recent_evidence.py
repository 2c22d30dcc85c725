"""Anomaly statistics of the newest scored images, kept in memory to judge the images by another calibration."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.anomaly.rejudge import StoredEvidence

MAX_IMAGES = 200
"""Most images of a model version."""
MAX_BYTES = 8 * 2**20
"""Most bytes of a model version; more images than fit drop the oldest."""
MAX_VERSIONS = 16
"""Most model versions; that whose last image is oldest is dropped first."""


@dataclass(eq=False)
class VersionEvidence:
    """Anomaly statistics of the last images (at most 200) that a model version scored.

    With these statistics the same images can be judged by another calibration.

    ``weights`` is the digest of the model's weights.
    """

    weights: str
    images: deque[StoredEvidence] = field(default_factory=deque)
    nbytes: int = 0

    def add(self, image: StoredEvidence) -> None:
        """Store the anomaly statistics of a scored image, so that another calibration can judge the image later.

        Beyond 200 images or 8 MiB, the statistics of the oldest images are dropped.
        """
        self.images.append(image)
        self.nbytes += image.nbytes
        while len(self.images) > MAX_IMAGES or self.nbytes > MAX_BYTES:
            self.nbytes -= self.images.popleft().nbytes


class RecentEvidence:
    """Store of anomaly statistics of recently scored images, to recompute p-values with another calibration.

    At most 200 images and 8 MiB are kept of each of the 16 model versions that scored last. The evidence consists of
    float arrays, not images.

    A restart forgets it. May be used from any thread.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, int], VersionEvidence] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, name: str, version: int, weights: str, images: Sequence[StoredEvidence]) -> None:
        """Store the anomaly statistics of images that a model version has just scored.

        Args:
            name: The model.
            version: The number of its version.
            weights: The digest of its weights.
            images: The evidence of each image.
        """
        if not images:
            return
        with self._lock:
            known = self._versions.get((name, version))
            if known is None or known.weights != weights:
                known = self._versions[name, version] = VersionEvidence(weights)
            self._versions.move_to_end((name, version))
            for image in images:
                known.add(image)
            while len(self._versions) > MAX_VERSIONS:
                self._versions.popitem(last=False)

    def of(self, name: str, version: int, weights: str) -> list[StoredEvidence]:
        """Return a list of the anomaly statistics of the last images that a model version scored.

        They are in the order in which the images were scored.

        ``weights`` is the digest of its weights: evidence under others is not returned.
        """
        with self._lock:
            known = self._versions.get((name, version))
            return [] if known is None or known.weights != weights else list(known.images)
