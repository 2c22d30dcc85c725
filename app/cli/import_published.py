# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Command ``snf models import-published``: import a checkpoint of the code of Keller et al. (2021).

The paper is Self Normalizing Flows. The checkpoint becomes a calibrated model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from app.cli import completion
from app.cli.common import Json, error_messages, fail, read_settings, registry, require_local
from app.cli.live import live_view
from app.cli.model_files import NewName
from app.cli.train import print_version
from app.cli.train_parameters import given_parameters, read_config
from snf_runtime.judged_counts import USAGE


def import_published(
    name: NewName,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="Checkpoint that the published code wrote by torch.save.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Dataset of the same images that the flow was not trained on: calibrates and tests it.",
            autocompletion=completion.datasets,
        ),
    ],
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Its layers were trained by exact gradients: leave out their learned inverses."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="image_size, fit, colour or levels as NAME=VALUE.", metavar="NAME=VALUE"),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")] = False,
    as_json: Json = False,
) -> None:
    """Import a checkpoint of the published Self Normalizing Flows code as a calibrated model.

    The code is that of Keller et al. (2021). The model is registered.

    A checkpoint is a pickle, which can hold code. A process with limits reads its tensors alone, and runs none of it.
    The model has safetensors.

    A checkpoint does not say the size of its images: it comes from the dataset. Like a training, the import calibrates
    and tests the flow, and a flow that is unfit does not become live.
    """
    require_local("snf models import-published", "a checkpoint is not sent; export the model to another machine")
    from models.naming import NAME_RULE, is_name
    from models.published.model import recipe_of, write_model

    if not is_name(name):
        raise fail(f"expected {NAME_RULE}, got {name!r}", USAGE)
    config = read_config(recipe_of(), given_parameters(None, None, set_ or []))
    settings = read_settings(writes=True)

    with error_messages(), live_view(as_json) as observe, tempfile.TemporaryDirectory(prefix="snf-import-") as folder:
        from models.atomic_files import sha256_file
        from models.datasets import DatasetStore, load_dataset
        from worker.sandbox.convert_published import convert_published

        store = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        dataset = load_dataset(data, settings.data_dir, store, config)
        architecture, flow = convert_published(file, dataset.image_shape, exact=exact)
        observe({"event": "log", "message": f"read {architecture.summary()}; evaluates and calibrates"})
        source = f"{file.name} of the published code, SHA-256 {sha256_file(file)}"
        artifact = Path(folder, "artifact")
        write_model(artifact, flow, architecture, source, dataset, config, observe, settings.job_engine_options)
        version = registry().publish(artifact, name, promote=promote)
        live = registry().is_live(version)
    print_version(version, live, as_json)
