"""What a benchmark needs beyond ``make up``. Where it is missing, one sentence says so, and the exit code is 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from snf_models.datasets.store import FILES, MINI

EXIT = 2


def end(sentence: str) -> NoReturn:
    print(f"benchmarks: {sentence}", file=sys.stderr)
    raise SystemExit(EXIT)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an extra of the project in a ``with`` block, which ends the program where one is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"models", "worker", "app", "benchmarks", "tests"}:
            raise
        end(f"needs {error.name}, of the extra {name!r}: python -m pip install --editable '.[{name}]'")


def data_dir(*sets: str) -> Path:
    """Return the folder that ``SNF_DATA_DIR`` names, with a file for each set; end the program where one is missing."""
    folder = os.environ.get("SNF_DATA_DIR", "")
    if sets and not folder:
        end(f"needs a folder with {', '.join(map(_file, sets))}; set SNF_DATA_DIR to it")
    return with_files(Path(folder), *sets)


def with_files(folder: Path, *sets: str) -> Path:
    """Return the folder; end the program where it lacks the file of a set, as in ``data_dir``."""
    missing = [_file(name) for name in sets if not (folder / _file(name)).is_file()]
    if missing:
        end(f"needs {', '.join(missing)}, which {folder} does not have")
    return folder


def builtin_dir(dataset: str) -> Path | None:
    """Return the folder with the file of a built-in dataset; None for the one that comes with the product."""
    return None if dataset == MINI else data_dir(dataset)


def _file(name: str) -> str:
    return FILES.get(name, name)
