"""Command ``snf datasets``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal

from snf_app.cli import completion
from snf_app.cli.common import ListingGroup, fail, read_settings
from snf_app.cli.output import Cell, Force, TableColumn, bytes_bar, check_new, print_facts, print_table, write_out
from snf_app.cli.service import Session, command, print_deleted
from snf_client import NotFound
from snf_client.images import split_paths
from snf_client.schemas.datasets import DatasetDetail, DatasetEntry, DatasetList, Duplicates
from snf_models.datasets import DatasetStore, Source
from snf_models.locations.location import Location
from snf_runtime.errors import USAGE
from snf_worker.sandbox.uploads import LOCAL_SECONDS, ingest
from snf_worker.sandbox.uploads import refer as index
from snf_worker.settings import Settings

MAX_ROWS = 10
KINDS = {"image": "image files", "tar": "tar archives", "parquet": "Parquet files"}
"""What the kinds of files of a dataset by reference are called."""
MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "palette",
    "RGB": "colour",
    "RGBA": "colour with transparency",
    "I;16": "16-bit grey",
}
PARTS = ("train", "statistics", "calibration", "test")


def _alike(alike: Duplicates, what: str) -> str:
    if not alike.images:
        return "none"
    return f"{alike.images} images in {alike.sets} {what}{'' if alike.sets == 1 else 's'}"


def _parts(dataset: DatasetEntry) -> str:
    counts = {part: getattr(dataset, part) for part in PARTS if getattr(dataset, part)}
    if dataset.folds:
        counts[f"reference in {dataset.folds} folds"] = counts.pop("statistics")
    return " / ".join(f"{count} {part}" for part, count in counts.items())


def _shape(sides: list[int]) -> str:
    return "x".join(map(str, sides))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


DATASETS = (
    TableColumn("name", lambda dataset: dataset.name, fold=20),
    TableColumn("origin", lambda dataset: dataset.origin, drop=2),
    TableColumn("image", lambda dataset: _shape(dataset.image_shape) or "not inspected"),
    TableColumn("images", lambda dataset: dataset.images, right=True),
    TableColumn("split", lambda dataset: _parts(dataset) or "only to score", fold=20, drop=3),
    TableColumn("size", lambda dataset: decimal(dataset.bytes), right=True, drop=1),
)


def print_datasets(page: DatasetList) -> None:
    """Print a table of the usable datasets on stdout, and the reasons of the others on stderr."""
    print_table(DATASETS, [dataset for dataset in page.datasets if dataset.problem is None])
    for dataset in page.datasets:
        if dataset.problem is not None:
            typer.echo(f"snf: {dataset.name} cannot be used: {dataset.problem}", err=True)


def print_report(dataset: DatasetDetail) -> None:
    """Print the counts and sizes of a dataset, with duplicates and rejected files where known."""
    report, reference = dataset.report, dataset.reference
    facts: dict[str, Cell] = {"images": dataset.images}
    if dataset.image_shape:
        sizes = dict.fromkeys((_shape(dataset.smallest), _shape(dataset.largest)))
        facts |= {
            "split": _parts(dataset),
            "sizes": " to ".join(sizes),
            "model input": f"{_shape(dataset.image_shape)} (channels, height, width) by default",
        }
    facts["originals"] = decimal(dataset.bytes)
    if reference is not None:
        facts |= {
            "location": reference.location,
            "files": ", ".join(f"{count} {KINDS[kind]}" for kind, count in reference.files.items()),
            "inspected": "no: only jobs of type score take it" if report is None else "yes",
        }
    if report is not None:
        facts |= {
            "formats": _counts(report.formats),
            "colours": _counts({MODES.get(mode, mode): count for mode, count in report.modes.items()}),
            "duplicates": _alike(report.duplicates, "set"),
            "near duplicates": _alike(report.near_duplicates, "pair"),
        }
    if left_out := report or reference:
        facts |= {"rejected files": left_out.rejected, "ignored files": left_out.ignored}
    print_facts(facts, dataset.name)
    if report is not None:
        _print_first("size", "images", [(f"{size.width}x{size.height}", str(size.images)) for size in report.sizes])
        for title, alike in (("duplicates", report.duplicates), ("near duplicates", report.near_duplicates)):
            _print_first(title, "", [(paths[0], ", ".join(paths[1:])) for paths in alike.examples], alike.sets)
    if left_out:
        rejected = [(file.path, file.reason) for file in left_out.rejected_files]
        _print_first("rejected", "reason", rejected, left_out.rejected)
    for note in report.notes if report is not None else ():
        _print_line(f"- {note}")


def _print_first(first: str, second: str, rows: list[tuple[str, str]], total: int | None = None) -> None:
    if not rows:
        return
    print_table((TableColumn(first, fold=24), TableColumn(second, fold=24)), rows[:MAX_ROWS])
    more = (total or len(rows)) - MAX_ROWS
    if more > 0:
        _print_line(f"  and {more} more; --json has {len(rows)} of them")


def _print_line(line: str) -> None:
    Console().print(line, markup=False, highlight=False)


commands = typer.Typer(rich_markup_mode="markdown")
datasets = typer.Typer(cls=ListingGroup)
commands.add_typer(datasets, name="datasets")

Name = Annotated[str, typer.Argument(help="Name of the dataset.", autocompletion=completion.datasets)]
NewName = Annotated[str, typer.Argument(help="Name of the dataset.")]


@command(datasets, "list", show=print_datasets)
def list_datasets(session: Session) -> DatasetList:
    """List the datasets for training or scoring: origin, image shape, number of images, split and size."""
    return session.client.datasets.list()


@command(datasets, show=print_report)
def show(session: Session, name: Name) -> DatasetDetail:
    """Show a dataset's number of images, their sizes, and their split for training, calibration and testing.

    Near duplicates are shown if the images were uploaded or inspected, and rejected files for all but built-in
    datasets.
    """
    return session.client.datasets.get(name)


@command(datasets, show=print_report)
def upload(
    session: Session,
    name: NewName,
    paths: Annotated[list[Path], typer.Argument(help="Folders, image files, zip or tar archives, npz or npy files.")],
    near_duplicates: Annotated[
        Literal["keep", "drop"],
        typer.Option(help="drop leaves out all but the first of images that are alike; the report lists each."),
    ] = "keep",
) -> DatasetDetail:
    """Store images or archives as a new dataset, here or in a running service, and show its validation report."""
    existing = session.client.datasets
    if session.url:
        # Asked first, so that a long upload is not refused at its end.
        with suppress(NotFound):
            existing.get(name)
            raise fail(f"the dataset {name!r} exists; choose another name or delete it first", USAGE)
        with bytes_bar("sending") as update:
            return existing.upload(name, paths, near_duplicates=near_duplicates, progress=update)
    # Read where they are, without a copy for a request.
    images, archives = split_paths(paths)
    sources = [Source(path, image_name) for image_name, path in images.items()]
    sources += [Source(path, path.name) for path in archives]
    settings = read_settings()
    with bytes_bar("reading") as update:
        ingest(_store(settings), name, sources, settings, update, near_duplicates)
    return existing.get(name)


@command(datasets, show=print_report)
def refer(
    session: Session,
    name: NewName,
    location: Annotated[
        str,
        typer.Argument(
            help="Folder of images, tar archives (WebDataset) and Parquet files, or one such file: s3://bucket/folder, "
            "gs://, az://, file:///folder or, without --url, a path."
        ),
    ],
    column: Annotated[
        str | None, typer.Option(help="Column of Parquet files with the images; by default found by its type.")
    ] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Read every image once, as jobs of other types than score need.")
    ] = False,
) -> DatasetDetail:
    """Create a dataset of images at a path or URL, without copying them.

    The dataset is created here or in a running service, and its summary is shown.
    """
    existing = session.client.datasets
    if session.url:
        return existing.refer(name, location, column=column, inspect=inspect)
    # A path of this machine, which a service refuses.
    settings, place, seconds = read_settings(), Location.parse(location), LOCAL_SECONDS
    with bytes_bar("reading") as update:
        index(_store(settings), name, place, settings, update, column=column, inspect=inspect, seconds=seconds)
    return existing.get(name)


@command(datasets, show=print_deleted)
def delete(session: Session, name: Name) -> dict[str, str]:
    """Delete a dataset, but not the models that were trained on it.

    The images of a dataset by reference are kept, too.

    Exit code 2: an unfinished job uses it.
    """
    session.client.datasets.delete(name)
    return {"deleted": name}


@command(datasets, "contact-sheet", as_json=False)
def contact_sheet(
    session: Session,
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file.")] = Path("contact-sheet.png"),
    force: Force = False,
) -> None:
    """Write one PNG picture that shows up to 100 images of an uploaded dataset."""
    check_new(out, (".png",), force=force)
    write_out(out, session.client.datasets.contact_sheet(name))
    typer.echo(f"the images are in {out}")


def _store(settings: Settings) -> DatasetStore:
    return DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
