# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Lists of models and of their calibrations, as tables or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.cli.common import Json, Key, Url, errors_for_people, print_answer, settings
from app.cli.remote import service

if TYPE_CHECKING:
    from app.audits.schemas import Audit
    from app.calibrations.schemas import CalibrationList, CalibrationView, Threshold

SHOWN_ALPHA = 0.01
"""The false-alarm rate that tables give advice for; JSON has several."""
STYLES = {"ready": "green", "yes": "green", "loading": "cyan", "failed": "bold red"}


def list_models(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models."""
    if url:
        with service(url, key) as client:
            found = client.models.list()
    else:
        with errors_for_people():
            from app.registry.model_pool import ModelPool
            from app.registry.schemas import ModelPage
            from app.registry.views import summary
            from models.registry.registry import Registry

            listing = ModelPool(Registry(settings().registry_dir), settings().engine_options).listing()
            found = ModelPage(models=[summary(one) for one in listing])
    if as_json:
        print_answer(found)
        return
    _table(
        ("name", "versions", "live", "architecture", "image", "test bits/dim", "state"),
        [
            (
                one.name,
                " ".join(map(str, one.versions)),
                str(one.aliases.get("live", "")),
                one.architecture or "",
                "x".join(map(str, one.image_shape or [])),
                "" if one.test_bits_per_dim is None else f"{one.test_bits_per_dim:.4f}",
                one.reason or one.state,
            )
            for one in found.models
        ],
    )


def print_calibrations(found: CalibrationList) -> None:
    """Prints the calibrations of a version as a table."""
    _table(
        ("calibration", "dataset", "images", "precision", "smallest alpha", "p that keeps 1 % (95 % sure)", "in use"),
        [
            (
                str(one.number),
                one.problem or one.dataset or "",
                "" if one.problem else f"{one.statistics_images} + {one.calibration_images}",
                "" if one.problem else _precision(one),
                "" if one.smallest_p is None else f"{one.smallest_p:.4g}",
                _advice(one.thresholds),
                "yes" if one.active else "",
            )
            for one in found.calibrations
        ],
    )


def print_audit(found: Audit) -> None:
    """Prints both numbers of every image and of the log-determinants, and whether they agree."""
    rows = [
        (f"{one.source} {one.index}", f"{one.log_likelihood:.6f}", f"{one.recomputed:.6f}", f"{one.difference:+.1e}")
        for one in found.images
    ]
    total = found.total
    rows.append(("log-determinants", f"{total.cached:.6f}", f"{total.recomputed:.6f}", f"{total.difference:+.1e}"))
    _table(("nats", "with what is cached", "computed anew", "difference"), rows)
    verdict = "agree" if found.agrees else "do NOT agree"
    print(
        f"{found.model}:{found.version} on {found.engine} in {found.precision}: the numbers {verdict}; "
        f"{found.tolerance:.1e} nats are allowed"
    )


def _precision(one: CalibrationView) -> str:
    if one.deviation is None:
        return str(one.precision)
    return f"{one.precision} ± {one.deviation.median:.2g} nats"


def _advice(thresholds: list[Threshold]) -> str:
    one = next((one for one in thresholds if one.alpha == SHOWN_ALPHA), None)
    if one is None:
        return ""
    return f"needs {one.images_needed} images" if one.threshold is None else f"{one.threshold:.4g}"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # What is in use, ready or failed is seen at a glance.
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    Console().print(table)
