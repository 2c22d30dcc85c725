"""Looking at an artifact from elsewhere, in a process of its own (``python -m worker.sandbox.verify_upload``)."""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import ArtifactRefused, ModelsError
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

SECONDS = 300
"""Largest time that it may take, on the clock and of the processor."""
BASE_BYTES, FACTOR = 4 * 2**30, 8
"""Memory that it may take: so much, and so many times what the files have."""
MAX_PIXELS = 2**24

log = logging.getLogger(__name__)


def verify_upload(folder: Path, progress: Callable[[int, int], None]) -> None:
    """Return where the artifact in ``folder`` can be served; raise ``ArtifactRefused`` where not.

    ``progress`` is called all the time, and what it raises ends it.
    """
    memory = BASE_BYTES + FACTOR * sum(path.stat().st_size for path in folder.iterdir())
    try:
        problem = run_limited(
            "worker.sandbox.verify_upload", os.fspath(folder), ProcessLimits(memory, SECONDS, SECONDS), progress
        )
    except LimitExceeded as error:
        raise ArtifactRefused(f"loading it takes {error}") from error
    except ProcessDied as error:
        log.warning("the check of a model: %s", error)
        raise ArtifactRefused("it cannot be loaded: the process that looked at it ended") from error
    if problem is not None:
        raise ArtifactRefused(problem)


def find_problem(folder: Path) -> str | None:
    """Return what is wrong with the artifact in ``folder``, None where it can be served."""
    from models.scorer import Scorer

    try:
        check_files(folder)
        Scorer.load(folder)
    except ModelsError as error:
        return error.detail
    # Of files of unknown origin anything may come, and all of it means that they are no model.
    except Exception as error:
        # PyTorch says of the CPU's memory in words alone that it ran out.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return "it needs more memory than a model of its size may"
        return f"it cannot be loaded: {type(error).__name__}"
    return None


def check_files(folder: Path) -> None:
    """Looks at what loading does not: the list of files, and those for people; raises `ModelsError`, errors of PNGs."""
    from PIL import Image

    from models.artifacts.files import CARD, NAMES, SAMPLES, read_file
    from models.artifacts.manifest import FILE, read_manifest

    listed, expected = read_manifest(folder).files.keys(), set(NAMES) - {FILE}
    if listed != expected:
        raise ArtifactRefused(f"the manifest lists {', '.join(sorted(listed))}; expected {', '.join(sorted(expected))}")
    try:
        read_file(folder, CARD).decode()
    except UnicodeDecodeError as error:
        raise ArtifactRefused(f"{CARD} is not UTF-8") from error
    read_file(folder, SAMPLES)
    with Image.open(folder / SAMPLES, formats=["PNG"]) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ArtifactRefused(f"{SAMPLES} has more than {MAX_PIXELS} pixels")
        picture.load()


def _check(order: Any, _progress: Callable[[int, int], None]) -> str | None:
    return find_problem(Path(order))


if __name__ == "__main__":
    do_limited(_check)
