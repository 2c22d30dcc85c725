"""Runs benchmarks as after ``make up``: without the packages of the extras ``EXTRAS``, and without data.

``python -m tests.benchmarks.without_extras`` reads commands, a JSON list of lists of words, and writes for each its
exit code and what it printed. This process may be a fork that has imported much of the product, so what modules of the
product import of extras is seen only where no fork has imported it yet: see `IMPORTED`.
"""

import io
import json
import os
import re
import runpy
import sys
import tomllib
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

EXTRAS = ("test", "bench", "onnx")
IMPORTED = {"pytest", "_pytest", "py", "yaml", "_distutils_hack"}
"""Packages of the extras that forks have imported: pytest for the tests, yaml by kombu, and what setuptools starts."""
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


class WithoutExtras:
    """Finder of modules that has none of the packages of the extras."""

    def __init__(self) -> None:
        extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        wanted = {re.split(r"[^\w-]", requirement)[0] for name in EXTRAS for requirement in extras[name]}
        owners = packages_distributions()
        self.refused = {package for package, names in owners.items() if wanted & {name.lower() for name in names}}

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse a module of the extras; leave others to the next finder."""
        if name.partition(".")[0] in self.refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def run(words: list[str]) -> tuple[int, str]:
    """Run a command, such as ``benchmarks.drift --help``, in this process."""
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed), patch.object(sys, "argv", list(words)):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:  # as the interpreter does: print it, and end with 1
            traceback.print_exc()
            code = 1
        else:
            code = 0
    return code, printed.getvalue()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
    without = WithoutExtras()
    imported = {name: name.partition(".")[0] for name in sys.modules if name.partition(".")[0] in without.refused}
    assert IMPORTED.issuperset(imported.values()), imported
    for name in imported:
        del sys.modules[name]
    sys.meta_path.insert(0, without)
    os.environ.pop("SNF_DATA_DIR", None)
    json.dump([run(words) for words in json.load(sys.stdin)], sys.stdout)
