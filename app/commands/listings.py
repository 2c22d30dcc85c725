# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf models`: what there is."""

from __future__ import annotations

from app.commands.common import Json, Key, Url, errors_for_people, print_json, settings


def models(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the models."""
    with errors_for_people():
        if url:
            from app.commands.remote import Remote

            found = Remote(url, key).call("GET", "/v1/models").json()["models"]
        else:
            from app.model_views import summary
            from app.serving import Serving

            listing = Serving(settings().registry_dir).listing()
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


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
