"""The process that looks at an artifact from elsewhere: `python -m worker.admission FOLDER`.

It is a process of its own, with bounds on memory and time, so that whatever is in the files cannot hurt the service. It
prints one JSON object: `problem` is null for an artifact that can be served, else what is wrong with it.
"""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from worker.attempt import limit_memory
from worker.garbage import look_rarely

SECONDS = 300
"""Largest time that it may take."""
BASE_BYTES, FACTOR = 4 * 2**30, 8
"""Memory that it may take: so much, and so many times what the files have."""
MOST_PIXELS = 2**24
NICENESS = 5


def check(folder: Path) -> str | None:
    """What is wrong with the artifact in `folder`, None where it can be served."""
    from models.problems import ModelsError
    from models.scoring.scorer import Scorer

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

    from models.artifact_files import CARD, NAMES, SAMPLES, read_file
    from models.manifest import FILE, read_manifest
    from models.problems import ArtifactRefused

    listed, expected = read_manifest(folder).files.keys(), set(NAMES) - {FILE}
    if listed != expected:
        raise ArtifactRefused(f"the manifest lists {', '.join(sorted(listed))}; expected {', '.join(sorted(expected))}")
    try:
        read_file(folder, CARD).decode()
    except UnicodeDecodeError as error:
        raise ArtifactRefused(f"{CARD} is not UTF-8") from error
    read_file(folder, SAMPLES)
    with Image.open(folder / SAMPLES, formats=["PNG"]) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ArtifactRefused(f"{SAMPLES} has more than {MOST_PIXELS} pixels")
        picture.load()


def main() -> None:
    """Looks at the folder that the command line names."""
    look_rarely()
    folder = Path(sys.argv[1])
    os.nice(NICENESS)
    limit_memory(BASE_BYTES + FACTOR * sum(path.stat().st_size for path in folder.iterdir()))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    print(json.dumps({"problem": check(folder)}))


if __name__ == "__main__":
    main()
