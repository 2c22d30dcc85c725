"""Find the odd images of a folder and, with --labels, those in the wrong subfolder.

    python examples/odd_images.py photos                             # trains on photos, ranks photos
    python examples/odd_images.py digits --labels --max-minutes 3    # digits/1, digits/4, digits/7: one model each
    python examples/odd_images.py new-lot --model my-parts           # with a model of images that are known to be good

The program prints a table of the strangest images and writes a report, one HTML file. SNF_URL and SNF_API_KEY are the
address and the key of the service.

How to read the report. A p-value is valid for an image that the model was not trained on: with --model, at most alpha
of all good images are flagged. Without --model, the model is trained on most of the images that it scores, which makes
them look more normal than new ones. Use the order then, not the p-values: look from the top until nothing odd comes.
The --suspect-share strangest images are left out of the training and the calibration, so that odd images do not become
normal; more than alpha of the good images are flagged for that. Images that occur often are normal.

A label is doubted if the image is likelier under the model of another label, which was not trained on it, and its
p-value there is --doubt (10) times its own. This takes a few hundred images for each label, and minutes of training for
each. Models compare pixels, not meanings: let a person look at the report, do not delete by a script.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from folder_models import models_of
from odd_images_report import write_report
from odd_images_verdicts import Results, Verdict, typical_evidence, verdict_on
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from snf_client import Client, ClientError
from snf_client.images import images_in
from snf_client.schemas.scores import FailedImage


def main() -> None:
    """Run the program."""
    options = arguments()
    labels = labels_of(options.folder, options.labels)
    with Client() as client:
        with Progress() as progress:
            models = models_by_label(client, options, sorted(set(labels.values())), progress)
            scores = {
                label: scored(client, model, list(labels), options.alpha, progress) for label, model in models.items()
            }
        typical = typical_evidence(labels, scores)
        all_verdicts = (verdict_on(path, label, scores, typical, options.doubt) for path, label in labels.items())
        verdicts = [verdict for verdict in all_verdicts if verdict is not None]
        verdicts.sort(key=lambda verdict: (verdict.doubt, verdict.strangeness), reverse=True)
        doubted = [verdict for verdict in verdicts if verdict.looks_like is not None][: options.top]
        strangest = [verdict for verdict in verdicts if verdict.looks_like is None][: options.top]
        write_report(
            options.report,
            client,
            options.folder,
            models,
            trained=options.model is None,
            doubted=doubted,
            strangest=strangest,
            failed={path: bad for path, label in labels.items() if isinstance(bad := scores[label][path], FailedImage)},
            count=len(labels),
        )
    console = Console()
    if doubted:
        console.print(table("Perhaps under the wrong label", options.folder, doubted[:20]))
    console.print(table("The strangest", options.folder, strangest[:20]))
    console.print(f"report: {options.report}", markup=False)


def labels_of(folder: Path, subfolders: bool) -> dict[Path, str]:
    """Return the label of every image: the name of its subfolder, or an empty one without --labels.

    Raises:
        ValueError: If there is no image, or an image is in no subfolder.
    """
    labels = {path: path.relative_to(folder).parts[0] if subfolders else "" for path in images_in(folder)}
    if not labels:
        raise ValueError(f"{folder} has no images")
    if loose := [path for path in labels if subfolders and path.parent == folder]:
        raise ValueError(f"expected every image in a subfolder with --labels, {loose[0].name} is in none")
    return labels


def models_by_label(
    client: Client, options: argparse.Namespace, labels: list[str], progress: Progress
) -> dict[str, str]:
    """Return a model for each label: the named one, or one that is trained unless it exists."""
    if options.model is not None:
        return {"": options.model}
    parameters: dict[str, Any] = {
        "max_minutes": options.max_minutes,
        "max_steps": options.max_steps,
        "suspect_share": options.suspect_share,
    }
    folders = [options.folder / label for label in labels]
    return dict(zip(labels, models_of(client, folders, options.preset, parameters, progress), strict=True))


def scored(client: Client, model: str, images: list[Path], alpha: float | None, progress: Progress) -> Results:
    """Score all images with a model."""
    results = client.score_each(model, images, alpha=alpha)
    return dict(zip(images, progress.track(results, total=len(images), description=f"score with {model}"), strict=True))


def table(title: str, folder: Path, verdicts: list[Verdict]) -> Table:
    """Return a table of verdicts for the terminal."""
    rows = Table("#", "file", "looks like", "p-value", "log-likelihood", "why", title=title)
    for place, verdict in enumerate(verdicts, 1):
        rows.add_row(
            str(place),
            escape(str(verdict.path.relative_to(folder))),
            escape(verdict.looks_like or ""),
            f"{verdict.own.anomaly.p_value:.4f}",
            f"{verdict.own.log_likelihood:.1f}",
            escape(verdict.reasons[0] if verdict.reasons else ""),
        )
    return rows


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--model", help="score with this model instead of training")
    how.add_argument("--labels", action="store_true", help="subfolders are labels")
    parser.add_argument("--preset", default="snf-glow-small")
    parser.add_argument("--max-minutes", type=float, default=5.0, help="minutes of each training at most (%(default)s)")
    parser.add_argument("--max-steps", type=int, default=2000, help="steps of each training at most (%(default)s)")
    parser.add_argument(
        "--suspect-share", type=float, default=0.05, help="share of the images that may be odd (%(default)s)"
    )
    parser.add_argument(
        "--doubt", type=float, default=10.0, help="ratio of p-values from which a label is doubted (%(default)s)"
    )
    parser.add_argument("--alpha", type=float, help="false-alarm rate (0.01, or the smallest possible)")
    parser.add_argument("--top", type=int, default=50, help="images in each part of the report (%(default)s)")
    parser.add_argument("--report", type=Path, help="(beside FOLDER: FOLDER-odd.html)")
    options = parser.parse_args()
    options.report = options.report or Path(f"{options.folder.resolve()}-odd.html")
    return options


if __name__ == "__main__":
    try:
        main()
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"odd_images: {error}")
