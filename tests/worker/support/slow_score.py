"""An attempt of a scoring whose parts take time to read: ``python -m tests.worker.support.slow_score JOB_DIR``."""

import os
import sys
from pathlib import Path
from typing import Any

from snf_worker.attempts import run_attempt as attempt
from snf_worker.attempts import score
from tests.support.slow_images import SlowImages, WorkWithoutModel

VARIABLE = "TEST_PART_SECONDS"
SECONDS = 0.4
WITHOUT_MODEL = "TEST_WITHOUT_MODEL"
"""Variable of attempts whose processes load no model, which takes them seconds."""


def journal(folder: Path) -> SlowImages:
    """The images of the job of that folder, which say what was read."""
    return SlowImages(folder / "journal", float(os.environ.get(VARIABLE, SECONDS)))


def command(folder: Path, _type: Any) -> list[str]:
    """The command of the attempt of a job."""
    return [sys.executable, "-m", __name__, str(folder)]


def helper_command(folder: Path) -> list[str]:
    """The command of a process that helps with a job."""
    return [sys.executable, "-m", __name__, str(folder), "--assist"]


if __name__ == "__main__":
    images = journal(Path(sys.argv[1]))
    vars(score)["DatasetImages"] = lambda *_args: images
    if WITHOUT_MODEL in os.environ:
        vars(score)["BulkWork"] = WorkWithoutModel
    sys.argv.insert(1, score.__name__)
    raise SystemExit(attempt.main())
