"""Files against pixels: ``python -m benchmarks.score_files --data FOLDER [--images 10000] [--rounds 3] [--quick]``.

``FOLDER`` holds ``mnist.npz``; its test images become PNG files, ten folders of them, and one array. The sides take
turns, each a process of its own with the same settings, scoring with ``mnist-snf-glow``:

- the scorer alone: ``score_each`` and ``anomalies`` on the array, decoded and in memory, in batches of 32;
- ``snf score FOLDER --json`` in process;
- ``snf score FOLDER --out FILE`` in process;
- ``snf score FOLDER --json --url``, of a service that runs on the same cores and waits while others have their turn.

Every side scores all images and, in a process before it, the first few alone; images a second are those of the
difference. So the start of Python, the model's load and the first answer are in no side's figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.installation import PatientClient, machine, running
from benchmarks.needs import data_dir, with_files
from benchmarks.speed.pairing import Ratio, Target, in_turns, ratio
from snf_runtime.images.codec import encode_png
from tests.end_to_end.support.service import environment, free_port
from tests.support.paths import ROOT

RESULTS = Path(__file__).parent / "results"
MODEL = "mnist-snf-glow"
BATCH = 32
FEW = 64
FOLDERS = 10
QUICK = 1000
BARE = "the scorer alone, decoded pixels"
TARGETS = {
    "snf score FOLDER --json": Target(low=0.9),
    "snf score FOLDER --out": Target(low=0.9),
    "snf score FOLDER --json --url": Target(low=0.8),
}
"""What part of the scorer's images a second each should have."""


def score_pixels(array: Path) -> None:
    """Score an array of ``(N, H, W)`` as a bare loop does; what one turn of the first side runs."""
    from snf_models.registry.registry import Registry  # noqa: PLC0415 - the other sides need none of it
    from snf_models.scorer import load_model  # noqa: PLC0415
    from snf_models.threads import one_blas_thread  # noqa: PLC0415
    from snf_worker.settings import load_settings  # noqa: PLC0415

    one_blas_thread()
    pixels, options = np.load(array)[:, None], load_settings().engine_options
    version = Registry(Path("none")).resolve(MODEL)
    scorer = load_model(version.path, version.calibration_path, options)
    for start in range(0, len(pixels), BATCH):
        scorer.verdicts(scorer.score(pixels[start : start + BATCH]))


class Sides:
    """The files and the commands that score them."""

    def __init__(self, home: Path, images: np.ndarray[Any, np.dtype[np.uint8]], url: str) -> None:
        self._home = home
        self._count = len(images)
        self._url = url
        for name, part in (("all", images), ("few", images[:FEW])):
            for index, image in enumerate(part):
                folder = home / name / str(index * FOLDERS // len(part))
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{index:05d}.png").write_bytes(encode_png(image[None]))
            np.save(home / f"{name}.npy", part)

    def turns(self) -> dict[str, Callable[[], float]]:
        """Return what gives the seconds an image of each side."""
        snf = ["-m", "snf_app.cli.main", "score", "-m", MODEL]
        commands: dict[str, Callable[[str], list[str]]] = {
            BARE: lambda name: ["-m", "benchmarks.score_files", "--pixels", str(self._home / f"{name}.npy")],
            "snf score FOLDER --json": lambda name: [*snf, str(self._home / name), "--json"],
            "snf score FOLDER --out": lambda name: [
                *snf,
                str(self._home / name),
                "--out",
                str(self._home / f"{name}.parquet"),
            ],
            "snf score FOLDER --json --url": lambda name: [*snf, str(self._home / name), "--json", "--url", self._url],
        }
        return {name: partial(self._turn, command) for name, command in commands.items()}

    def _turn(self, command: Callable[[str], list[str]]) -> float:
        few, everything = self._seconds(command("few")), self._seconds(command("all"))
        if everything <= few:
            raise RuntimeError(f"{everything:.1f} s for all images, {few:.1f} s for {FEW}: the machine is too busy")
        return (everything - few) / (self._count - FEW)

    def _seconds(self, arguments: list[str]) -> float:
        began = time.perf_counter()
        with (self._home / "stdout").open("wb") as output:
            subprocess.run(
                [sys.executable, *arguments], cwd=ROOT, env=environment(self._home), stdout=output, check=True
            )
        return time.perf_counter() - began


def measure(images: np.ndarray[Any, np.dtype[np.uint8]], rounds: int) -> dict[str, Any]:
    """Return images a second of each side, and of each the part of the scorer's."""
    with tempfile.TemporaryDirectory(prefix="snf-files-") as folder:
        home, port = Path(folder), free_port()
        with running("snf_app.server", home=home, port=port) as service, PatientClient(port) as client:
            client.await_ready(service)
            sides = Sides(home, images, f"http://127.0.0.1:{port}")
            seconds = in_turns(sides.turns(), rounds)
    parts: dict[str, Ratio] = {name: ratio(seconds[BARE], seconds[name]) for name in TARGETS}
    return {
        "images_per_second": {name: [1 / one for one in found] for name, found in seconds.items()},
        "part_of_the_scorer": {name: one.document() for name, one in parts.items()},
        "met": {name: TARGETS[name].met(one.median) for name, one in parts.items()},
    }


def text_of(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    described = found["machine"]
    lines = [
        f"# {found['images']} PNG files, {MODEL}",
        "",
        f"{described['cpu']}, {described['cores']} cores, load before {described['load_before']:.2f}. Median, least "
        f"and greatest of {found['rounds']} rounds in which the sides take turns. The start of Python and the model's "
        f"load are in no figure: a run of {FEW} images is taken away from one of all.",
        "",
        "| side | images/s | of the scorer alone | least | greatest | target | met |",
        "|---|---|---|---|---|---|---|",
        f"| {BARE} | {np.median(found['images_per_second'][BARE]):.0f} | | | | | |",
    ]
    for name, target in TARGETS.items():
        rate, part = np.median(found["images_per_second"][name]), found["part_of_the_scorer"][name]
        numbers = f"{part['median']:.3f} | {part['least']:.3f} | {part['greatest']:.3f}"
        met = "yes" if found["met"][name] else "**no**"
        lines.append(f"| `{name}` | {rate:.0f} | {numbers} | {target} | {met} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write ``score_files.json`` and ``score_files.md``; ``--quick`` prints them alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of mnist.npz, by default SNF_DATA_DIR")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} images, one round, nothing is written: shows that it runs"
    )
    parser.add_argument("--pixels", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.pixels is not None:
        score_pixels(arguments.pixels)
        return
    folder = data_dir("mnist") if arguments.data is None else with_files(arguments.data, "mnist")
    count, rounds = (QUICK, 1) if arguments.quick else (arguments.images, arguments.rounds)
    with np.load(folder / "mnist.npz", allow_pickle=False) as arrays:
        images = arrays["x_test"][:count]
    found: dict[str, Any] = {"machine": machine(), "images": len(images), "rounds": rounds, **measure(images, rounds)}
    if not arguments.quick:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "score_files.json").write_text(json.dumps(found, indent=1) + "\n")
        (arguments.out / "score_files.md").write_text(text_of(found))
    print(text_of(found))


if __name__ == "__main__":
    main()
