"""What engines compile and measure for a model, kept for all homes of a test run: it takes them seconds."""

import os
from pathlib import Path
from typing import Any

from snf_models.scoring import EngineOptions

FOLDER = "SNF_TEST_COMPILED"
"""Variable that names the folder, for all processes of a test run; elsewhere each home has its own."""


def share_compiled(home: Path) -> Path:
    """Makes a home that has what was compiled for others; returns it."""
    home.mkdir(parents=True, exist_ok=True)
    if FOLDER in os.environ and not (home / "cache").exists():
        (home / "cache").symlink_to(os.environ[FOLDER])
    return home


def share_compiled_with_user(home: Path) -> Path:
    """Makes a home folder of a user who has what was compiled for others, where the examples look; returns it."""
    user_cache = home / ".cache"
    user_cache.mkdir(parents=True)
    if FOLDER in os.environ:
        (user_cache / "snf-density").symlink_to(os.environ[FOLDER])
    return home


def compiled(**options: Any) -> EngineOptions:
    """Return options of an engine that takes what was compiled for others."""
    return EngineOptions(cache=Path(os.environ[FOLDER]) if FOLDER in os.environ else None, **options)
