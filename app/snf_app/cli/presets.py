"""Commands ``snf presets`` and ``snf backbones``: what models are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from snf_app.cli import completion
from snf_app.cli.common import Json, ListingGroup, error_messages, fail, print_json, read_settings, require_local
from snf_app.cli.output import TableColumn, print_facts, print_table, spinner
from snf_app.cli.service import Session, command
from snf_models.errors import BackboneUnfit
from snf_models.features.backbones import LITE0, Backbone, BackboneStore
from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
from snf_models.flows.layers import layer_types
from snf_models.pipeline.architecture_file import document_of
from snf_models.pipeline.presets import find_preset
from snf_models.texts import value_text
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import user_umask
from snf_worker.sandbox.uploads import add_lite0, add_onnx

PRESET = ("name", "family", "linear", "purpose")  # shown fields of a preset
LOCAL = "it shows the layers of the packages that are installed here"
commands = typer.Typer(rich_markup_mode="markdown")
presets = typer.Typer(cls=ListingGroup)
commands.add_typer(presets, name="presets")
backbones = typer.Typer(cls=ListingGroup)
commands.add_typer(backbones, name="backbones")

PresetName = Annotated[str, typer.Argument(help="Name of the preset.", autocompletion=completion.presets)]


@command(presets, "list")
def list_presets(session: Session) -> None:
    """List the training presets: name, kind of architecture, linear layers and purpose."""
    shown = [preset.model_dump(include={*PRESET}) for preset in session.client.presets().presets]
    columns = [TableColumn(name, itemgetter(name), fold=20 if name == "purpose" else None) for name in PRESET]
    session.print({"presets": shown}, lambda _: print_table(columns, shown))


@presets.command()
def show(
    name: PresetName,
    image_shape: Annotated[
        str, typer.Option(help="Channels, height and width of the images.", metavar="CxHxW")
    ] = "1x28x28",
) -> None:
    """Print a preset as an architecture file in JSON, with all layers, for `snf train --architecture`."""
    require_local("snf presets show", LOCAL)
    given = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", image_shape)
    if given is None:
        raise fail(f"--image-shape: expected channels, height and width such as 1x28x28, got {image_shape!r}", USAGE)
    channels, height, width = map(int, given.groups())
    with error_messages():
        preset = find_preset(name)
        architecture = preset.architecture((channels, height, width), preset.config({}).pixel_transform)
    if isinstance(architecture, FeatureArchitecture | HybridArchitecture):
        raise fail(f"{name} has a frozen network and no architecture file", USAGE)
    print_json(document_of(architecture.layered(), f"my-{name}", preset.defaults))


@presets.command()
def layers(as_json: Json = False) -> None:
    """List the layer types that architecture files may use, with their parameters.

    Layer types of installed packages are included.
    """
    require_local("snf presets layers", LOCAL)
    rows = []
    for layer_type in layer_types():
        fields = {name: field for name, field in layer_type.model_fields.items() if name != "type"}
        parameters = ", ".join(
            name if field.is_required() else f"{name}={value_text(field.default)}" for name, field in fields.items()
        )
        summary = (layer_type.__doc__ or "").strip().partition("\n")[0]
        rows.append({"type": layer_type.type_name(), "parameters": parameters, "summary": summary})
    if as_json:
        print_json({"layers": rows})
    else:
        print_table(LAYERS, rows)


LAYERS = (
    TableColumn("type", itemgetter("type")),
    TableColumn("parameters", itemgetter("parameters"), fold=18),
    TableColumn("what it is", itemgetter("summary"), fold=18),
)

BackboneName = Annotated[str, typer.Argument(help="Name of the backbone.", autocompletion=completion.backbones)]


@backbones.command("list")
def list_backbones(as_json: Json = False) -> None:
    """List the backbones (frozen feature networks) of this machine: format, features, size, licence, SHA-256."""
    stored, damaged = [], []
    with _store() as store:
        for name in store.names():
            try:
                stored.append(store.find(name))
            except BackboneUnfit as error:
                damaged.append((name, error.detail))
        columns = (
            TableColumn("name", lambda backbone: backbone.name, fold=20),
            TableColumn("format", lambda backbone: backbone.format, drop=2),
            TableColumn("features", _features, fold=20, drop=4),
            TableColumn("size", lambda backbone: _size(backbone, store), right=True, drop=3),
            TableColumn("licence", lambda backbone: backbone.license, fold=10, drop=1),
            TableColumn("SHA-256", lambda backbone: backbone.sha256[:12]),
        )
    if as_json:
        print_json({"backbones": [backbone.model_dump(mode="json") for backbone in stored]})
    else:
        print_table(columns, stored)
    for name, reason in damaged:
        typer.echo(f"snf: {name} cannot be used: {reason}", err=True)


@backbones.command("show")
def show_backbone(name: BackboneName, as_json: Json = False) -> None:
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
    name: Annotated[str, typer.Argument(help="efficientnet-lite0, or a name for the network of --onnx.")],
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
    if (onnx is None) != (description is None):
        raise fail("expected both --onnx and --description, or none of them", USAGE)
    if (name == LITE0.name) != (onnx is None):
        raise fail(f"expected {LITE0.name} alone, or another name with --onnx and --description; got {name}", USAGE)
    with _store() as store, nullcontext() if quiet else spinner(f"adding {name}"):
        if onnx is None or description is None:
            backbone, added = LITE0, add_lite0(store)
        else:
            backbone, added = add_onnx(store, name, onnx, description.read_bytes())
    if as_json:
        print_json(backbone.model_dump(mode="json") | {"added": added})
    elif not quiet:
        done = "added" if added else "nothing to do: there is already"
        typer.echo(f"{done} {name}, SHA-256 {backbone.sha256}")


@contextmanager
def _store() -> Iterator[BackboneStore]:
    """Give the backbones of this machine; an error inside the block ends the command with a message."""
    require_local("snf backbones", "backbones are added on each machine that scores or trains")
    settings = read_settings()
    folder = settings.backbones_dir
    with error_messages(), nullcontext() if folder.is_relative_to(settings.home) else user_umask():
        try:
            yield BackboneStore(folder)
        except OSError as error:
            raise fail(f"{error.filename or folder}: {error.strerror}", FAILED) from error


def _features(backbone: Backbone) -> str:
    maps = " + ".join(str(output.channels) for output in backbone.maps)
    return f"{maps} at stride {backbone.stride}, {' + '.join(map(str, backbone.pooled_groups))} pooled"


def _size(backbone: Backbone, store: BackboneStore) -> str:
    try:
        return decimal(store.path(backbone).stat().st_size)
    except FileNotFoundError:
        return "missing"


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{value:g}" for value in values)
