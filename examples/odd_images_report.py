"""The report of `odd_images.py`: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from app.client import Client, heat_map_png
from app.schemas import FailedImage, ScoredImage

THUMBNAIL = 112
"""Longest side of a thumbnail, pixels."""
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True)
class Judged:
    """An image under the model of its label, and under the one that suits it better where its label is doubted."""

    path: Path
    label: str
    own: ScoredImage
    looks_like: str | None = None
    other: ScoredImage | None = None

    @property
    def evidence(self) -> float:
        """Evidence against the image in nats; where its label is doubted, how much less there is under the other."""
        return self.own.anomaly.statistic - (self.other.anomaly.statistic if self.other else 0.0)

    @property
    def reasons(self) -> list[str]:
        """What speaks against the image, in words."""
        return [reason.text for reason in self.own.anomaly.reasons or []]


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
