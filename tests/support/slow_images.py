"""Images that processes of an engine take their time to read, and that say which process reads which part."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.bulk.sources import DatasetImages
from models.datasets.image_source import ImageSource, NamedImage
from models.errors import DatasetNotFound
from models.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class SlowImages:
    """Images of ``mnist-mini`` for a :class:`BulkWork`.

    Args:
        journal: File that gets a line ``START PID`` when a part is read.
        seconds: Time that reading a part takes.
        fail_at: First image of a part that cannot be read.
    """

    journal: Path
    seconds: float = 0.0
    fail_at: int | None = None

    def open(self, preprocessing: Preprocessing) -> ImageSource:
        """Return the images."""
        return _SlowSource(self, DatasetImages("mnist-mini", None, Path("nowhere")).open(preprocessing))

    def readers(self) -> list[tuple[int, int]]:
        """Return the first image of every part that was begun, and the process that did."""
        if not self.journal.exists():
            return []
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        return [(int(start), int(pid)) for start, pid in lines]


class _SlowSource:
    def __init__(self, images: SlowImages, source: ImageSource) -> None:
        self.count, self.digest = source.count, source.digest
        self._images, self._source = images, source

    def read(self, start: int, stop: int) -> Iterator[NamedImage]:
        with self._images.journal.open("a") as file:
            file.write(f"{start} {os.getpid()}\n")
        time.sleep(self._images.seconds)
        if start == self._images.fail_at:
            raise DatasetNotFound("deleted meanwhile")
        yield from self._source.read(start, stop)
