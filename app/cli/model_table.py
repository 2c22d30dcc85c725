# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""What a model is and how good it is, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.common import SERVICE, fail
from app.cli.progress import duration

if TYPE_CHECKING:
    from app.registry.schemas import ModelDetail


def print_model(model: ModelDetail) -> None:
    """Prints the facts of a version; those that are unknown are left out."""
    from pydantic import ValidationError
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from models.artifacts.manifest import Manifest

    try:
        manifest = Manifest.model_validate(model.manifest)
    except ValidationError as error:
        why = f"the manifest of {model.name}:{model.version} is of another version of this program"
        raise fail(f"{why}; --json prints it as it is", SERVICE) from error
    architecture, training, found = manifest.architecture, manifest.training, manifest.evaluation
    calibration, serving = model.calibration, model.serving
    rows = {
        "architecture": f"{architecture.summary()} ({training.preset})",
        "images": "x".join(map(str, architecture.image_shape)),
        "trained on": f"{training.dataset}, {training.train_images:,} images",
        "training": f"{training.steps:,} steps in {duration(training.seconds)}, best at {training.best_step:,}",
        "made": f"{manifest.created:%Y-%m-%d %H:%M} UTC",
        "test": _measured(found.test_bits_per_dim, found.test_images),
        "validation": _measured(found.validation_bits_per_dim, None),
        "error of learned inverses": _number(found.reconstruction_error, ".2e"),
        "log-determinants": f"{manifest.log_dets.total:.6f} nats, of weights {manifest.log_dets.weights_sha256[:12]}",
        "calibration in use": f"{calibration.number}: {calibration.problem or calibration.dataset}",
        "smallest alpha": _number(calibration.smallest_p, ".4g"),
        "served by": "" if serving is None else f"{serving.engine} in {serving.precision}, tiles of {serving.tile}",
        "drift": ", ".join(one.source or "all images" for one in model.drift if one.alarm),
    }
    table = Table(title=f"{model.name}:{model.version}", title_justify="left", show_header=False)
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value, overflow="fold"))
    Console().print(table)


def _measured(bits: float | None, images: int | None) -> str:
    of = f" on {images:,} images" if images else ""
    return "" if bits is None else f"{bits:.4f} bits/dim{of}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
