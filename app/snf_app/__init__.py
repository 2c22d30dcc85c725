"""The HTTP service, the web console and the command line."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def package_version() -> str:
    """Return the version of ``snf-density``, ``0.0.0`` for a source tree that is not installed."""
    try:
        return version("snf-density")
    except PackageNotFoundError:
        return "0.0.0"
