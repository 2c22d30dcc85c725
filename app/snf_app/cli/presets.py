# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import typer

from snf_app.cli import completion
from snf_app.cli.common import Json, Key, Url, error_messages, fail, print_json, refuse_before_subcommand, require_local
from snf_app.cli.remote import service
from snf_app.cli.tables import TableColumn, print_table
from snf_runtime.errors import USAGE

LOCAL = "it shows the layers of the packages that are installed here"
HELP = "List presets and layer types, and print a preset as an architecture file. Without a subcommand: list."
presets = typer.Typer(help=HELP, invoke_without_command=True)

Name = Annotated[str, typer.Argument(help="Name of the preset.", show_default=False, autocompletion=completion.presets)]


@presets.callback(help=HELP)
def list_by_default(context: typer.Context, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Run ``snf presets list`` if ``snf presets`` is called without a subcommand."""
    if context.invoked_subcommand is None:
        list_presets(url, key, as_json)
    else:
        refuse_before_subcommand(context)


@presets.command("list")
def list_presets(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the training presets: name, kind of architecture, linear layers and purpose."""
    from snf_models.pipeline.presets import PRESETS

    columns = ("name", "family", "linear", "purpose")
    presets: Iterable[object] = PRESETS.values()
    if url:
        with service(url, key) as client:
            presets = client.presets().presets
    rows = [tuple(str(getattr(preset, column)) for column in columns) for preset in presets]
    if as_json:
        print_json({"presets": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_table([TableColumn(name, fold=20 if name == "purpose" else None) for name in columns], rows)


@presets.command()
def show(
    name: Name,
    image_shape: Annotated[
        str, typer.Option(help="Channels, height and width of the images.", metavar="CxHxW")
    ] = "1x28x28",
) -> None:
    """Print a preset as an architecture file in JSON, with all layers, for `snf train --architecture`."""
    require_local("snf presets show", LOCAL)
    from snf_models.flows.architecture import FeatureArchitecture, HybridArchitecture
    from snf_models.pipeline.architecture_file import document_of
    from snf_models.pipeline.presets import find_preset

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
    from snf_models.flows.layers import layer_types
    from snf_models.texts import value_text

    rows = []
    for layer_type in layer_types():
        fields = {name: field for name, field in layer_type.model_fields.items() if name != "type"}
        parameters = ", ".join(
            name if field.is_required() else f"{name}={value_text(field.default)}" for name, field in fields.items()
        )
        summary = (layer_type.__doc__ or "").strip().partition("\n")[0]
        rows.append((layer_type.type_name(), parameters, summary))
    if as_json:
        print_json({"layers": [dict(zip(("type", "parameters", "summary"), row, strict=True)) for row in rows]})
    else:
        print_table((TableColumn("type"), TableColumn("parameters", fold=18), TableColumn("what it is", fold=18)), rows)
