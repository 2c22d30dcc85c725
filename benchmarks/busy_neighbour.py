"""Short trainings beside busy processes: ``python -m benchmarks.busy_neighbour [--neighbours 0 1 2] [--rounds 3]``.

Processes with different settings of their OpenMP threads train the same flow in turns, alone on the machine and beside
processes that never wait. ``former`` has threads that spin, as the product had; ``default`` is what the product does
now: a comparison before each training chooses the number of threads. ``earlier choice`` keeps the number of its first
training, as if the neighbours came later. Printed are medians of the milliseconds of a step, and those of the default
as a multiple of the best of the settings and of the former.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from benchmarks.common import parser_of
from benchmarks.speed.pairing import Turn, in_turns
from snf_worker.process_setup import tune_process

SETTINGS = {
    "former": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "earlier choice": {},
    "default": {},
}
ENDLESS = "while True: pass"


def train_when_asked(name: str, preset: str, side: int, seconds: float) -> None:
    """Train for some seconds for each line of standard input, and print the milliseconds of a step."""
    chooses = name in {"earlier choice", "default"}
    if chooses:
        tune_process()
    import torch  # noqa: PLC0415 - it reads the settings

    from benchmarks.speed.train import training  # noqa: PLC0415
    from snf_models.errors import Interrupted  # noqa: PLC0415
    from snf_models.pipeline.loop import choose_threads  # noqa: PLC0415
    from snf_models.pipeline.presets import find_preset  # noqa: PLC0415
    from snf_models.threads import torch_threads  # noqa: PLC0415

    recipe = find_preset(preset)
    config = recipe.config({"max_steps": 100_000, "pixel_transform": "affine"})
    architecture = recipe.architecture((1, side, side), "affine")
    count = None if chooses else torch.get_num_threads()
    for _ in sys.stdin:
        with training(architecture, config) as trainer:
            if count is None or name == "default":
                count = choose_threads(trainer.dataset, architecture, config, time.perf_counter)
            ended = partial(lambda end: time.perf_counter() > end, time.perf_counter() + seconds)
            with suppress(Interrupted), torch_threads(count):
                trainer.take_steps(ended)
            print(1000 * trainer.state.elapsed_seconds / trainer.state.step, flush=True)


@contextmanager
def trainer_process(name: str, options: Sequence[str]) -> Iterator[Turn]:
    """Yield the turn of a process with the settings of this name, which waits between its turns."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.busy_neighbour", *options, "--train", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables | SETTINGS[name]
    ) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None
        assert answers is not None

        def turn() -> float:
            print(file=asks, flush=True)
            return float(answers.readline())

        yield turn
        asks.close()


def main() -> None:
    """Measure and print."""
    parser = parser_of("busy_neighbour", __doc__)
    parser.add_argument("--preset", default="snf-glow-tiny")
    parser.add_argument("--side", type=int, default=28, help="side of the images")
    parser.add_argument("--seconds", type=float, default=8, help="duration of each training")
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", choices=SETTINGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_when_asked(arguments.train, arguments.preset, arguments.side, arguments.seconds)
        return
    options = ["--preset", arguments.preset, "--side", str(arguments.side), "--seconds", str(arguments.seconds)]
    with ExitStack() as processes:
        turns = {name: processes.enter_context(trainer_process(name, options)) for name in SETTINGS}
        for count in arguments.neighbours:
            with ExitStack() as neighbours:
                for _ in range(count):
                    neighbour = neighbours.enter_context(subprocess.Popen([sys.executable, "-c", ENDLESS]))
                    neighbours.callback(neighbour.kill)
                ms = {name: statistics.median(took) for name, took in in_turns(turns, arguments.rounds).items()}
            best = min(value for name, value in ms.items() if name != "default")
            print(
                f"{count} busy neighbours: {', '.join(f'{name} {value:.1f} ms' for name, value in ms.items())}; "
                f"default is {ms['default'] / best:.2f} of the best, "
                f"{ms['default'] / ms['former']:.2f} of the former",
                flush=True,
            )


if __name__ == "__main__":
    main()
