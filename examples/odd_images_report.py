"""The report of `odd_images.py`: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from odd_images_verdicts import Judged
from PIL import Image

from app.scoring.schemas import FailedImage, ScoredImage
from snf_client import Client, heat_map_png

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
    doubted: list[Judged],
    strangest: list[Judged],
    failed: dict[Path, FailedImage],
    count: int,
) -> None:
    """Writes the report; `models` are by label, and `trained` says whether on these very images."""
    shown = doubted + strangest
    page = TEMPLATES.get_template("odd_images.html.jinja").render(
        folder=folder,
        models=models,
        trained=trained,
        doubted=doubted,
        strangest=strangest,
        failed=failed,
        count=count,
        pictures={one.path: _thumbnail(one.path) for one in shown},
        heat_maps=_heat_maps(client, models, shown),
    )
    target.write_text(page, encoding="utf-8")


def _heat_maps(client: Client, models: dict[str, str], shown: list[Judged]) -> dict[Path, str]:
    """Where each image is unusual under the model of its label."""
    found = {}
    for label, model in models.items():
        paths = [one.path for one in shown if one.label == label]
        for path, scored in zip(paths, client.score_each(model, paths, explain=True), strict=True):
            if isinstance(scored, ScoredImage) and scored.heat_map is not None:
                found[path] = _uri(heat_map_png(scored.heat_map))
    return found


def _thumbnail(path: Path) -> str:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return _uri(buffer.getvalue())


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
