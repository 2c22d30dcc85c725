"""Tests and processes whose coverage is not measured, as others run what they do: a tracer takes half as long again."""

import os
from functools import cache
from pathlib import Path

MEASURED = "COVERAGE_PROCESS_CONFIG"
"""Variable of processes whose coverage is measured."""
LIST = Path(__file__).parents[1] / "unmeasured.txt"
"""Names of the tests, of their files and folders."""


def unmeasured() -> dict[str, str]:
    """Return the environment variables of this process for a child whose coverage is not measured."""
    return {name: value for name, value in os.environ.items() if name != MEASURED}


def is_unmeasured(test: str) -> bool:
    """Return whether the list has a test, its function, file or folder."""
    function = test.split("[", maxsplit=1)[0]
    return function in listed() or function.startswith(_parents())


@cache
def listed() -> frozenset[str]:
    """Return the entries of the list."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


@cache
def _parents() -> tuple[str, ...]:
    return tuple(name if name.endswith("/") else f"{name}::" for name in listed() if "::" not in name)
