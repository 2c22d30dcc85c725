from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from snf_app.cli.common import Json, Key, ServiceUrl, fail, print_json, print_response
from snf_app.cli.model_files import Ref
from snf_app.cli.remote import service, service_url
from snf_app.cli.tables import TableColumn, print_table
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client.schemas.models import Drift

COLUMNS = (
    TableColumn("images of", fold=16),
    TableColumn("verdict", fold=16),
    TableColumn("images", right=True, drop=3),
    TableColumn("capital", right=True, drop=2),
    TableColumn("highest", right=True),
    TableColumn("alarm from", right=True, drop=1),
    TableColumn("bet on", fold=11),
)


def drift(
    model: Ref,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge", help="End the alarm of a --source, or of all sources together, and start its test anew."
        ),
    ] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="Source whose alarm is acknowledged.", show_default=False)
    ] = None,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show whether the images that a service scored with a model differ from its calibration images.

    Only images that name a source, such as a camera, are watched. The result is shown for all sources together and for
    each source.

    With --acknowledge, end an alarm: the test starts anew at the next image.
    """
    if source is not None and not acknowledge:
        raise fail("--source names what is acknowledged: add --acknowledge", USAGE)
    with service(service_url(url), key) as client:
        if acknowledge:
            client.models.acknowledge_drift(model, source)
            _print_acknowledged(model, source, as_json)
            return
        report = client.models.drift(model)
    if as_json:
        print_response(report)
    elif report.drift:
        print_table(COLUMNS, [_row(drift) for drift in report.drift])
    else:
        typer.echo(f"no image was scored by {report.model}:{report.version} with calibration {report.calibration} yet")


def _print_acknowledged(model: str, source: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"acknowledged": model, "source": source})
    else:
        typer.echo(f"acknowledged drift of {model}: {'all sources together' if source is None else source}")


def _row(drift: Drift) -> tuple[str, ...]:
    return (
        drift.source or "all sources",
        "no drift" if drift.alarm_since is None else f"drift since {drift.alarm_since:%Y-%m-%d %H:%M}",
        str(drift.images),
        *(f"10^{log10:.1f}" for log10 in (drift.log10_capital, drift.log10_highest, drift.log10_threshold)),
        drift.quantity,
    )
