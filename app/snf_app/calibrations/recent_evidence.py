"""Anomaly statistics of the newest scored images, kept in memory to judge the images by another calibration."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snf_models.anomaly.rejudge import StoredEvidence

MAX_IMAGES = 200
"""Most images of a model version."""
MAX_BYTES = 8 * 2**20
"""Most bytes of a model version; more images than fit drop the oldest."""
MAX_VERSIONS = 16
"""Most model versions; that whose last image is oldest is dropped first."""


@dataclass(eq=False)
class VersionEvidence:
    """Evidence of the last images of a model version under one digest of weights."""

    weights: str
    images: deque[StoredEvidence] = field(default_factory=deque)
    nbytes: int = 0

    def add(self, image: StoredEvidence) -> None:
        """Keep evidence, and drop the oldest beyond 200 images or 8 MiB."""
        self.images.append(image)
        self.nbytes += image.nbytes
        while len(self.images) > MAX_IMAGES or self.nbytes > MAX_BYTES:
            self.nbytes -= self.images.popleft().nbytes


class RecentEvidence:
    """Evidence of the last images of the 16 versions that scored last. A restart forgets it. Thread-safe."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, int], VersionEvidence] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, name: str, version: int, weights: str, images: Sequence[StoredEvidence]) -> None:
        """Keep the evidence of images that a version with the digest ``weights`` has scored."""
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
        """Return the evidence under the digest ``weights``, in the order of scoring."""
        with self._lock:
            known = self._versions.get((name, version))
            return [] if known is None or known.weights != weights else list(known.images)
