"""Report of ``odd_images.py`` as a single HTML file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from odd_images_verdicts import Verdict
from PIL import Image, ImageOps

from snf_client import Client, heat_map_png
from snf_client.schemas.scores import FailedImage, ScoredImage

THUMBNAIL = 112
"""Longest side of a thumbnail, pixels."""
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def write_report(
    target: Path,
    client: Client,
    folder: Path,
    models: dict[str, str],
    *,
    trained: bool,
    doubted: list[Verdict],
    strangest: list[Verdict],
    failed: dict[Path, FailedImage],
    count: int,
) -> None:
    """Write the report.

    Args:
        target: HTML file.
        client: Client that computes the heat maps.
        folder: Folder of the images.
        models: Model of each label.
        trained: Whether the models were trained on these images.
        doubted: Images whose label is doubted.
        strangest: The strangest of the other images.
        failed: Images that could not be scored.
        count: Number of images in all.
    """
    shown = doubted + strangest
    page = TEMPLATES.get_template("odd_images.html.jinja").render(
        folder=folder,
        models=models,
        trained=trained,
        doubted=doubted,
        strangest=strangest,
        failed=failed,
        count=count,
        pictures={verdict.path: _thumbnail(verdict.path) for verdict in shown},
        heat_maps=_heat_maps(client, models, shown),
    )
    target.write_text(page, encoding="utf-8")


def _heat_maps(client: Client, models: dict[str, str], shown: list[Verdict]) -> dict[Path, str]:
    """Return the heat map of each image under the model of its label, as a data URI."""
    heat_maps = {}
    for label, model in models.items():
        paths = [verdict.path for verdict in shown if verdict.label == label]
        for path, scored in zip(paths, client.score_each(model, paths, explain=True), strict=True):
            if isinstance(scored, ScoredImage) and scored.heat_map is not None:
                heat_maps[path] = _uri(heat_map_png(scored.heat_map))
    return heat_maps


def _thumbnail(path: Path) -> str:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would make nearly all of it white
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        small = upright.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return _uri(buffer.getvalue())


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
