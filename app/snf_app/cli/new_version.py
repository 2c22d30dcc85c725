from __future__ import annotations

from collections.abc import Sequence

import typer


def published_line(
    ref: str, *, live: int | None, unfit: Sequence[str], options: str = "", smallest_p: float | None = None
) -> str:
    """Return a one-line message which says that a new model version was registered, and which version is live.

    It has the reasons for an unfit version, and the command that makes the version live unless it is.

    Args:
        ref: The version as ``name:version``.
        live: The version that is live; None if there is none, or none is known.
        unfit: Why it is unfit; empty for a fit version.
        options: The option for suggested commands that ``url_option`` returns.
        smallest_p: The smallest p-value that it can give, which is the smallest false-alarm rate; None: not known.

    >>> published_line("parts:3", live=2, unfit=(), smallest_p=1 / 651)
    'registered parts:3, smallest alpha 0.001536; parts:2 stays live. To switch: snf models alias parts live 3'
    """
    name, _, version = ref.partition(":")
    reasons = "; ".join(unfit)
    registered = f"registered {ref}" + ("" if smallest_p is None else f", smallest alpha {smallest_p:.4g}")
    if str(live) == version:
        return f"published as {ref} and live, although it is unfit: {reasons}" if unfit else registered
    stays = "" if live is None else f"; {name}:{live} stays live"
    command = f"snf models alias {name} live {version}{options}"
    if unfit:
        return f"published as {ref}, not live: {reasons}{stays}. To make it live all the same: {command}"
    return f"{registered}{stays or ', not live'}. To switch: {command}"


def print_published(line: str, *, unfit: bool) -> None:
    """Print to stdout a line that reports a new model version, in red if the version is unfit."""
    typer.secho(line, fg=typer.colors.RED if unfit else None)
