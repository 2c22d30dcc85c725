"""Command ``snf export``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from snf_app.cli.common import error_messages, fail, read_settings, require_local
from snf_app.cli.model_files import Ref
from snf_app.cli.out_file import ADVICE
from snf_app.cli.output import spinner
from snf_models.errors import ArtifactError
from snf_models.exports import export_model, require_export
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command("export")
def export_graphs(
    model: Ref,
    folder: Annotated[
        Path, typer.Argument(help="Folder to write, which the runner reads.", show_default=False, dir_okay=True)
    ],
    form: Annotated[
        Literal["openvino", "onnx"], typer.Option("--format", help="Format of the graphs; the runner reads both.")
    ] = "openvino",
    force: Annotated[
        bool, typer.Option("--force", help="Write over a folder that an export wrote; over no other one.")
    ] = False,
) -> None:
    """Export a model with its calibration in use to a folder, for scoring on machines without PyTorch.

    The runner of the package snf-density-runtime gives the same scores and verdicts. It has no samples and no
    pictures of heat maps.
    """
    require_local("snf export", "its process makes the graphs")
    _check_folder(folder, force=force)
    with error_messages():
        settings = read_settings()
        version = Registry(settings.registry_dir).resolve(model)
        with spinner(f"exporting {model}"), user_umask():
            # The stored image is scored by the engine of the runner, whatever the engine of the service is.
            options = replace(settings.engine_options, name="openvino", device="cpu")
            scorer = load_model(version.path, version.calibration_path, options)
            manifest = export_model(version, scorer, folder.absolute(), form, overwrite=force)
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    calibration = f"calibration {manifest.calibration.number} of {manifest.calibration.images} images"
    typer.echo(f"{version.name}:{version.version} with {calibration} is in {folder}, {size:.1f} MB")


def _check_folder(folder: Path, *, force: bool) -> None:
    if not folder.absolute().parent.is_dir():
        raise fail(f"expected a folder below one that exists, got {folder}; create {folder.parent} first", USAGE)
    if not (folder.exists() or folder.is_symlink()):
        return
    if not force:
        raise fail(f"{folder} exists already; {ADVICE}", USAGE)
    try:
        require_export(folder)
    except ArtifactError as error:
        raise fail(f"{folder} is no exported model, and is not written over: {error.detail}", USAGE) from error
