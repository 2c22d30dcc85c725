from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import Json, Key, ServiceUrl, fail, print_json, print_response
from app.cli.model_files import Ref
from app.cli.remote import service, service_url
from app.cli.tables import TableColumn, print_table
from snf_runtime.judged_counts import USAGE

if TYPE_CHECKING:
    from snf_client.schemas import Drift, Martingale

COLUMNS = (
    TableColumn("images of", fold=16),
    TableColumn("verdict", fold=16),
    TableColumn("newest", right=True, drop=2),
    TableColumn("p-value", right=True),
    TableColumn("p-value of light", right=True, fold=8),
    TableColumn("capital", right=True),
    TableColumn("highest", right=True, drop=1),
    TableColumn("of images", right=True, fold=6, drop=3),
)


def drift(
    model: Ref,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge", help="End the alarm of a --source, or of all sources together, and start its tests anew."
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

    With --acknowledge, end an alarm: the tests start anew at the next image.
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
        print_table(COLUMNS, [_row(window) for window in report.drift])
    else:
        typer.echo(f"no image was scored by {report.model}:{report.version} with calibration {report.calibration} yet")


def _print_acknowledged(model: str, source: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"acknowledged": model, "source": source})
    else:
        typer.echo(f"acknowledged drift of {model}: {'all sources together' if source is None else source}")


def _row(window: Drift) -> tuple[str, ...]:
    capital, highest, images = _bets(window.martingale)
    return (
        window.source or "all sources",
        _verdict(window),
        str(window.images),
        "" if window.p_value is None else f"{window.p_value:.2g}",
        "" if window.white_level is None else f"{window.white_level.p_value:.2g}",
        capital,
        highest,
        images,
    )


def _verdict(window: Drift) -> str:
    if window.alarm and window.alarm_since is not None:
        return f"drift since {window.alarm_since:%Y-%m-%d %H:%M} by {', '.join(window.alarm_by)}"
    return "too few images" if window.p_value is None else "no drift"


def _bets(martingale: Martingale | None) -> tuple[str, str, str]:
    if martingale is None:
        return "", "", ""
    return f"10^{martingale.log10_capital:.1f}", f"10^{martingale.log10_highest:.1f}", str(martingale.images)
