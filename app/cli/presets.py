# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf presets``: list presets and layer types, and print a preset as an architecture file."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from app.cli import completion
from app.cli.common import USAGE, Json, error_messages, fail, print_json, print_rows

HELP = "List presets and layer types, and print a preset as an architecture file. Without a subcommand: list."
presets = typer.Typer(help=HELP, invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="Name of the preset.", show_default=False, autocompletion=completion.presets)]


@presets.callback(help=HELP)
def list_by_default(context: typer.Context, as_json: Json = False) -> None:
    """Run ``snf presets list`` if ``snf presets`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_presets(as_json)


@presets.command("list")
def list_presets(as_json: Json = False) -> None:
    """List the presets: name, kind of architecture, linear layers and purpose."""
    from models.training.presets import PRESETS

    columns = ("name", "family", "linear", "purpose")
    rows = [tuple(getattr(preset, column) for column in columns) for preset in PRESETS.values()]
    if as_json:
        print_json({"presets": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_rows(columns, rows)


@presets.command()
def show(
    name: Name,
    image_shape: Annotated[
        str, typer.Option(help="Channels, height and width of the images.", metavar="CxHxW")
    ] = "1x28x28",
) -> None:
    """Print a preset as the JSON of an architecture file with all of its layers, for `snf train --architecture`."""
    from models.flows.architecture import FeatureArchitecture, HybridArchitecture
    from models.training.architecture_file import document_of
    from models.training.presets import find_preset

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
    """List the layer types of architecture files with their parameters, those of installed packages too."""
    from models.flows.layers.spec import layer_types

    rows = []
    for layer_type in layer_types():
        fields = {name: field for name, field in layer_type.model_fields.items() if name != "type"}
        defaults = {name: None if field.is_required() else field.default for name, field in fields.items()}
        parameters = ", ".join(name if value is None else f"{name}={value}" for name, value in defaults.items())
        summary = (layer_type.__doc__ or "").strip().partition("\n")[0]
        rows.append((layer_type.type_name(), parameters, summary))
    columns = ("type", "parameters", "what it is")
    if as_json:
        print_json({"layers": [dict(zip(("type", "parameters", "summary"), row, strict=True)) for row in rows]})
    else:
        print_rows(columns, rows)
