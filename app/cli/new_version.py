"""Messages about a newly registered model version, with the reasons if it is unfit."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def published_line(ref: str, *, live: bool, unfit: Sequence[str], options: str = "") -> str:
    """Return a one-line message which says that a new model version was registered.

    For an unfit version it has the reasons, and tells whether the version is live.

    Args:
        ref: The version as ``name:version``.
        live: Whether it is live.
        unfit: Why it is unfit; empty for a fit version.
        options: The option for suggested commands that ``url_option`` returns.
    """
    if not unfit:
        return f"registered {ref}"
    reasons = "; ".join(unfit)
    if live:
        return f"published as {ref} and live, although it is unfit: {reasons}"
    name, _, version = ref.partition(":")
    command = f"snf models alias {name} live {version}{options}"
    return f"published as {ref}, not live: {reasons}. To make it live all the same: {command}"


def print_published(line: str, *, unfit: bool) -> None:
    """Print to stdout a line that reports a new model version, in red if the version is unfit."""
    typer.secho(line, fg=typer.colors.RED if unfit else None)
