from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal

from snf_app.cli import completion
from snf_app.cli.common import Json, Key, ListingGroup, Url, fail, print_deleted, print_result, read_settings
from snf_app.cli.output import Force, TableColumn, bytes_bar, check_new, print_facts, print_table, write_out
from snf_app.cli.service import service
from snf_client import NotFound
from snf_client.images import split_paths
from snf_client.schemas.datasets import DatasetDetail, DatasetEntry, Duplicates
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


def print_datasets(datasets: Sequence[DatasetEntry]) -> None:
    """Print a table of the usable datasets on stdout, and the reasons of the others on stderr."""
    rows = [
        (
            dataset.name,
            dataset.origin,
            _shape(dataset.image_shape) or "not inspected",
            str(dataset.images),
            _parts(dataset) or "only to score",
            _bytes(dataset.bytes),
        )
        for dataset in datasets
        if dataset.problem is None
    ]
    columns = (
        TableColumn("name", fold=20),
        TableColumn("origin", drop=2),
        TableColumn("image"),
        TableColumn("images", right=True),
        TableColumn("split", fold=20, drop=3),
        TableColumn("size", right=True, drop=1),
    )
    print_table(columns, rows)
    for dataset in datasets:
        if dataset.problem is not None:
            typer.echo(f"snf: {dataset.name} cannot be used: {dataset.problem}", err=True)


def print_report(dataset: DatasetDetail) -> None:
    """Print the counts and sizes of a dataset, with duplicates and rejected files where known."""
    report, reference = dataset.report, dataset.reference
    facts = {"images": str(dataset.images)}
    if dataset.image_shape:
        facts |= {
            "split": _parts(dataset),
            "sizes": _range(dataset.smallest, dataset.largest),
            "model input": f"{_shape(dataset.image_shape)} (channels, height, width) by default",
        }
    facts["originals"] = _bytes(dataset.bytes)
    if reference is not None:
        facts |= {
            "location": reference.location,
            "files": ", ".join(f"{count} {KINDS[kind]}" for kind, count in reference.files.items()),
            "inspected": "no: only jobs of type score take it" if report is None else "yes",
        }
    if report is None:
        if reference is not None:
            facts |= {"rejected files": str(reference.rejected), "ignored files": str(reference.ignored)}
        print_facts(facts, dataset.name)
        if reference is not None:
            rejected = [(file.path, file.reason) for file in reference.rejected_files]
            _print_first("rejected", "reason", rejected, reference.rejected)
        return
    equal, near = report.duplicates, report.near_duplicates
    facts |= {
        "formats": _counts(report.formats),
        "colours": _counts({MODES.get(mode, mode): count for mode, count in report.modes.items()}),
        "duplicates": _alike(equal, "set"),
        "near duplicates": _alike(near, "pair"),
        "rejected files": str(report.rejected),
        "ignored files": str(report.ignored),
    }
    print_facts(facts, dataset.name)
    _print_first("size", "images", [(f"{size.width}x{size.height}", str(size.images)) for size in report.sizes])
    for title, duplicates in (("duplicates", equal), ("near duplicates", near)):
        _print_first(title, "", [(paths[0], ", ".join(paths[1:])) for paths in duplicates.examples], duplicates.sets)
    _print_first("rejected", "reason", [(file.path, file.reason) for file in report.rejected_files], report.rejected)
    for note in report.notes:
        _print_line(f"- {note}")


def _print_first(first: str, second: str, rows: list[tuple[str, str]], total: int | None = None) -> None:
    if not rows:
        return
    print_table((TableColumn(first, fold=24), TableColumn(second, fold=24)), rows[:MAX_ROWS])
    more = (total or len(rows)) - MAX_ROWS
    if more > 0:
        _print_line(f"  and {more} more; --json has {len(rows)} of them")


def _alike(alike: Duplicates, what: str) -> str:
    if not alike.images:
        return "none"
    return f"{alike.images} images in {alike.sets} {what}{'' if alike.sets == 1 else 's'}"


def _parts(dataset: DatasetEntry | DatasetDetail) -> str:
    counts = {part: getattr(dataset, part) for part in PARTS if getattr(dataset, part)}
    if dataset.folds:
        counts[f"reference in {dataset.folds} folds"] = counts.pop("statistics")
    return " / ".join(f"{count} {part}" for part, count in counts.items())


def _range(smallest: list[int], largest: list[int]) -> str:
    return " to ".join(dict.fromkeys(_shape(size) for size in (smallest, largest)))


def _shape(sides: list[int]) -> str:
    return "x".join(map(str, sides))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _bytes(count: int) -> str:
    return decimal(count)


def _print_line(line: str) -> None:
    Console().print(line, markup=False, highlight=False)


commands = typer.Typer(rich_markup_mode="markdown")
datasets = typer.Typer(cls=ListingGroup)
commands.add_typer(datasets, name="datasets")

Name = Annotated[
    str, typer.Argument(help="Name of the dataset.", show_default=False, autocompletion=completion.datasets)
]
NewName = Annotated[str, typer.Argument(help="Name of the dataset.", show_default=False)]


@datasets.command("list")
def list_datasets(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the datasets for training or scoring: origin, image shape, number of images, split and size."""
    with service(url, key) as client:
        listed = client.datasets.list()
    print_result(listed, as_json, lambda listed: print_datasets(listed.datasets))


@datasets.command()
def show(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a dataset's number of images, their sizes, and their split for training, calibration and testing.

    Near duplicates are shown if the images were uploaded or inspected, and rejected files for all but built-in
    datasets.
    """
    with service(url, key) as client:
        dataset = client.datasets.get(name)
    print_result(dataset, as_json, print_report)


@datasets.command()
def upload(
    name: NewName,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folders, image files, zip or tar archives, npz or npy files.", show_default=False),
    ],
    near_duplicates: Annotated[
        Literal["keep", "drop"],
        typer.Option(help="drop leaves out all but the first of images that are alike; the report lists each."),
    ] = "keep",
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Store images or archives as a new dataset, here or in a running service, and show its validation report."""
    with service(url, key) as client:
        if url:
            # Asked first, so that a long upload is not refused at its end.
            with suppress(NotFound):
                client.datasets.get(name)
                raise fail(f"the dataset {name!r} exists; choose another name or delete it first", USAGE)
            with bytes_bar("sending") as update:
                dataset = client.datasets.upload(name, paths, near_duplicates=near_duplicates, progress=update)
        else:
            # Read where they are, without a copy for a request.
            images, archives = split_paths(paths)
            sources = [Source(path, image_name) for image_name, path in images.items()]
            sources += [Source(path, path.name) for path in archives]
            settings = read_settings()
            with bytes_bar("reading") as update:
                ingest(_store(settings), name, sources, settings, update, near_duplicates)
            dataset = client.datasets.get(name)
    print_result(dataset, as_json, print_report)


@datasets.command()
def refer(
    name: NewName,
    location: Annotated[
        str,
        typer.Argument(
            help="Folder of images, tar archives (WebDataset) and Parquet files, or one such file: s3://bucket/folder, "
            "gs://, az://, file:///folder or, without --url, a path.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None, typer.Option(help="Column of Parquet files with the images; by default found by its type.")
    ] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Read every image once, as jobs of other types than score need.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Create a dataset of images at a path or URL, without copying them.

    The dataset is created here or in a running service, and its summary is shown.
    """
    with service(url, key) as client:
        if url:
            dataset = client.datasets.refer(name, location, column=column, inspect=inspect)
        else:
            # A path of this machine, which a service refuses.
            settings, place, seconds = read_settings(), Location.parse(location), LOCAL_SECONDS
            with bytes_bar("reading") as update:
                index(_store(settings), name, place, settings, update, column=column, inspect=inspect, seconds=seconds)
            dataset = client.datasets.get(name)
    print_result(dataset, as_json, print_report)


@datasets.command()
def delete(name: Name, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Delete a dataset, but not the models that were trained on it.

    The images of a dataset by reference are kept, too.

    Exit code 2: an unfinished job uses it.
    """
    with service(url, key) as client:
        client.datasets.delete(name)
    print_deleted(name, as_json=as_json)


@datasets.command("contact-sheet")
def contact_sheet(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file.")] = Path("contact-sheet.png"),
    force: Force = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write one PNG picture that shows up to 100 images of an uploaded dataset."""
    check_new(out, (".png",), force=force)
    with service(url, key) as client:
        content = client.datasets.contact_sheet(name)
    write_out(out, content)
    typer.echo(f"the images are in {out}")


def _store(settings: Settings) -> DatasetStore:
    return DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
