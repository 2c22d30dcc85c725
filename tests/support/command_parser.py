"""Checks of documented commands against the commands, options and arguments of the real command line."""

from collections.abc import Iterator, Sequence

import typer
from typer.core import TyperCommand, TyperGroup

from snf_app.cli.main import cli

SNF = typer.main.get_command(cli)
STARTS = ("snf", "snf_app.cli.main")
"""Words behind which the command line of ``snf`` begins."""


def find_command(words: Sequence[str]) -> tuple[TyperCommand | TyperGroup, list[str]]:
    """Return the command that ``snf datasets upload parts FOLDER`` and the like name, and the words behind its name."""
    rest = list(words[next(place for place, word in enumerate(words) if word in STARTS) + 1 :])
    command = SNF
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            raise ValueError(f"{' '.join(words)}: expected one of {', '.join(command.commands)}, got {rest[0]}")
        command = command.commands[rest.pop(0)]
    assert isinstance(command, TyperCommand | TyperGroup)
    return command, rest


def parse(words: Sequence[str]) -> None:
    """Parse a complete command without running it."""
    command, rest = find_command(words)
    command.make_context(command.name, rest)


def options(command: TyperCommand | TyperGroup = SNF) -> Iterator[str]:
    """Return the options of a command and of its commands, such as ``--json`` and ``-m``."""
    yield "--help"
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            yield from options(inner)
