"""Raw scores of the sets that are finished, so that another attempt does not compute them again."""

from __future__ import annotations

import io
import json
import logging
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.atomic_files import write_atomically

log = logging.getLogger(__name__)

PLAN = "plan.json"
Arrays = Mapping[str, NDArray[Any]]


class Shelf:
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
