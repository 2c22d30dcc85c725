"""Check of an uploaded model, whose files only a sandboxed process opens."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from PIL import Image

from snf_models.artifacts.files import CARD, NAMES, SAMPLES, read_file
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.errors import ArtifactRefused, ModelsError
from snf_models.scorer import Scorer
from snf_models.scoring.options import EngineOptions
from snf_worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, Progress, run_sandboxed

SECONDS = 300
"""Largest real time and largest processor time in seconds."""
BASE_BYTES, FACTOR = 4 * 2**30, 8
"""Limit of memory: a base in bytes, plus a multiple of the size of the files."""
MAX_PIXELS = 2**24

log = logging.getLogger(__name__)


def verify_upload(folder: Path, backbones: Path, progress: Progress) -> None:
    """Raise ``ArtifactRefused`` if an uploaded model cannot be loaded; an error of ``progress`` stops the check."""
    memory = BASE_BYTES + FACTOR * sum(path.stat().st_size for path in folder.iterdir())
    try:
        order = [os.fspath(folder), os.fspath(backbones)]
        problem = run_sandboxed(find_problem, order, ProcessLimits(memory, SECONDS, SECONDS), progress)
    except LimitExceeded as error:
        raise ArtifactRefused(f"loading the model takes {error}") from error
    except ProcessDied as error:
        log.warning("the process that checked an uploaded model died: %s", error)
        raise ArtifactRefused("it cannot be loaded: the process that checked it died") from error
    if problem is not None:
        raise ArtifactRefused(problem)


def find_problem(order: list[str], _progress: Progress) -> str | None:
    """Return a phrase that says why an uploaded model cannot be used, or None; runs in the sandboxed process."""
    from snf_models.devices import lack_of_memory  # noqa: PLC0415 - imports PyTorch, which only the sandboxed process needs

    folder, backbones = map(Path, order)
    try:
        check_files(folder)
        Scorer.load(folder, options=EngineOptions(backbones=backbones))
    except ModelsError as error:
        return error.detail
    # Files from unknown sources may cause any error, and all of them mean that the files are no model.
    except Exception as error:
        if lack_of_memory(error) is not None:
            return "it needs more memory than a model of its size may"
        return f"it cannot be loaded: {type(error).__name__}"
    return None


def check_files(folder: Path) -> None:
    """Raise ``ModelsError`` unless manifest, model card and a density model's sample picture are valid."""
    manifest = read_manifest(folder)
    has_samples = manifest.architecture.kind == "density"
    listed, expected = manifest.files.keys(), set(NAMES) - {FILE} - (set() if has_samples else {SAMPLES})
    if listed != expected:
        raise ArtifactRefused(f"the manifest lists {', '.join(sorted(listed))}; expected {', '.join(sorted(expected))}")
    try:
        read_file(folder, CARD).decode()
    except UnicodeDecodeError as error:
        raise ArtifactRefused(f"{CARD} is not UTF-8 text") from error
    if not has_samples:
        return
    read_file(folder, SAMPLES)
    with Image.open(folder / SAMPLES, formats=["PNG"]) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ArtifactRefused(
                f"{SAMPLES} may have {MAX_PIXELS} pixels at most, got {picture.width} x {picture.height}"
            )
        picture.load()
