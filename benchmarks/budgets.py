"""Trainings with a budget in minutes: ``python -m benchmarks.budgets --data FOLDER [--rows GLOB] [--add]``.

A real installation runs, with broker, worker and service. Each row is a training job of one preset on one dataset, with
``max_minutes`` alone: the time from its start to ``succeeded``, the share of validations in the training time, and the
images that calibrated and tested the model. Progress is read once a second: it must rise and must not say that the job
is done before it is. The machine should do nothing else. ``--add`` keeps earlier rows that are not measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.installation import PatientClient, machine, snf_up
from benchmarks.needs import with_files
from models.atomic_files import write_atomically

RESULTS = Path(__file__).parent / "results"
PRESETS = ("snf-glow-tiny", "snf-glow-small", "snf-fc-2l")
DATASETS = {"mnist": "28x28, grey", "cifar10": "32x32, colour"}
LONG = ("snf-glow-small", "cifar10", 10.0)
ROWS = [(preset, data, minutes) for minutes in (1.0, 3.0) for preset in PRESETS for data in DATASETS] + [LONG]
TOLERANCE = 0.15
HEADINGS = ("row", "minutes", "took s", "off", "steps", "validation", "calibrated", "tested", "last eta s", "bits/dim")


def name_of(row: tuple[str, str, float]) -> str:
    """Return the name of a row, by which it is chosen."""
    preset, data, minutes = row
    return f"{preset} {data} {minutes:g}"


def run(client: PatientClient, row: tuple[str, str, float]) -> dict[str, Any]:
    """Submit the training of a row, follow it to its end and return its figures."""
    preset, data, minutes = row
    request = {"type": "train", "dataset": data, "preset": preset, "model": f"{data}-{preset}-{minutes:g}"}
    job = client.submit(request | {"parameters": {"max_minutes": minutes}}, name_of(row))
    seen: list[dict[str, Any]] = []
    while (document := client.document(f"/v1/jobs/{job}"))["status"] not in {"succeeded", "failed"}:
        if document["progress"].get("fraction") is not None:
            seen.append(document["progress"])
        time.sleep(1)
    if document["status"] == "failed":
        raise RuntimeError(f"{name_of(row)}: {document['error']}")
    started, finished = (datetime.fromisoformat(document[key]) for key in ("started_at", "finished_at"))
    seconds = (finished - started).total_seconds()
    fractions = [progress["fraction"] for progress in seen]
    manifest = client.document(f"/v1/models/{document['result']['ref']}")["manifest"]
    training, evaluation = manifest["training"], manifest["evaluation"]
    return {
        "row": name_of(row),
        "minutes": minutes,
        "seconds": seconds,
        "off": seconds / (60 * minutes) - 1,
        "steps": training["steps"],
        "training_seconds": training["seconds"],
        "validation_share": training["validation_seconds"] / training["seconds"],
        "calibration_images": manifest["calibration"]["calibration_images"],
        "test_images": evaluation["test_images"],
        "progress_rises": fractions == sorted(fractions),
        "done_too_early": sum(fraction >= 0.995 for fraction in fractions[:-3]),
        "eta_in_the_middle": next((p["eta_seconds"] for p in seen if p["fraction"] >= 0.5), None),
        "last_eta": seen[-1]["eta_seconds"],
        "bits_per_dim": evaluation["test_bits_per_dim"],
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table for a terminal."""
    drawn = Table(*HEADINGS)
    for row in rows:
        drawn.add_row(*cells(row))
    return drawn


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row as text, in the order of the headings."""
    return [
        row["row"],
        f"{row['minutes']:g}",
        f"{row['seconds']:.1f}",
        f"{100 * row['off']:+.1f} %",
        str(row["steps"]),
        f"{100 * row['validation_share']:.1f} %",
        str(row["calibration_images"]),
        str(row["test_images"]),
        f"{row['last_eta']:.0f}",
        f"{row['bits_per_dim']:.3f}",
    ]


def report(document: dict[str, Any]) -> str:
    """Return the results as a page in Markdown."""
    rows = document["rows"]
    within = sum(abs(row["off"]) <= TOLERANCE for row in rows)
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    said = (
        f"# Budgets in minutes\n\n`python -m benchmarks.budgets`: {within} of {len(rows)} trainings took the time "
        f"asked for, within {TOLERANCE:.0%}, from their start to the registered model. Largest share of validations in "
        f"the training time: {max(row['validation_share'] for row in rows):.1%}. Progress rose all the time in "
        f"{sum(row['progress_rises'] for row in rows)} and said 'done' too early in "
        f"{sum(row['done_too_early'] > 0 for row in rows)}. {document['machine']['cpu']}, "
        f"{document['machine']['cores']} cores.\n\n"
    )
    return said + "\n".join(lines) + "\n"


def main() -> None:
    """Run the chosen rows one after the other and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz and cifar10.npz")
    parser.add_argument("--rows", default="*", help="glob of rows, for instance 'snf-glow-tiny * 1'")
    parser.add_argument("--add", action="store_true")
    arguments = parser.parse_args()
    with_files(arguments.data, "mnist", "cifar10")
    path = RESULTS / "budgets.json"
    earlier = json.loads(path.read_text())["rows"] if arguments.add and path.is_file() else []
    measured = {row["row"]: row for row in earlier}
    document: dict[str, Any] = {"machine": machine()}
    chosen = [row for row in ROWS if fnmatch.fnmatch(name_of(row), arguments.rows)]
    with tempfile.TemporaryDirectory() as home, snf_up(Path(home), data_dir=arguments.data.resolve()) as client:
        for row in chosen:
            measured[name_of(row)] = run(client, row)
            document["rows"] = [measured[name_of(known)] for known in ROWS if name_of(known) in measured]
            write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
            write_atomically(RESULTS / "budgets.md", report(document).encode())
            Console(width=140).print(table([measured[name_of(row)]]))


if __name__ == "__main__":
    main()
