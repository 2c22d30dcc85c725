"""Processes whose coverage is not measured, as other tests run what they do: they start in two thirds of the time."""

import os

MEASURED = "COVERAGE_PROCESS_CONFIG"
"""Variable of processes whose coverage is measured."""


def unmeasured() -> dict[str, str]:
    """Return the environment variables of this process for a child whose coverage is not measured."""
    return {name: value for name, value in os.environ.items() if name != MEASURED}
