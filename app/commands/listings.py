# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Lists of models and of their calibrations, as tables or JSON."""

from __future__ import annotations

from typing import Any

from app.commands.common import Json, Key, Url, errors_for_people, print_json, settings

SHOWN_ALPHA = 0.01
"""The false-alarm rate that tables give advice for; JSON has several."""


def list_models(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models."""
    with errors_for_people():
        if url:
            from app.commands.remote import Remote

            found = Remote(url, key).call("GET", "/v1/models").json()["models"]
        else:
            from app.model_views import summary
            from app.serving import Serving

            listing = Serving(settings().registry_dir, settings().engine_options).listing()
            found = [summary(one).model_dump() for one in listing]
    if as_json:
        print_json({"models": found})
        return
    _table(
        ("name", "versions", "live", "architecture", "image", "test bits/dim", "state"),
        [
            (
                one["name"],
                " ".join(map(str, one["versions"])),
                str(one["aliases"].get("live", "")),
                one["architecture"] or "",
                "x".join(map(str, one["image_shape"] or [])),
                "" if one["test_bits_per_dim"] is None else f"{one['test_bits_per_dim']:.4f}",
                one["reason"] or one["state"],
            )
            for one in found
        ],
    )


def print_calibrations(found: dict[str, Any]) -> None:
    """Prints the calibrations of a version as a table."""
    _table(
        ("calibration", "dataset", "images", "smallest alpha", "p that keeps 1 % (95 % sure)", "in use"),
        [
            (
                str(one["number"]),
                one["problem"] or one["dataset"],
                "" if one["problem"] else f"{one['statistics_images']} + {one['calibration_images']}",
                "" if one["problem"] else f"{one['smallest_p']:.4g}",
                _advice(one["thresholds"]),
                "yes" if one["active"] else "",
            )
            for one in found["calibrations"]
        ],
    )


def _advice(thresholds: list[dict[str, Any]]) -> str:
    one = next((one for one in thresholds if one["alpha"] == SHOWN_ALPHA), None)
    if one is None:
        return ""
    return f"needs {one['images_needed']} images" if one["threshold"] is None else f"{one['threshold']:.4g}"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
