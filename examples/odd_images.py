"""Finds the odd images of a folder and, with --labels, those that lie in the wrong subfolder.

    python examples/odd_images.py photos                             # trains on photos, ranks photos
    python examples/odd_images.py digits --labels --max-minutes 3    # digits/1, digits/4, digits/7: one model each
    python examples/odd_images.py new-lot --model my-parts           # with a model of images that are known to be good

It prints a table of the strangest and writes a report, one HTML file. SNF_URL and SNF_API_KEY name the service.

How to read it: a p-value is honest for an image that the model has not seen; with --model, at most alpha of all good
images are flagged. Without it the model learns most of the very images that it is asked about, and an image
that was learned looks more normal than a new one. So take the order, not the p-value, and look from the top until
nothing odd comes. So that rubbish does not become normal, the --suspect-share strangest of each part are not learned
and not compared with, which flags more than alpha of the good ones. What is there many times is normal.

A label is doubted where an image is likelier under another label's model, which has never seen it, and its p-value
--doubt (10) times that under its own: that takes a few hundred images a label, and minutes for each. Models see pixels,
not meaning: the report is a list for people to look at, not for a script to delete.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from folder_models import models_of
from odd_images_report import write_report
from odd_images_verdicts import Judged, Scored, judged, usual_of
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from app.scoring.schemas import FailedImage
from snf_client import Client, ClientError
from snf_client.image_files import images_in


def main() -> None:
    """Runs the program."""
    asked = arguments()
    labels = labels_of(asked.folder, asked.labels)
    with Client() as client:
        with Progress() as progress:
            models = models_by_label(client, asked, sorted(set(labels.values())), progress)
            scores = {
                label: scored(client, model, list(labels), asked.alpha, progress) for label, model in models.items()
            }
        usual = usual_of(labels, scores)
        verdicts = (judged(path, label, scores, usual, asked.doubt) for path, label in labels.items())
        found = [one for one in verdicts if one is not None]
        found.sort(key=lambda one: (one.doubt, one.strangeness), reverse=True)
        doubted = [one for one in found if one.looks_like is not None][: asked.top]
        strangest = [one for one in found if one.looks_like is None][: asked.top]
        write_report(
            asked.report,
            client,
            asked.folder,
            models,
            trained=asked.model is None,
            doubted=doubted,
            strangest=strangest,
            failed={path: bad for path, label in labels.items() if isinstance(bad := scores[label][path], FailedImage)},
            count=len(labels),
        )
    console = Console()
    if doubted:
        console.print(table("Perhaps under the wrong label", asked.folder, doubted[:20]))
    console.print(table("The strangest", asked.folder, strangest[:20]))
    console.print(f"report: {asked.report}", markup=False)


def labels_of(folder: Path, subfolders: bool) -> dict[Path, str]:
    """The label of every image: its subfolder, or nothing. Raises `ValueError` where an image has none to have."""
    found = {path: path.relative_to(folder).parts[0] if subfolders else "" for path in images_in(folder)}
    if not found:
        raise ValueError(f"{folder} has no images")
    if loose := [path for path in found if subfolders and path.parent == folder]:
        raise ValueError(f"with --labels every image lies in a subfolder, {loose[0].name} does not")
    return found


def models_by_label(client: Client, asked: argparse.Namespace, labels: list[str], progress: Progress) -> dict[str, str]:
    """The model that was named, or one for each label, trained where it is not there yet."""
    if asked.model is not None:
        return {"": asked.model}
    parameters = {"max_minutes": asked.max_minutes, "max_steps": asked.max_steps, "suspect_share": asked.suspect_share}
    folders = [asked.folder / label for label in labels]
    return dict(zip(labels, models_of(client, folders, asked.preset, parameters, progress), strict=True))


def scored(client: Client, model: str, images: list[Path], alpha: float | None, progress: Progress) -> Scored:
    """The results of all images under a model."""
    results = client.score_each(model, images, alpha=alpha)
    return dict(zip(images, progress.track(results, total=len(images), description=f"score with {model}"), strict=True))


def table(title: str, folder: Path, images: list[Judged]) -> Table:
    """Images for the terminal."""
    found = Table("#", "file", "looks like", "p-value", "log-likelihood", "why", title=title)
    for place, one in enumerate(images, 1):
        verdict, name = one.own.anomaly, str(one.path.relative_to(folder))
        found.add_row(
            str(place),
            escape(name),
            escape(one.looks_like or ""),
            f"{verdict.p_value:.4f}",
            f"{one.own.log_likelihood:.1f}",
            escape(one.reasons[0] if one.reasons else ""),
        )
    return found


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--model", help="score with this model, train none")
    how.add_argument("--labels", action="store_true", help="subfolders are labels")
    parser.add_argument("--preset", default="snf-glow-small")
    parser.add_argument("--max-minutes", type=float, default=5.0, help="most minutes of each training (%(default)s)")
    parser.add_argument("--max-steps", type=int, default=2000, help="most steps of each training (%(default)s)")
    parser.add_argument("--suspect-share", type=float, default=0.05, help="images that may be odd (%(default)s)")
    parser.add_argument("--doubt", type=float, default=10.0, help="ratio of p-values that doubts a label (%(default)s)")
    parser.add_argument("--alpha", type=float, help="false-alarm rate (0.01, or the smallest that can be)")
    parser.add_argument("--top", type=int, default=50, help="images in each part of the report (%(default)s)")
    parser.add_argument("--report", type=Path, default=Path("odd.html"), help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"odd_images: {error}")
