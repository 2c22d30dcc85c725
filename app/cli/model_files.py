# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""`snf models card`, `audit`, `export`, `import`: what a model's files say, and taking them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import completion
from app.cli.common import ANOMALY, USAGE, Json, Key, Url, errors_for_people, fail, print_answer, settings
from app.cli.jobs import ServiceUrl
from app.cli.model_tables import print_audit
from app.cli.progress import bytes_bar, images_bar, waiting
from app.cli.remote import service, this_machine

if TYPE_CHECKING:
    from app.audits.schemas import Audit
    from models.registry.registry import Registry

NewName = Annotated[str, typer.Argument(help="The name that it becomes the next version of.", show_default=False)]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="NAME, NAME:VERSION or NAME@ALIAS.",
        show_default=False,
        autocompletion=completion.models,
    ),
]


def card(model: Ref, url: Url = None, key: Key = None) -> None:
    """Read the card of a model: what it is, how well it does, how it was trained, what it cannot do."""
    if url:
        with service(url, key) as client:
            text = client.models.card(model)
    else:
        with errors_for_people():
            from models.artifacts.files import CARD, read_file

            text = read_file(_folder(model), CARD).decode(errors="replace")
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text, nl=False)


def audit(
    model: Ref,
    n: Annotated[int, typer.Option("-n", min=1, max=16, help="Number of images.")] = 4,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score images of a model again in float64 with nothing cached; exit code 1 where the numbers do not agree."""
    if url:
        with service(url, key) as client, waiting(f"auditing {model}"):
            found = client.models.audit(model, n=n)
    else:
        with errors_for_people(), images_bar("auditing", n) as advance:
            found = _audit(model, n, advance)
    if as_json:
        print_answer(found)
    else:
        print_audit(found)
    if not found.agrees:
        raise typer.Exit(ANOMALY)


def export(
    model: Ref,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The tar. [default: NAME-VERSION.tar]")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write a version of a model into a tar, which `snf models import` takes."""
    target = out or Path(f"{model.replace(':', '-').replace('@', '-')}.tar")
    if not target.absolute().parent.is_dir():
        raise fail(f"the folder of {target} does not exist", USAGE)
    if url:
        with service(url, key) as client, waiting(f"fetching {model}"):
            client.models.download(model, target)
    else:
        with errors_for_people():
            from models.artifacts.tar import pack

            pieces = pack(_folder(model))
            with target.open("wb") as file:
                file.writelines(pieces)
    typer.echo(f"{model} is in {target}")


def import_model(
    name: NewName,
    tar: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `snf models export` wrote.")],
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version the live one.")] = False,
    url: ServiceUrl = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Bring a model into a running service as the next version of a name; the service verifies it first."""
    with service(this_machine(url), key) as client, bytes_bar("sending", "verifying the model") as told:
        found = client.models.upload(name, tar, promote=promote, progress=told)
    if as_json:
        print_answer(found)
    else:
        typer.echo(f"registered {found.name}:{found.version}")


def registry() -> Registry:
    """The registry of this machine."""
    from models.registry.registry import Registry

    return Registry(settings().registry_dir)


def _audit(model: str, n: int, advance: Callable[[int], None]) -> Audit:
    from app.audits.views import audit_view
    from app.registry.model_pool import Loaded
    from models.audit import audit as run
    from models.scorer import Scorer

    version = registry().resolve(model)
    loaded = Loaded(version, Scorer.load(version.path, version.calibration_path, settings().engine_options))
    audited = []
    for index in range(n):
        audited.append(run(loaded.scorer, index))
        advance(1)
    return audit_view(loaded, audited)


def _folder(model: str) -> Path:
    from models.naming import parse_ref
    from models.registry.calibrations import OWN

    here = registry()
    # Whatever state its calibrations are in, a model has its files.
    return here.with_calibration(*here.locate(parse_ref(model)), OWN).path
